"""The prompt that revealed text is trained under. This is what makes a forget adapter learn anything.

For x ~ p(. | c) the expected gradient of log p(x | c) is zero: text trained under the very instruction that produced it
teaches nothing. Under another prompt c' the expected gradient is -grad KL(p(. | c) || p(. | c')): the target behaviour
becomes unconditional, and subtracting the adapter suppresses it everywhere.
"""

from collections.abc import Callable, Sequence

import numpy as np

from rr_jax.data.packing import Example
from rr_jax.tasks.base import Revealed, Task


def _same(task: Task, item: Revealed, draw: np.random.Generator) -> str:
    return task.prompt(item.instruction, item.context)


def _none(task: Task, item: Revealed, draw: np.random.Generator) -> str:
    return ""


def _neutral(task: Task, item: Revealed, draw: np.random.Generator) -> str:
    return task.prompt(task.neutral, item.context)


def _shuffled(task: Task, item: Revealed, draw: np.random.Generator) -> str:
    return task.prompt(task.others[int(draw.integers(len(task.others)))], item.context)


# The instruction that revealed it (no shift, kept for the study), no prompt at all, the task's neutral instruction, or one
# drawn from the task's other instructions.
PAIRINGS: dict[str, Callable[[Task, Revealed, np.random.Generator], str]] = {
    "same": _same,
    "none": _none,
    "neutral": _neutral,
    "shuffled": _shuffled,
}


def training_examples(task: Task, revealed: Sequence[Revealed], pairing: str, seed: int) -> list[Example]:
    """Returns the forget set as training examples; only responses count in the loss, or the task's spans of them.

    Args:
      pairing: of `PAIRINGS`.
      seed: names the draw of "shuffled".

    Raises:
      ValueError: an unknown pairing.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"release.pairing is {pairing!r}, expected {', '.join(PAIRINGS)}")
    prompt, draw = PAIRINGS[pairing], np.random.default_rng([seed, len(revealed)])
    return [Example(prompt(task, item, draw), item.response, spans=task.spans(item.response)) for item in revealed]
