"""The reward of an arm: is what the model disclosed on target, and is it more than one thing said many times?

Relevance in [0, 1] comes from outside (a task's oracle), diversity is the Vendi score of the responses, and the reward
is their weighted harmonic mean. Kernels of texts are made on the host; the scores of kernels are pure functions of
arrays. This module must never know which model answered, which arm asked, or what the target is.

Sources: Vendi score (Friedman and Dieng, TMLR 2023; vertaix/Vendi-Score `vendi.py`, `text_utils.py`). The normalisation
of diversity and the clamps of the harmonic mean are ours.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NGRAM_SIZES = (1, 2, 3, 4)
CLAMP = 1e-6
_WORD = re.compile(r"\w+|[^\w\s]")


class RewardParts(NamedTuple):
    """All in [0, 1]: the harmonic mean, the mean relevance, and the normalised Vendi score."""

    score: float
    relevance: float
    diversity: float


@jax.jit
def vendi_score(kernel: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Effective number of different items, in [1, n]: exp of the entropy of the eigenvalues of kernel / n (order 1).

    A masked-out item is a degenerate one, not an absent one: it stays in n and counts as a repetition, its share 1/n
    going to the largest eigenvalue. Eigenvalues of a principal submatrix interlace, so the spectrum that results
    majorises the one before: masking an item out never raises the score. (Dropping it could: of a, a, a, b without one
    a, the rest is more even.)

    Args:
      kernel: [n, n] similarity, positive semi-definite with a diagonal of ones.
      mask: [n] bool, False where an item is degenerate; None keeps all.

    Raises:
      ValueError: a kernel that is not square, or a mask of another length.
    """
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"the kernel has shape {kernel.shape}, expected (n, n)")
    n = kernel.shape[0]
    kept = _kept(mask, n)
    kernel = jnp.where(kept[:, None] & kept[None, :], kernel.astype(jnp.float32), 0.0)
    return _exp_entropy(jnp.linalg.eigvalsh(kernel / n), 1.0 - jnp.mean(kept, dtype=jnp.float32))


