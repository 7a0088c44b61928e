"""Exact arithmetic on adapters, in factor form: the difference of two adapters is an adapter of the summed rank.

Nothing here ever forms a dense [in, out] matrix except `delta_weight` and `merge_error`, whose purpose it is. Averaging
or signing both factors of a LoRA, as libraries do, gives cross terms; concatenating the factors does not, and
`pem_factor_rule` is here for those who want to compare.
Every function works on single adapters and, through `vmap` or directly, on stacked ones.

Axes: L layers, R rank.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rr_jax.lora.adapter import merge_adapter, scale_adapter
from rr_jax.models.spec import Adapter, Params

_HIGHEST = lax.Precision.HIGHEST


def add(*adapters: Adapter) -> Adapter:
    """Adds the updates, exactly: factors are concatenated along R. A module only some have is summed over those.

    Raises:
      ValueError: for no adapter, or factors of one module that differ in layers, inputs or outputs.
    """
    if not adapters:
        raise ValueError("no adapter to add, expected at least one")
    total: Adapter = {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter):
        parts = [adapter[name] for adapter in adapters if name in adapter]
        _check_shapes(name, *parts)
        total[name] = {
            "a": jnp.concatenate([part["a"] for part in parts], axis=-1),
            "b": jnp.concatenate([part["b"] for part in parts], axis=-2),
        }
    return total


def at_strengths(
    before: Adapter | None, forget: Adapter, retain: Adapter | None, point: Float[Array, "2"] | Float[np.ndarray, "2"]
) -> Adapter:
    """Returns before + point[0] * forget + point[1] * retain, with factors of one shape at every point [2]."""
    parts = [] if before is None else [before]
    parts.append(scale_adapter(forget, point[0]))
    if retain is not None:
        parts.append(scale_adapter(retain, point[1]))
    return add(*parts)


def negate(adapter: Adapter) -> Adapter:
    """Returns the adapter of the opposite update: the sign of one factor, `b` (flipping both would change nothing)."""
    return scale_adapter(adapter, -1.0)


def ext_sub(expert: Adapter, anti: Adapter, alpha: float | Float[Array, ""]) -> Adapter:
    """Removes from the expert what only the anti-expert has: extraction before subtraction (Hu et al., AAAI 2024).

    With w1, w2 the columns of expert and anti-expert for one output unit (rows in PyTorch's orientation) the paper sets
    n = normalize(w1/|w1| + w2/|w2|) and w = w1 - alpha (w2 - (w2 . n) n), which equals
    w = (1 + (alpha / 2) |w2| / |w1|) w1 - (alpha / 2) w2. That closed form is what is computed, in factor form.

    Where w1 is zero the paper's formula is undefined (its code gives NaN); here the ratio |w2| / |w1| is then taken as
    0, so the column becomes -(alpha / 2) w2, the mean of the closed form's limits over all directions of w1. A column
    of the expert counts as zero when its squared norm is within rounding error, 8 eps (sum_r |a_r| |b_r|)^2. Where w2
    is zero, w is w1. A module that one of the two lacks is a zero update there.

    Raises:
      ValueError: if updates of one module differ in layers, inputs or outputs.
    """
    half = jnp.asarray(alpha, jnp.float32) / 2
    amplified: Adapter = {}
    for name, module in expert.items():
        if name in anti:
            _check_shapes(name, module, anti[name])
            square, floor = _column_squares(module)
            anti_square, _ = _column_squares(anti[name])
            known = square > floor
            ratio = jnp.where(known, jnp.sqrt(anti_square / jnp.where(known, square, 1.0)), 0.0)
            module = {"a": module["a"], "b": module["b"] * (1.0 + half * ratio)}
        amplified[name] = module
    return add(amplified, scale_adapter(anti, -half))


def pem_factor_rule(original: Adapter, other: Adapter, strength: float | Float[Array, ""]) -> Adapter:
    """Applies PEM composition's rule to the factors themselves, as coded in hkust-nlp/PEM_composition `peft_merge.py`:
    a = a_o + strength (a_o - a_t) and b = b_o + strength (b_o + b_t), of rank R as both are.

    That is not `original - strength * other`. With l the strength the update is
    (1 + l)^2 a_o b_o - l (1 + l) a_t b_o + l (1 + l) a_o b_t - l^2 a_t b_t: what `other` has alone leaves with l^2 only,
    and the two cross terms cancel only where the adapters agree in both factors. The authors start both from the same.

    Raises:
      ValueError: if the adapters do not have the same modules with factors of the same shapes.
    """
    shapes = [{name: (m["a"].shape, m["b"].shape) for name, m in adapter.items()} for adapter in (original, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the factor rule needs equal modules and ranks, found {shapes[1]}, expected {shapes[0]}")
    return {
        name: {
            "a": m["a"] + strength * (m["a"] - other[name]["a"]),
            "b": m["b"] + strength * (m["b"] + other[name]["b"]),
        }
        for name, m in original.items()
    }


def recompress(adapter: Adapter, rank: int) -> tuple[Adapter, dict[str, Float[Array, " L"]]]:
    """Returns the best adapter of at most `rank` (static), and what it leaves out. Jittable.

    QR of both factors, then the SVD of the R x R core: the truncated SVD of a @ b without forming it. The singular
    values are shared evenly, sqrt(s) on each side. Modules whose update cannot exceed `rank` keep a smaller one.

    Returns:
      the adapter, and {module: [L]} the relative Frobenius error |discarded| / |update| (0 for a zero update), which
      does not include float32 rounding.

    Raises:
      ValueError: if rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, found {rank}")
    small: Adapter = {}
    error: dict[str, jax.Array] = {}
    for name, module in adapter.items():
        u, s, vt = _factored_svd(module)
        root = jnp.sqrt(s[..., :rank])
        small[name] = {"a": u[..., :rank] * root[..., None, :], "b": root[..., :, None] * vt[..., :rank, :]}
        top = jnp.maximum(s[..., :1], jnp.finfo(s.dtype).tiny)
        share = s / top  # squares of small singular values would underflow
        discarded, whole = jnp.sum(share[..., rank:] ** 2, axis=-1), jnp.sum(share**2, axis=-1)
        error[name] = jnp.sqrt(discarded / jnp.where(whole > 0, whole, 1.0))
    return small, error


def compact(adapter: Adapter) -> tuple[Adapter, dict[str, float]]:
    """Returns the same updates with the smallest ranks that float32 can tell apart; not jittable.

    A module keeps as many singular values as its fullest layer has above 1e-6 of the layer's largest.

    Returns:
      the adapter, and {module: relative Frobenius error}, the largest over layers of |small - given| / |given|, from
      float64 factors, so it includes every rounding.
    """
    small: Adapter = {}
    error: dict[str, float] = {}
    for name, module in adapter.items():
        _, s, _ = _factored_svd(module)
        kept = int(jnp.max(jnp.sum(s > 1e-6 * s[..., :1], axis=-1)))
        small |= recompress({name: module}, max(kept, 1))[0]
        error[name] = _relative_difference(small[name], module)
    return small, error


def _relative_difference(small: dict[str, jax.Array], given: dict[str, jax.Array]) -> float:
    """Returns |small - given| / |given| of the worst layer: QR of the joined factors in float64, so nothing cancels."""
    wide = {side: [np.asarray(m[side], np.float64) for m in (small, given)] for side in ("a", "b")}

    def norm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        core = np.linalg.qr(a).R @ np.linalg.qr(b.swapaxes(-1, -2)).R.swapaxes(-1, -2)
        return np.linalg.norm(core, axis=(-2, -1))

    difference = norm(np.concatenate(wide["a"], axis=-1), np.concatenate([wide["b"][0], -wide["b"][1]], axis=-2))
    whole = norm(wide["a"][1], wide["b"][1])
    return float(np.max(difference / np.where(whole > 0, whole, 1.0)))


def delta_weight(adapter: Adapter) -> dict[str, Float[Array, "*N L in out"]]:
    """Returns the dense updates {module: [L, in, out]}, for tests and small models: everything else here avoids them."""
    return {name: jnp.matmul(m["a"], m["b"], precision=_HIGHEST) for name, m in adapter.items()}


def merge_error(params: Params, adapter: Adapter) -> dict[str, Float[Array, " L"]]:
    """Measures how much of an update the merged weights lose to rounding, {module: [L]}: |(merged - w) - a @ b| / |a @
    b|.

    `merge_adapter` rounds w + a @ b once to the weight's dtype. In bfloat16 a weight has 8 bits, so of an update that is
    small beside the weights much is lost: 1 means as much error as update. It is 0 for a zero update. Jittable; holds
    one layer's dense matrices at a time.

    Raises:
      ValueError: as `merge_adapter`.
    """
    merged, layers = merge_adapter(params, adapter)["layers"], params["layers"]
    return {name: _merge_losses(layers[name], merged[name], m["a"], m["b"]) for name, m in adapter.items()}


@jax.jit  # as in `merge_adapter`
def _merge_losses(before: jax.Array, after: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    losses: jax.Array = lax.map(_merge_loss, (before, after, a, b))
    return losses


def _merge_loss(layer: tuple[jax.Array, ...]) -> jax.Array:
    before, after, a, b = (array.astype(jnp.float32) for array in layer)
    update = jnp.matmul(a, b, precision=_HIGHEST)
    size = jnp.linalg.norm(update)
    return jnp.linalg.norm((after - before) - update) / jnp.where(size > 0, size, 1.0)


def inner_product(left: Adapter, right: Adapter) -> dict[str, Float[Array, "*N L"]]:
    """Returns Frobenius inner products of the updates, {module: [L]}, over the modules both have: <A1 B1, A2 B2> = sum of
    (A1^T A2) * (B1 B2^T), R x R matrices only. Differentiable."""
    products = {}
    for name in [name for name in left if name in right]:
        _check_shapes(name, left[name], right[name])
        inner_a = jnp.matmul(left[name]["a"].mT, right[name]["a"], precision=_HIGHEST)
        inner_b = jnp.matmul(left[name]["b"], right[name]["b"].mT, precision=_HIGHEST)
        products[name] = jnp.sum(inner_a * inner_b, axis=(-2, -1))
    return products


def frobenius_norm(adapter: Adapter) -> dict[str, Float[Array, "*N L"]]:
    """Returns Frobenius norms of the updates, {module: [L]}, from Gram matrices; the gradient at a zero update is 0."""
    return {name: safe_sqrt(square) for name, square in inner_product(adapter, adapter).items()}


def rank(adapter: Adapter) -> dict[str, int]:
    """Returns the rank R each module's factors have (an upper bound of the rank of the update)."""
    return {name: module["a"].shape[-1] for name, module in adapter.items()}


def safe_sqrt(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Returns sqrt of x where it is positive, else 0; the gradient where it is not positive is 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def _factored_svd(module: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns u [L, in, K], s [L, K] descending, vt [L, K, out] of a @ b, which is never formed; K is R or the smaller
    side."""
    q_a, r_a = jnp.linalg.qr(module["a"])
    q_b, r_b = jnp.linalg.qr(module["b"].mT)
    u, s, vt = jnp.linalg.svd(jnp.matmul(r_a, r_b.mT, precision=_HIGHEST), full_matrices=False)
    return jnp.matmul(q_a, u, precision=_HIGHEST), s, jnp.matmul(vt, q_b.mT, precision=_HIGHEST)


def _column_squares(module: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns the squared norms of the columns of a @ b, [L, 1, out], and the size below which they are only rounding
    error."""
    a, b = module["a"], module["b"]
    gram = jnp.matmul(a.mT, a, precision=_HIGHEST)
    square = jnp.sum(b * jnp.matmul(gram, b, precision=_HIGHEST), axis=-2, keepdims=True)
    lengths = jnp.sqrt(jnp.sum(a * a, axis=-2))
    bound = jnp.sum(lengths[..., :, None] * jnp.abs(b), axis=-2, keepdims=True)
    return jnp.maximum(square, 0.0), 8 * jnp.finfo(b.dtype).eps * bound**2


def _check_shapes(name: str, *modules: dict[str, Any]) -> None:
    """Raises if the updates of one module do not have one shape; factors of unequal rank are fine."""
    shapes = [(*m["a"].shape[:-1], m["b"].shape[-1]) for m in modules]
    if len(set(shapes)) > 1:
        raise ValueError(f"updates of {name!r} have shapes {shapes}, expected equal ones")
