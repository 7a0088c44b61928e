"""How far a forget and a retain adapter work in the same directions: penalties to train with, measures to report.

Both penalties look at the input factors A only, as O-LoRA does; `update_cosine_by_layer` looks at the whole updates.
All functions are pure, jittable, differentiable, work under `vmap`, and use the modules both adapters have.
How a penalty is weighted, and whose gradient it feeds, is the trainer's business.

Axes: L layers, R rank.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rr_jax.lora.adapter import Adapter
from rr_jax.lora.algebra import frobenius_norm, inner_product, safe_sqrt


def olora_penalty(forget: Adapter, retain: Adapter) -> jax.Array:
    """Sum over modules, layers and pairs of columns of |a_retain . a_forget|, a scalar.

    O-LoRA (Wang et al., 2023), as coded in cmnfriend/O-LoRA `src/uie_trainer_lora.py`: absolute values (the paper squares)
    and no division, so it grows with depth and rank.

    Raises:
      ValueError: if the adapters share no module, which would make the constraint empty.
    """
    return sum((jnp.sum(jnp.abs(dots)) for dots in _dots(forget, retain).values()), start=jnp.zeros(()))


def normalized_penalty(forget: Adapter, retain: Adapter) -> jax.Array:
    """Mean over modules, layers and pairs of columns of |cos(a_retain, a_forget)|, a scalar from 0 to 1.

    Portable across depth, rank and size of the factors. Each module weighs the same. A zero column has cosine 0 with
    everything, and gradient 0.

    Raises:
      ValueError: if the adapters share no module.
    """
    return jnp.mean(jnp.stack([jnp.mean(overlap) for overlap in overlap_by_layer(forget, retain).values()]))


PENALTIES: dict[str, Callable[[Adapter, Adapter], jax.Array]] = {
    "olora": olora_penalty,
    "normalized": normalized_penalty,
}


def overlap_by_layer(forget: Adapter, retain: Adapter) -> dict[str, jax.Array]:
    """Mean over pairs of columns of |cos(a_retain, a_forget)|, {module: [L]}.

    Raises:
      ValueError: if the adapters share no module.
    """
    dots = _dots(_unit_columns(forget), _unit_columns(retain))
    return {name: jnp.mean(jnp.abs(cosines), axis=(-2, -1)) for name, cosines in dots.items()}


def update_cosine_by_layer(forget: Adapter, retain: Adapter) -> dict[str, jax.Array]:
    """Cosine between the two updates a @ b as vectors, {module: [L]}, -1 to 1; 0 where either is zero.

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


def _shared(forget: Adapter, retain: Adapter) -> list[str]:
    names = [name for name in forget if name in retain]
    if not names:
        raise ValueError(
            f"forget and retain adapters share no module: found {', '.join(forget)} and {', '.join(retain)}, "
            "expected at least one in common"
        )
    return names


def _dots(forget: Adapter, retain: Adapter) -> dict[str, jax.Array]:
    """A_retain^T A_forget, {module: [L, R_retain, R_forget]}."""
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
