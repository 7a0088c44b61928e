"""The prompt that revealed text is trained under. This is what makes a forget adapter learn anything.

For x ~ p(. | c) the expected gradient of log p(x | c) is zero: text trained under the very instruction that produced it
teaches nothing. Under another prompt c' the expected gradient is -grad KL(p(. | c) || p(. | c')): the target behaviour
becomes unconditional, and subtracting the adapter suppresses it everywhere.
"""

from collections.abc import Sequence

import numpy as np

from rr_jax.data.packing import Example
from rr_jax.tasks.base import Revealed, Task


def training_examples(task: Task, revealed: Sequence[Revealed], pairing: str, seed: int) -> list[Example]:
    """Returns the forget set as training examples; only responses count in the loss, or the task's spans of them.

    Args:
      pairing: "same" (the instruction that revealed it: no shift, kept for the study), "none" (no prompt at all),
        "neutral" (the task's neutral instruction) or "shuffled" (a random one of the task's other instructions).
      seed: names the draw of "shuffled".
    """
    draw = np.random.default_rng([seed, len(revealed)])
    others = list(task.others)
    examples = []
    for item in revealed:
        if pairing == "none":
            prompt = ""
        elif pairing == "same":
            prompt = task.prompt(item.instruction, item.context)
        elif pairing == "neutral":
            prompt = task.prompt(task.neutral, item.context)
        elif pairing == "shuffled":
            prompt = task.prompt(others[int(draw.integers(len(others)))], item.context)
        else:
            raise ValueError(f"release.pairing is {pairing!r}, expected same, none, neutral or shuffled")
        examples.append(Example(prompt, item.response, spans=task.spans(item.response)))
    return examples
