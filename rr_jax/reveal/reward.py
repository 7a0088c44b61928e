"""The reward of an arm: is what the model disclosed on target, and is it more than one thing said many times?

Relevance in [0, 1] comes from outside (a task's oracle), diversity is the Vendi score of the responses, and the reward
is their weighted harmonic mean. Kernels of texts are made on the host; the scores of kernels are pure functions of
arrays. This module must never know which model answered, which arm asked, or what the target is.

Sources: Vendi score (Friedman and Dieng, TMLR 2023; vertaix/Vendi-Score `vendi.py`, `text_utils.py`). The normalisation
of diversity and the clamps of the harmonic mean are ours.
"""

import functools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.data.words import tokens

NGRAM_SIZES = (1, 2, 3, 4)
CLAMP = 1e-6


class RewardParts(NamedTuple):
    """Holds the harmonic mean, the mean relevance, the normalised Vendi score, and the share of responses that count."""

    score: float
    relevance: float
    diversity: float
    fluency: float


@functools.partial(jax.jit, static_argnames="order")
def vendi_score(kernel: jax.Array, mask: jax.Array | None = None, order: float = 1.0) -> jax.Array:
    """Returns the effective number of different items, in [1, n]: exp of the Renyi entropy of the eigenvalues of kernel
    / n.

    A masked-out item is a degenerate one, not an absent one: it stays in n and counts as a repetition, its share 1/n
    going to the largest eigenvalue. Eigenvalues of a principal submatrix interlace, so the spectrum that results
    majorises the one before: masking an item out never raises the score. (Dropping it could: of a, a, a, b without one
    a, the rest is more even.)

    Args:
      kernel: [n, n] similarity, positive semi-definite with a diagonal of ones.
      mask: [n] bool, False where an item is degenerate; None keeps all.
      order: q of the entropy, static; 1 is Shannon's, small values count rare items more, inf is 1 / the largest.

    Raises:
      ValueError: a kernel that is not square, a mask of another length, or an order below 0.
    """
    if not order >= 0:
        raise ValueError(f"the order of a Vendi score is {order}, expected 0 or more")
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"the kernel has shape {kernel.shape}, expected (n, n)")
    n = kernel.shape[0]
    kept = _kept(mask, n)
    kernel = jnp.where(kept[:, None] & kept[None, :], kernel.astype(jnp.float32), 0.0)
    return _exp_entropy(jnp.linalg.eigvalsh(kernel / n), 1.0 - jnp.mean(kept, dtype=jnp.float32), order)


