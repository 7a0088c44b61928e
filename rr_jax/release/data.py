"""What the forget adapter learns from: what the model revealed, or the true data.

A source is found by name or as a plug-in. This is the only place of a run where true forget data
comes in. Knows tasks and examples; never adapters or losses.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from rr_jax.data.packing import Example
from rr_jax.registry import Registry, function_of
from rr_jax.release.pairing import training_examples
from rr_jax.tasks.base import Revealed, Task


@dataclasses.dataclass(frozen=True)
class Request:
    """Holds what a source of forget data may look at.

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
    """Describes one source of forget data.

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


def _source(found: Any) -> ForgetData:
    """Takes a plain function of a request for a source that needs nothing revealed."""
    if isinstance(found, ForgetData):
        return found
    if isinstance(found, type):
        raise ValueError("is a class, expected a rr_jax.release.ForgetData or a function (request)")
    function = function_of("request")(found)
    return ForgetData(False, function, f"the examples of {getattr(function, '__name__', repr(function))}")


REVEALED = ForgetData(True, _revealed, "what the model revealed")
TRUE = ForgetData(False, _true, "the true forget data")
FORGET_DATA: Registry[ForgetData] = Registry(
    "data", {"revealed": f"{__name__}:REVEALED", "true": f"{__name__}:TRUE"}, adapt=_source
)
