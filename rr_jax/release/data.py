"""What the forget adapter learns from: what the model revealed, or the true data.

The only place of a run where true forget data comes in. Knows tasks and examples; never adapters or losses.
"""

import dataclasses
from collections.abc import Callable, Sequence

from rr_jax.data.packing import Example
from rr_jax.release.pairing import training_examples
from rr_jax.tasks.base import Revealed, Task


@dataclasses.dataclass(frozen=True)
class Request:
    """What a source of forget data may look at.

    Attributes:
      task: the target.
      revealed: what the model disclosed; empty for a source that needs none.
      pairing: the prompt that revealed text is trained under.
      pairing_seed: of the draw of prompts.
      count: examples of true data at most.
      seed: of the run.
    """

    task: Task
    revealed: Sequence[Revealed]
    pairing: str
    pairing_seed: int
    count: int
    seed: int


@dataclasses.dataclass(frozen=True)
class ForgetData:
    """One source of forget data.

    Attributes:
      reveals: whether rounds begin with a reveal stage.
      examples: the training examples.
      title: what a report calls it.
    """

    reveals: bool
    examples: Callable[[Request], list[Example]]
    title: str


def _revealed(request: Request) -> list[Example]:
    return training_examples(request.task, request.revealed, request.pairing, request.pairing_seed)


def _true(request: Request) -> list[Example]:
    why = f"task {request.task.name} has none (its true_examples gives none)"
    try:
        found = request.task.true_examples(request.count, request.seed)
    except ValueError as error:
        found, why = None, str(error)
    if not found:
        raise ValueError(f"release.data is 'true', which needs the data to forget: {why}")
    return found


FORGET_DATA: dict[str, ForgetData] = {
    "revealed": ForgetData(True, _revealed, "what the model revealed"),
    "true": ForgetData(False, _true, "the true forget data"),
}
