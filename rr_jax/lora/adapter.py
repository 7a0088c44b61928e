"""Low-rank adapters as plain pytrees: start one, scale it, stack several, merge one into the weights.

An adapter is `{module: {"a": [L, in, R], "b": [L, R, out]}}` in float32 and stands for the update a @ b of each layer's
weight; any scale is already inside `b`. This file never knows what an adapter was trained for, nor how.

Axes: L layers, R rank, N adapters in a stack.
"""

import math
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from rr_jax.models.config import ModelConfig
from rr_jax.models.spec import Adapter, Params, linear_shapes


def init_adapter(key: Key[Array, ""], config: ModelConfig, rank: int, targets: Sequence[str]) -> Adapter:
    """Draws a new adapter that changes nothing yet: a ~ U(-1/sqrt(in), 1/sqrt(in)), b = 0.

    That is the default of PEFT (Kaiming uniform with a = sqrt(5)). Each module's factors depend on `key` and the
    module's name alone, so adding a target does not change the others.

    Args:
      key: a jax random key.
      config: the model the adapter is for.
      rank: R, from 1 to the smaller side of every target.
      targets: module names among those of `linear_shapes`.

    Raises:
      ValueError: for no target, an unknown target, or a rank no target can have.
    """
    shapes = linear_shapes(config)
    if not targets:
        raise ValueError(f"targets is empty, expected some of {', '.join(shapes)}")
    adapter: Adapter = {}
    for name in targets:
        if name not in shapes:
            raise ValueError(f"no module is called {name!r}, expected targets among {', '.join(shapes)}")
        rows, columns = shapes[name]
        if not 1 <= rank <= min(rows, columns):
            raise ValueError(
                f"rank {rank} does not fit {name!r} [{rows}, {columns}], expected 1 to {min(shapes[name])}"
            )
        bound = 1.0 / math.sqrt(rows)
        module_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
        a_shape, b_shape = (config.num_layers, rows, rank), (config.num_layers, rank, columns)
        adapter[name] = {
            "a": jax.random.uniform(module_key, a_shape, jnp.float32, -bound, bound),
            "b": jnp.zeros(b_shape, jnp.float32),
        }
    return adapter


def scale_adapter(adapter: Adapter, scale: float | Float[Array, ""]) -> Adapter:
    """Returns the adapter whose update is `scale` (a scalar, possibly traced) times as large: multiplies `b` only."""
    return {name: {"a": m["a"], "b": m["b"] * scale} for name, m in adapter.items()}


def stack_adapters(adapters: Sequence[Adapter]) -> Adapter:
    """Stacks N adapters of equal modules and ranks into one, with a leading axis N on every leaf, ready for `vmap` or
    `lax.map`.

    Raises:
      ValueError: for an empty sequence, or adapters that differ in modules or shapes.
    """
    if not adapters:
        raise ValueError("no adapter to stack, expected at least one")
    shapes = [{name: (m["a"].shape, m["b"].shape) for name, m in adapter.items()} for adapter in adapters]
    for index, found in enumerate(shapes):
        if found != shapes[0]:
            raise ValueError(f"adapter {index} has shapes {found}, expected those of adapter 0: {shapes[0]}")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *adapters)


def unstack_adapter(stacked: Adapter) -> list[Adapter]:
    """Returns the N adapters of a stack, in order: the inverse of `stack_adapters`."""
    count = jax.tree.leaves(stacked)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count)]


def merge_adapter(params: Params, adapter: Adapter) -> Params:
    """Returns the parameters with w + a @ b in place of each adapted weight; everything else is the same array as
    before.

    The sum is formed in float32, layer by layer, and rounded once to the weight's dtype. Where the update is exactly
    zero the weight keeps its bits (also -0.0 and subnormals). Differentiable in both arguments.

    Raises:
      ValueError: if the adapter has a module that the parameters lack, or factors that do not fit it.
    """
    layers = dict(params["layers"])
    for name, module in adapter.items():
        if name not in layers:
            raise ValueError(f"the parameters have no module {name!r}, expected one of {', '.join(sorted(layers))}")
        w, a, b = layers[name], module["a"], module["b"]
        if a.shape[:-1] != w.shape[:-1] or b.shape != (a.shape[0], a.shape[-1], w.shape[-1]):
            raise ValueError(f"adapter of {name!r} has a {a.shape} and b {b.shape}, expected to fit weight {w.shape}")
        layers[name] = _merge_module(w, a, b)
    return {**params, "layers": layers}


@jax.jit  # else every merge outside of a compiled function would compile the loop of each module again
def _merge_module(w: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    merged: jax.Array = lax.map(_merge_layer, (w, a, b))
    return merged


def _merge_layer(factors: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    w, a, b = factors
    # the default matmul precision is bfloat16 on a TPU
    return _add_rounded(w, jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision=lax.Precision.HIGHEST))


@jax.custom_jvp
def _add_rounded(w: jax.Array, delta: jax.Array) -> jax.Array:
    return jnp.where(delta == 0, w, (w.astype(jnp.float32) + delta).astype(w.dtype))


@_add_rounded.defjvp
def _add_rounded_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # the select would cut the gradient exactly where an adapter starts, at delta = 0
    w, delta = primals
    w_dot, delta_dot = tangents
    return _add_rounded(w, delta), w_dot + delta_dot.astype(w.dtype)
