"""The arms the search may pull: instruction texts, and soft prompts from points of a low-dimensional cube.

A soft prompt is a fixed random projection of a Sobol point (INSTINCT, Lin et al., ICML 2024; `run_neural_bandits.py` in
xqlin98/INSTINCT). This module must never know how an arm is scored, or run a model: it makes candidates.
"""

import itertools
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

Scaling = Literal["embedding", "instinct"]


@dataclass(frozen=True)
class Arm:
    """Describes one candidate prompt.

    Attributes:
      index: its index in the pool.
      kind: "text", an instruction; "soft", a soft prompt followed by a text; or "written", an instruction that a model
        wrote after a soft prompt.
      text: the instruction, or the stem that follows the soft prompt; may be empty.
      soft: row of the soft-prompt array, None for a text arm.
      stem: what followed the soft prompt, also where an instruction was written after it.
    """

    index: int
    kind: Literal["text", "soft", "written"]
    text: str
    soft: int | None
    stem: str = ""


def build_arms(instructions: Sequence[str], stems: Sequence[str], num_soft: int) -> list[Arm]:
    """Returns the pool: one text arm an instruction, in order, then `num_soft` soft arms, number j with stem j %
    len(stems).

    Raises:
      ValueError: an empty pool, soft arms without a stem, a negative count, or an instruction given twice.
    """
    if num_soft < 0:
        raise ValueError(f"num_soft is {num_soft}, expected 0 or more")
    if num_soft and not stems:
        raise ValueError(f"{num_soft} soft arms have no stem to precede, expected at least one stem")
    if not instructions and not num_soft:
        raise ValueError("the pool has no arms, expected an instruction or num_soft above 0")
    for index, text in enumerate(instructions):
        if text in instructions[:index]:
            raise ValueError(f"instruction {index} repeats an earlier one: {text!r}")
    texts = [Arm(index, "text", text, None) for index, text in enumerate(instructions)]
    soft = [(stems[j % len(stems)], j) for j in range(num_soft)]
    return texts + [Arm(len(texts) + j, "soft", stem, j, stem) for stem, j in soft]


def read_instructions(path: str) -> list[str]:
    """Returns the lines of a file that are not blank, each an instruction.

    Raises:
      ValueError: the file cannot be read, or has none.
    """
    try:
        lines = [line.strip() for line in Path(path).expanduser().read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"reveal.arms.texts: {path} cannot be read ({error})") from error
    if not any(lines):
        raise ValueError(f"reveal.arms.texts: {path} holds no instruction, expected one a line")
    return [line for line in lines if line]


def expand_templates(templates: Sequence[str], slots: Mapping[str, Sequence[str]]) -> list[str]:
    """Fills the {slots} of every template in every way: "{a} or {b}" with two values each is four texts.

    Raises:
      ValueError: a template is malformed or names a slot that has no values.
    """
    expanded = []
    for template in templates:
        try:
            names = list(
                dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)
            )
        except ValueError as error:
            raise ValueError(f"reveal.arms.templates: {template!r} is not a template ({error})") from error
        for name in names:
            if not slots.get(name):
                raise ValueError(
                    f"reveal.arms.templates: {template!r} has a slot {name!r}, but reveal.arms.slots no values"
                )
        for values in itertools.product(*(slots[name] for name in names)):
            expanded.append(template.format(**dict(zip(names, values, strict=True))))
    return expanded


def sobol_points(n: int, dim: int, seed: int) -> np.ndarray:
    """Returns the first n points of a scrambled Sobol sequence, [n, dim] float32 in [0, 1]; balanced when n is a power
    of two.

    Equivalent in kind to `torch.quasirandom.SobolEngine`, which INSTINCT uses, not equal to it.

    Raises:
      ValueError: n below 1, or dim outside what SciPy tabulates (1 to 21,201).
    """
    if n < 1:
        raise ValueError(f"{n} Sobol points were asked for, expected 1 or more")
    if not 1 <= dim <= qmc.Sobol.MAXDIM:
        raise ValueError(f"a Sobol sequence of dimension {dim} was asked for, expected 1 to {qmc.Sobol.MAXDIM}")
    sampler = qmc.Sobol(dim, scramble=True, seed=np.random.default_rng(seed))
    # A prefix of the next power of two: the same points, and SciPy has no imbalance to warn about.
    return sampler.random_base2((n - 1).bit_length())[:n].astype(np.float32)


def random_projection(key: jax.Array, dim: int, n_tokens: int, embed_dim: int) -> jax.Array:
    """Returns [dim, P, D] float32 with entries from U(-1, 1), as coded in INSTINCT (`random_proj="uniform"`)."""
    return jax.random.uniform(key, (dim, n_tokens, embed_dim), jnp.float32, -1.0, 1.0)


def soft_prompts(
    points: np.ndarray | jax.Array,
    projection: jax.Array,
    embedding_std: jax.Array | float,
    *,
    scale: float = 1.0,
    scaling: Scaling = "embedding",
) -> jax.Array:
    """Returns the soft prompts of n points, [n, P, D] float32.

    "instinct" is `scale` z P, as coded in INSTINCT with scale 1: entries have a standard deviation of sqrt(d) / 3, tens
    of times that of token embeddings, and three quarters of their variance is the projection of the cube's centre,
    which all prompts share. "embedding" is `scale` embedding_std (z - 1/2) P 6 / sqrt(d): nothing shared, and entries
    have the standard deviation of the model's own token embeddings, times `scale`, because
    Var[(z - 1/2) P] = d (1/12) (1/3).

    Args:
      points: [n, d] in [0, 1].
      projection: [d, P, D] from `random_projection`.
      embedding_std: standard deviation of the entries of the embedding table, `jnp.std(params["embed"])`; "instinct"
        does not look at it.
      scale: multiplier.
      scaling: "embedding" or "instinct".

    Raises:
      ValueError: points and projection of different d, or an unknown scaling.
    """
    if points.ndim != 2 or projection.ndim != 3 or points.shape[1] != projection.shape[0]:
        raise ValueError(f"points {points.shape} and projection {projection.shape} do not match (n, d) and (d, P, D)")
    points = jnp.asarray(points, jnp.float32)
    if scaling == "embedding":
        points = (points - 0.5) * (6.0 / points.shape[1] ** 0.5) * embedding_std
    elif scaling != "instinct":
        raise ValueError(f"scaling is {scaling!r}, expected one of {', '.join(get_args(Scaling))}")
    return scale * jnp.einsum("nd,dpe->npe", points, projection, precision=jax.lax.Precision.HIGHEST)
