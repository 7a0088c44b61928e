"""How alike responses are, which diversity is measured by: `reveal.reward.kernel`, by name.

Knows texts, and what a kernel may look at beside them; never tasks, arms or scores.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rr_jax.evaluate.classifier import embed_texts
from rr_jax.generation.features import last_hidden
from rr_jax.models.encoders.hub import Encoder
from rr_jax.models.hub import LanguageModel
from rr_jax.registry import Registry
from rr_jax.reveal.reward import cosine_kernel


class Beside(NamedTuple):
    """Holds what a kernel may look at beside the texts.

    Attributes:
      lm: the model that is searched.
      center: [D] mean state of the base model's own free texts in that model; zeros unless the kernel looks at states.
      encoder: of `reveal.reward.encoder`; None unless the kernel looks at an encoder.
    """

    lm: LanguageModel
    center: np.ndarray
    encoder: Encoder | None


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Measures one similarity of texts.

    Attributes:
      matrix: of (texts, beside): [N, N], positive semidefinite, 1 on the diagonal.
      looks_at: what it needs beside the texts.
    """

    matrix: Callable[[Sequence[str], Beside], np.ndarray]
    looks_at: Literal["texts", "states", "encoder"] = "texts"


def _hidden(texts: Sequence[str], beside: Beside) -> np.ndarray:
    return cosine_kernel(last_hidden(beside.lm, [text or " " for text in texts]) - beside.center[None, :])


def _encoded(texts: Sequence[str], beside: Beside) -> np.ndarray:
    assert beside.encoder is not None  # a configuration has both or neither
    return cosine_kernel(embed_texts(beside.encoder, list(texts)))


def _kernel(found: Any) -> Kernel:
    """Takes a plain function of texts for a kernel that looks at nothing else."""
    if isinstance(found, Kernel):
        return found
    if not callable(found) or isinstance(found, type):
        raise ValueError(f"is a {type(found).__name__}, expected a {__name__}.Kernel or a function of texts")
    return Kernel(lambda texts, _: found(texts))


HIDDEN = Kernel(_hidden, "states")
ENCODER = Kernel(_encoded, "encoder")
KERNELS: Registry[Kernel] = Registry(
    "kernel",
    {
        "ngram": "rr_jax.reveal.reward:ngram_kernel",
        "hidden": f"{__name__}:HIDDEN",
        "encoder": f"{__name__}:ENCODER",
    },
    adapt=_kernel,
)
