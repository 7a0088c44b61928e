"""Measures how far a forget and a retain adapter work in the same directions: penalties to train with, projections that
forbid it, measures to report.

Penalties that look at the input factors A say nothing of what is read through them or written by B; the ones after
them look at B, at the whole update, or at what the modules really read. All functions use the modules both adapters
have; all but `principal_cosines_by_layer` are pure, jittable, differentiable and work under `vmap`. How a penalty is
weighted, and whose gradient it feeds, is the trainer's business.

No matrix decomposition is called. On CPU jaxlib's batched ones hand their matrices to the thread pool they run on and
wait for it: several in one program, one a module, wait for each other for ever where cores are few.

Axes: L layers, R rank, K directions.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rr_jax.lora.activations import Directions
from rr_jax.lora.algebra import frobenius_norm, inner_product, safe_sqrt
from rr_jax.models.spec import Adapter

# Share of a column outside the span of those before it, below which it depends on them; in angles its square counts.
DEPENDENT, DEPENDENT_IN_ANGLES = 1e-5, 1e-3


def olora_penalty(forget: Adapter, retain: Adapter) -> Float[Array, ""]:
    """Returns the sum over modules, layers and pairs of columns of |a_retain . a_forget|, a scalar.

    O-LoRA (Wang et al., 2023), the sum coded in cmnfriend/O-LoRA `src/uie_trainer_lora.py`: absolute values (the paper
    squares) and no division, so it grows with depth and rank. There the earlier task's adapter is frozen, and only the
    new one feels the penalty; of two adapters trained in one step both do, and of one held apart from an anchor or the
    memory only that one.

    Raises:
      ValueError: if the adapters share no module, which would make the constraint empty.
    """
    return jnp.sum(_stack(olora_by_layer(forget, retain)))


def normalized_penalty(forget: Adapter, retain: Adapter) -> Float[Array, ""]:
    """Returns the mean over modules, layers and pairs of columns of |cos(a_retain, a_forget)|, a scalar from 0 to 1.

    Portable across depth, rank and size of the factors. Each module weighs the same. A zero column has cosine 0 with
    everything, and gradient 0.

    Raises:
      ValueError: if the adapters share no module.
    """
    return jnp.mean(_stack(overlap_by_layer(forget, retain)))


def frobenius_penalty(forget: Adapter, retain: Adapter) -> Float[Array, ""]:
    """Returns the sum over modules and layers of |A_retain^T A_forget|_F^2, a scalar: O-LoRA's squared form, as in its
    paper.

    Raises:
      ValueError: if the adapters share no module.
    """
    return jnp.sum(_stack(frobenius_by_layer(forget, retain)))


def input_angles_penalty(forget: Adapter, retain: Adapter) -> Float[Array, ""]:
    """Returns the mean over modules, layers and principal angles between the column spaces of the A of cos^2, from 0 to
    1.

    Sum of cos^2 = |Q_retain^T Q_forget|_F^2, with Q an orthonormal basis of each. Unlike cosines of columns it does not
    depend on the basis a factor happens to have.

    Raises:
      ValueError: if the adapters share no module.
    """
    return jnp.mean(_stack(angles_by_layer(forget, retain, "a")))


def output_angles_penalty(forget: Adapter, retain: Adapter) -> Float[Array, ""]:
    """Returns the same of the row spaces of the B: the directions the updates write to. 0 while a B is zero.

    Raises:
      ValueError: if the adapters share no module.
    """
    return jnp.mean(_stack(angles_by_layer(forget, retain, "b")))


def update_penalty(forget: Adapter, retain: Adapter) -> Float[Array, ""]:
    """Returns the mean over modules and layers of cos^2 between the two updates A B as vectors, from 0 to 1, in factor
    form.

    Raises:
      ValueError: if the adapters share no module.
    """
    return jnp.mean(_stack(update_cosine_by_layer(forget, retain)) ** 2)


PENALTIES: dict[str, Callable[[Adapter, Adapter], jax.Array]] = {
    "normalized": normalized_penalty,
    "olora": olora_penalty,
    "frobenius": frobenius_penalty,
    "input_angles": input_angles_penalty,
    "output_angles": output_angles_penalty,
    "update": update_penalty,
}


def activation_penalty(adapter: Adapter, directions: dict[str, Directions]) -> Float[Array, ""]:
    """Measures how strongly an adapter reads what its modules read on given data, relative to a random one: a scalar, 0
    or more.

    Mean over modules and layers of (sum_k e_k |v_k^T A|^2) / (|A|_F^2 t / in), with v_k, e_k the dominant directions of
    the inputs x and their energies, and t = E|x|^2: with all directions it is E|A^T x|^2 over its mean for an A of the
    same size and random direction. 0 means that the update does nothing to these inputs, whatever B.

    Raises:
      ValueError: if no module of the adapter has directions.
    """
    return jnp.mean(_stack(activations_by_layer(adapter, directions)))


def project_out(adapter: Adapter, bases: Sequence[dict[str, Float[Array, " L in K"]]]) -> Adapter:
    """Returns the adapter with every A moved into the orthogonal complement of given directions: A - Q Q^T A. B is
    kept.

    Args:
      bases: each {module: [L, in, K]}, columns of any length and angle; together they are orthonormalised. A module
        that no basis has stays as it is.
    """
    moved: Adapter = {}
    for name, module in adapter.items():
        found = [basis[name] for basis in bases if name in basis]
        if found:
            q = orthonormal_columns(jnp.concatenate(found, axis=-1))
            inside = jnp.einsum("lik,lir->lkr", q, module["a"], precision=lax.Precision.HIGHEST)
            a = module["a"] - jnp.einsum("lik,lkr->lir", q, inside, precision=lax.Precision.HIGHEST)
            module = {"a": a, "b": module["b"]}
        moved[name] = module
    return moved


@jax.jit
def orthonormal_columns(columns: Float[Array, " L in K"]) -> Float[Array, " L in K"]:
    """Returns orthonormal columns [L, in, K] that span what the given ones span; 0 for one that depends on those before
    it.

    Gram-Schmidt, each column projected twice, which makes the result orthogonal to rounding (Giraud et al., "The loss
    of orthogonality in the Gram-Schmidt orthogonalization process", 2005).
    """

    def take_in(k: jax.Array, q: jax.Array) -> jax.Array:
        column = columns[:, :, k]
        size = safe_sqrt(jnp.sum(column**2, axis=-1))
        for _ in range(2):
            along = jnp.einsum("lik,li->lk", q, column, precision=lax.Precision.HIGHEST)
            column = column - jnp.einsum("lik,lk->li", q, along, precision=lax.Precision.HIGHEST)
        left = safe_sqrt(jnp.sum(column**2, axis=-1))
        new = left > DEPENDENT * size
        return q.at[:, :, k].set(jnp.where(new[:, None], column / jnp.where(new, left, 1.0)[:, None], 0.0))

    return lax.fori_loop(0, columns.shape[-1], take_in, jnp.zeros_like(columns))


def olora_by_layer(forget: Adapter, retain: Adapter) -> dict[str, Float[Array, " L"]]:
    """Returns the terms of `olora_penalty`, {module: [L]}: the sum over pairs of columns of each.

    Raises:
      ValueError: if the adapters share no module.
    """
    return {name: jnp.sum(jnp.abs(dots), axis=(-2, -1)) for name, dots in _dots(forget, retain).items()}


def frobenius_by_layer(forget: Adapter, retain: Adapter) -> dict[str, Float[Array, " L"]]:
    """Returns the terms of `frobenius_penalty`, {module: [L]}.

    Raises:
      ValueError: if the adapters share no module.
    """
    return {name: jnp.sum(dots**2, axis=(-2, -1)) for name, dots in _dots(forget, retain).items()}


def angles_by_layer(forget: Adapter, retain: Adapter, factor: str = "a") -> dict[str, Float[Array, " L"]]:
    """Returns the mean cos^2 of the principal angles between the spaces of a factor, {module: [L]}, as the penalties
    have it.

    Args:
      factor: "a" or "b", as in `principal_cosines_by_layer`.

    Raises:
      ValueError: if the adapters share no module.
    """
    means = {}
    for name in _shared(forget, retain):
        one, other = _columns(forget[name], factor), _columns(retain[name], factor)
        cosines = jnp.einsum("lir,lis->lrs", _basis(other), _basis(one), precision=lax.Precision.HIGHEST)
        means[name] = jnp.sum(cosines**2, axis=(-2, -1)) / min(one.shape[-1], other.shape[-1])
    return means


def activations_by_layer(adapter: Adapter, directions: dict[str, Directions]) -> dict[str, Float[Array, " L"]]:
    """Returns the terms of `activation_penalty`, {module: [L]}; 0 for an A of zeros.

    Raises:
      ValueError: if no module of the adapter has directions.
    """
    shares = {}
    for name in _known(adapter, directions):
        a, known = adapter[name]["a"], directions[name]
        along = jnp.einsum("lik,lir->lkr", known.basis, a, precision=lax.Precision.HIGHEST)
        read = jnp.sum(known.energy[:, :, None] * along**2, axis=(-2, -1))
        scale = jnp.sum(a**2, axis=(-2, -1)) * known.total / a.shape[-2]
        shares[name] = jnp.where(scale > 0, read / jnp.where(scale > 0, scale, 1.0), 0.0)
    return shares


def principal_cosines_by_layer(
    forget: Adapter, retain: Adapter, factor: str = "a"
) -> dict[str, Float[np.ndarray, "L R"]]:
    """Returns cosines of the principal angles between the factors' spaces, {module: [L, R]} in falling order, by NumPy in
    float64.

    Args:
      factor: "a", the column spaces of A (what is read), or "b", the row spaces of B (what is written). A zero factor
        has whatever space QR gives it: look at trained adapters only.

    Raises:
      ValueError: if the adapters share no module.
    """
    cosines = {}
    for name in _shared(forget, retain):
        spaces = [np.asarray(_columns(adapter[name], factor), np.float64) for adapter in (forget, retain)]
        one, other = (np.linalg.qr(space).Q for space in spaces)
        cosines[name] = np.clip(np.linalg.svd(other.mT @ one, compute_uv=False), 0.0, 1.0)
    return cosines


def overlap_by_layer(forget: Adapter, retain: Adapter) -> dict[str, Float[Array, " L"]]:
    """Returns the mean over pairs of columns of |cos(a_retain, a_forget)|, {module: [L]}.

    Raises:
      ValueError: if the adapters share no module.
    """
    dots = _dots(_unit_columns(forget), _unit_columns(retain))
    return {name: jnp.mean(jnp.abs(cosines), axis=(-2, -1)) for name, cosines in dots.items()}


def update_cosine_by_layer(forget: Adapter, retain: Adapter) -> dict[str, Float[Array, " L"]]:
    """Returns the cosine between the two updates a @ b as vectors, {module: [L]}, -1 to 1; 0 where either is zero.

    Raises:
      ValueError: if the adapters share no module.
    """
    _shared(forget, retain)
    norms, other_norms = frobenius_norm(forget), frobenius_norm(retain)
    cosines = {}
    for name, product in inner_product(forget, retain).items():
        size = norms[name] * other_norms[name]
        cosines[name] = jnp.where(size > 0, product / jnp.where(size > 0, size, 1.0), 0.0)
    return cosines


def _stack(by_layer: dict[str, jax.Array]) -> jax.Array:
    """Stacks the measures to [modules, L]: every module has every layer, so a mean over all is the mean of the modules'
    means."""
    return jnp.stack([*by_layer.values()])


def _shared(forget: Adapter, retain: Adapter) -> list[str]:
    names = [name for name in forget if name in retain]
    if not names:
        raise ValueError(
            f"forget and retain adapters share no module: found {', '.join(forget)} and {', '.join(retain)}, "
            "expected at least one in common"
        )
    return names


def _known(adapter: Adapter, directions: dict[str, Directions]) -> list[str]:
    names = [name for name in adapter if name in directions]
    if not names:
        raise ValueError(
            f"the adapter has {', '.join(adapter)}, activations are known of {', '.join(directions) or 'no module'}: "
            "expected at least one in common"
        )
    return names


def _columns(module: dict[str, jax.Array], factor: str) -> jax.Array:
    """Returns [L, in, R] of A or [L, out, R] of B."""
    return module["a"] if factor == "a" else module["b"].mT


def _basis(columns: jax.Array) -> jax.Array:
    """Returns orthonormal columns [L, in, R] of the same space, smooth in the given ones: CholeskyQR, twice (Yamamoto
    et al., "Roundoff error analysis of the CholeskyQR2 algorithm", 2015). 0 for a column that depends on those before
    it."""
    for _ in range(2):
        gram = jnp.einsum("lir,lis->lrs", columns, columns, precision=lax.Precision.HIGHEST)
        columns = jnp.einsum("lir,lsr->lis", columns, _inverse_factor(gram), precision=lax.Precision.HIGHEST)
    return columns


@jax.jit  # else each call outside of a compiled step would compile its loop again
def _inverse_factor(gram: jax.Array) -> jax.Array:
    """Returns C^-1 [L, R, R] for gram = C C^T, C its Cholesky factor, by elimination beside the identity. A row of
    zeros where a column depends on those before it."""
    rank, sizes = gram.shape[-1], jnp.diagonal(gram, axis1=-2, axis2=-1)

    def eliminate(k: jax.Array, both: jax.Array) -> jax.Array:
        pivot = both[:, k, k]
        independent = pivot > DEPENDENT_IN_ANGLES**2 * sizes[:, k]
        scale = jnp.where(independent, jnp.sqrt(jnp.where(independent, pivot, 1.0)), jnp.inf)
        row = both[:, k, :] / scale[:, None]
        below = jnp.where(jnp.arange(rank)[None] > k, row[:, :rank], 0.0)
        return (both - below[:, :, None] * row[:, None, :]).at[:, k, :].set(row)

    both = jnp.concatenate([gram, jnp.broadcast_to(jnp.eye(rank), gram.shape)], axis=-1)
    return lax.fori_loop(0, rank, eliminate, both)[:, :, rank:]


def _dots(forget: Adapter, retain: Adapter) -> dict[str, jax.Array]:
    """Returns A_retain^T A_forget, {module: [L, R_retain, R_forget]}."""
    return {
        name: jnp.einsum("lir,lis->lrs", retain[name]["a"], forget[name]["a"], precision=lax.Precision.HIGHEST)
        for name in _shared(forget, retain)
    }


def _unit_columns(adapter: Adapter) -> Adapter:
    units = {}
    for name, module in adapter.items():
        norm = safe_sqrt(jnp.sum(module["a"] ** 2, axis=-2, keepdims=True))
        units[name] = {"a": module["a"] / jnp.where(norm > 0, norm, 1.0)}
    return units