@jax.jit
def vendi_from_features(features: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """`vendi_score` of the cosine kernel of feature rows; when d < n by its d x d dual, which has the same spectrum.

    Args:
      features: [n, d]. A row of zeros has no direction and is degenerate, as if masked out.
      mask: [n] bool as in `vendi_score`.

    Raises:
      ValueError: features that are not two-dimensional, or a mask of another length.
    """
    if features.ndim != 2:
        raise ValueError(f"features have shape {features.shape}, expected (n, d)")
    n, d = features.shape
    features = features.astype(jnp.float32)
    norm = jnp.linalg.norm(features, axis=-1)
    kept = _kept(mask, n) & (norm > 0)
    unit = jnp.where(kept[:, None], features / jnp.where(kept, norm, 1.0)[:, None], 0.0)
    left, right = (unit.T, unit) if d < n else (unit, unit.T)
    gram = jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
    return _exp_entropy(jnp.linalg.eigvalsh(gram / n), 1.0 - jnp.mean(kept, dtype=jnp.float32))


def ngram_kernel(texts: Sequence[str]) -> np.ndarray:
    """[n, n] float64: cosine of word n-gram counts, averaged over n-gram sizes 1 to 4.

    The kernel of `ngram_vendi_score` in vertaix/Vendi-Score, where a text with fewer words than an n-gram size has a
    row of zeros and the diagonal falls below 1. Here such a text has one n-gram of that size, itself: the diagonal is
    always 1, short texts are similar when they are equal, and empty texts are identical to each other and unlike all
    others. Words are runs of word characters or single punctuation marks; case counts.
    """
    words = [tuple(_WORD.findall(text)) for text in texts]
    kernel = np.zeros((len(texts), len(texts)))
    for size in NGRAM_SIZES:
        counts = [Counter(_ngrams(item, size)) for item in words]
        columns = {gram: column for column, gram in enumerate(dict.fromkeys(gram for c in counts for gram in c))}
        rows = np.zeros((len(texts), len(columns)))
        for row, counter in zip(rows, counts, strict=True):
            row[[columns[gram] for gram in counter]] = list(counter.values())
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        kernel += rows @ rows.T / len(NGRAM_SIZES)
    return kernel


def normalized_vendi(score: jax.Array | float, n: int) -> jax.Array | float:
    """(score - 1) / (n - 1): 0 for n copies, 1 for n mutually orthogonal items, 0 for a single item.

    Vendi scores grow with n: compare them at equal n. (Unnormalised, a value in [1, n] would leave the harmonic mean
    with a relevance in [0, 1] to the relevance alone.)

    Raises:
      ValueError: n below 1.
    """
    if n < 1:
        raise ValueError(f"the Vendi score of {n} items is undefined, expected 1 or more")
    return (score - 1.0) / max(n - 1, 1)


def harmonic_mean(
    relevance: jax.Array | float, diversity: jax.Array | float, diversity_weight: jax.Array | float
) -> jax.Array:
    """1 / (w / diversity + (1 - w) / relevance), both clamped to at least 1e-6; elementwise."""
    relevance = jnp.maximum(relevance, CLAMP)
    diversity = jnp.maximum(diversity, CLAMP)
    return 1.0 / (diversity_weight / diversity + (1.0 - diversity_weight) / relevance)


def reward(relevances: Sequence[float] | np.ndarray, texts: Sequence[str], diversity_weight: float) -> RewardParts:
    """The reward of the n responses of one arm.

    An empty response (nothing but white space) has relevance 0, whatever the oracle says, and counts as a repetition in
    the diversity, so it raises neither.

    Args:
      relevances: [n] in [0, 1]; those of empty responses are not looked at.
      texts: the n responses, at least one.
      diversity_weight: w in [0, 1] of `harmonic_mean`; with w > 0 a single response, of diversity 0, is worth nothing.

    Raises:
      ValueError: no responses, lengths that differ, a relevance or weight outside [0, 1].
    """
    n = len(texts)
    relevances = np.asarray(relevances, dtype=np.float64)
    if n == 0 or relevances.shape != (n,):
        raise ValueError(
            f"relevances have shape {relevances.shape} for {n} texts, expected one a text and at least one"
        )
    if not 0.0 <= diversity_weight <= 1.0:
        raise ValueError(f"diversity_weight is {diversity_weight}, expected a number in [0, 1]")
    written = np.array([bool(text.strip()) for text in texts])
    inside = (relevances >= 0.0) & (relevances <= 1.0)
    if not np.all(inside | ~written):
        worst = int(np.argmax(written & ~inside))
        raise ValueError(f"relevance {worst} is {relevances[worst]}, expected a number in [0, 1]")
    relevance = float(np.mean(np.where(written, relevances, 0.0)))
    diversity = float(normalized_vendi(vendi_score(ngram_kernel(texts), written), n))
    diversity = min(max(diversity, 0.0), 1.0)  # float32 eigenvalues can miss the bounds by a rounding error
    return RewardParts(float(harmonic_mean(relevance, diversity, diversity_weight)), relevance, diversity)


def _ngrams(words: tuple[str, ...], size: int) -> list[tuple[str, ...]]:
    return [words[start : start + size] for start in range(max(len(words) - size + 1, 1))]


def _kept(mask: jax.Array | None, n: int) -> jax.Array:
    if mask is None:
        return jnp.ones((n,), bool)
    if mask.shape != (n,):
        raise ValueError(f"the mask has shape {mask.shape}, expected ({n},)")
    return mask


def _exp_entropy(eigenvalues: jax.Array, repeated: jax.Array) -> jax.Array:
    """exp(-sum p ln p) of ascending eigenvalues, `repeated` added to the largest."""
    p = eigenvalues.at[-1].add(repeated)
    # The reference keeps p > 0 in float64. In float32 the zeros of a low-rank kernel come out as about +-1e-8, and a
    # hundred of them would add 3e-5 to the entropy.
    positive = p > jnp.finfo(jnp.float32).eps
    return jnp.exp(-jnp.sum(jnp.where(positive, p * jnp.log(jnp.where(positive, p, 1.0)), 0.0)))