@functools.partial(jax.jit, static_argnames="order")
def vendi_from_features(features: jax.Array, mask: jax.Array | None = None, order: float = 1.0) -> jax.Array:
    """Returns `vendi_score` of the cosine kernel of feature rows; when d < n by its d x d dual, which has the same
    spectrum.

    Args:
      features: [n, d]. A row of zeros has no direction and is degenerate, as if masked out.
      mask, order: as in `vendi_score`.

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
    return _exp_entropy(jnp.linalg.eigvalsh(gram / n), 1.0 - jnp.mean(kept, dtype=jnp.float32), order)


def ngram_kernel(texts: Sequence[str]) -> np.ndarray:
    """Returns the cosine of word n-gram counts, averaged over n-gram sizes 1 to 4, [n, n] float64.

    The kernel of `ngram_vendi_score` in vertaix/Vendi-Score, where a text with fewer words than an n-gram size has a
    row of zeros and the diagonal falls below 1. Here such a text has one n-gram of that size, itself: the diagonal is
    always 1, short texts are similar when they are equal, and empty texts are identical to each other and unlike all
    others. Words are those of `data.words.tokens`, punctuation marks among them; case counts.
    """
    words = [tuple(tokens(text)) for text in texts]
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


def cosine_kernel(features: np.ndarray) -> np.ndarray:
    """Returns the [n, n] cosines of feature rows [n, D]; a row of zeros is like itself alone."""
    features = np.asarray(features, np.float64)
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(norm > 0, norm, 1.0)
    kernel: np.ndarray = unit @ unit.T
    np.fill_diagonal(kernel, 1.0)
    return kernel


def normalized_vendi(score: jax.Array | float, n: int, normalization: str = "excess") -> jax.Array | float:
    """Returns a Vendi score of n items made comparable with a relevance in [0, 1].

    "excess" is (score - 1) / (n - 1): 0 for n copies or a single item, 1 for n mutually orthogonal items. "share" is
    score / n, which gives copies 1 / n. "none" leaves it in [1, n], where a harmonic mean looks at the relevance alone.
    Vendi scores grow with n: compare them at equal n.

    Raises:
      ValueError: n below 1, or an unknown normalisation.
    """
    if n < 1:
        raise ValueError(f"the Vendi score of {n} items is undefined, expected 1 or more")
    if normalization == "excess":
        return (score - 1.0) / max(n - 1, 1)
    if normalization == "share":
        return score / n
    if normalization == "none":
        return score
    raise ValueError(f"the normalization is {normalization!r}, expected 'excess', 'share' or 'none'")


def harmonic_mean(
    relevance: jax.Array | float, diversity: jax.Array | float, diversity_weight: jax.Array | float
) -> jax.Array:
    """Returns 1 / (w / diversity + (1 - w) / relevance), both clamped to at least 1e-6; elementwise."""
    relevance = jnp.maximum(relevance, CLAMP)
    diversity = jnp.maximum(diversity, CLAMP)
    return 1.0 / (diversity_weight / diversity + (1.0 - diversity_weight) / relevance)


def reward(
    relevances: Sequence[float] | np.ndarray,
    kernel: np.ndarray,
    counts: Sequence[bool] | np.ndarray,
    *,
    diversity_weight: float,
    normalization: str = "excess",
    order: float = 1.0,
) -> RewardParts:
    """Returns the reward of the n responses of one arm.

    A response that does not count (empty, repetitive, gibberish) has relevance 0, whatever the oracle says, and is a
    repetition in the diversity, so it raises neither.

    Args:
      relevances: [n] in [0, 1]; those of responses that do not count are not looked at.
      kernel: [n, n] similarity of the responses.
      counts: [n], which responses count.
      diversity_weight: w in [0, 1] of `harmonic_mean`; with w > 0 a single response, of diversity 0, is worth nothing.
      normalization: as in `normalized_vendi`.
      order: of the Vendi score.

    Raises:
      ValueError: no responses, lengths that differ, a relevance or weight outside [0, 1] (NaN is).
    """
    n = len(kernel)
    relevances, counts = np.asarray(relevances, dtype=np.float64), np.asarray(counts, dtype=bool)
    if n == 0 or relevances.shape != (n,) or counts.shape != (n,):
        raise ValueError(
            f"relevances have shape {relevances.shape} and counts {counts.shape} for {n} responses, expected one each "
            "and at least one"
        )
    if not 0.0 <= diversity_weight <= 1.0:
        raise ValueError(f"diversity_weight is {diversity_weight}, expected a number in [0, 1]")
    inside = (relevances >= 0.0) & (relevances <= 1.0)
    if not np.all(inside | ~counts):
        worst = int(np.argmax(counts & ~inside))
        raise ValueError(f"relevance {worst} is {relevances[worst]}, expected a number in [0, 1]")
    relevance = float(np.mean(np.where(counts, relevances, 0.0)))
    vendi = vendi_score(np.asarray(kernel, np.float32), counts, order)
    diversity = float(normalized_vendi(vendi, n, normalization))
    if normalization != "none":
        diversity = min(max(diversity, 0.0), 1.0)  # float32 eigenvalues can miss the bounds by a rounding error
    score = float(harmonic_mean(relevance, diversity, diversity_weight))
    return RewardParts(score, relevance, diversity, float(np.mean(counts)))


def _ngrams(words: tuple[str, ...], size: int) -> list[tuple[str, ...]]:
    return [words[start : start + size] for start in range(max(len(words) - size + 1, 1))]


def _kept(mask: jax.Array | None, n: int) -> jax.Array:
    if mask is None:
        return jnp.ones((n,), bool)
    if mask.shape != (n,):
        raise ValueError(f"the mask has shape {mask.shape}, expected ({n},)")
    return mask


def _exp_entropy(eigenvalues: jax.Array, repeated: jax.Array, order: float) -> jax.Array:
    """Returns exp of the entropy of ascending eigenvalues, `repeated` added to the largest: of order 1 exp(-sum p ln
    p), else (sum p^q)^(1 / (1 - q)), and for inf 1 / max p (vertaix/Vendi-Score `vendi.py`, `entropy_q`)."""
    p = eigenvalues.at[-1].add(repeated)
    # The reference keeps p > 0 in float64. In float32 the zeros of a low-rank kernel come out as about +-1e-8, and a
    # hundred of them would add 3e-5 to the entropy.
    positive = p > jnp.finfo(jnp.float32).eps
    safe = jnp.where(positive, p, 1.0)
    if order == 1:
        return jnp.exp(-jnp.sum(jnp.where(positive, p * jnp.log(safe), 0.0)))
    if math.isinf(order):
        return 1.0 / jnp.max(p)
    return jnp.sum(jnp.where(positive, safe**order, 0.0)) ** (1.0 / (1.0 - order))
