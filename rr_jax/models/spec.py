"""The shape, axes and initialisation of every array of a model, stated once.

Initialisation, abstract trees, shardings and checks on loaded weights all read this one description.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from rr_jax.models.config import ModelConfig

Params = dict[str, Any]  # name -> array, and "layers" -> {name: array with a leading axis L}; see `param_specs`
Adapter = dict[str, dict[str, jax.Array]]  # module -> {"a": [L, in, R], "b": [L, R, out]}, float32, the scale in `b`
LINEAR_MODULES = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """Describes one array: its shape, the name of each axis, how it starts ("normal" with `scale`, "zeros" or "ones")."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: str = "normal"
    scale: float = 0.02


_LINEAR_AXES = {
    "q": ("embed", "heads"),
    "k": ("embed", "kv_heads"),
    "v": ("embed", "kv_heads"),
    "o": ("heads", "embed"),
    "gate": ("embed", "ffn"),
    "up": ("embed", "ffn"),
    "down": ("ffn", "embed"),
}


def linear_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Returns (in, out) of each linear module of a layer; these are the modules an adapter can target."""
    sizes = {
        "embed": config.embed_dim,
        "heads": config.num_heads * config.head_dim,
        "kv_heads": config.num_kv_heads * config.head_dim,
        "ffn": config.ffn_dim,
    }
    names = [name for name in LINEAR_MODULES if config.gated or name != "gate"]
    return {name: (sizes[_LINEAR_AXES[name][0]], sizes[_LINEAR_AXES[name][1]]) for name in names}


def check_inputs(tokens: Any, axes: int, adapters: Mapping[str, Any] | None, config: ModelConfig) -> None:
    """Refuses what a model would look past, or fail at far from here; nothing of it is left in compiled code.

    Raises:
      ValueError: tokens of another number of axes than `axes` (1 is [B], 2 is [B, S]), or an adapter of a module that
        the model has not.
    """
    shape, modules = jnp.shape(tokens), linear_shapes(config)
    if len(shape) != axes:
        raise ValueError(f"tokens have shape {shape}, expected {('[B]', '[B, S]')[axes - 1]}")
    unknown = [name for name in adapters or {} if name not in modules]
    if unknown:
        raise ValueError(f"adapters: the model has no module {unknown[0]!r}, expected some of {', '.join(modules)}")


def param_specs(config: ModelConfig) -> dict[str, Any]:
    """Returns the tree of `ArraySpec` of a model's parameters; layers are stacked on a leading axis for `lax.scan`."""
    layers, embed, vocab = config.num_layers, config.embed_dim, config.vocab_size
    shapes = linear_shapes(config)
    block: dict[str, ArraySpec] = {}
    for name in _norm_names(config):
        block |= _norm(config, name, (layers, embed), ("layers", "embed"))
    residual = 0.02 / math.sqrt(2 * layers)
    for name, shape in shapes.items():
        scale = residual if name in ("o", "down") else 0.02
        block[name] = ArraySpec((layers, *shape), ("layers", *_LINEAR_AXES[name]), "normal", scale)
    biased = {"q": config.qkv_bias, "k": config.qkv_bias, "v": config.qkv_bias, "o": config.out_bias}
    for name, shape in shapes.items():
        if biased.get(name, config.mlp_bias):
            block[f"{name}_bias"] = ArraySpec((layers, shape[1]), ("layers", _LINEAR_AXES[name][1]), "zeros")
    if config.qk_norm is not None:
        start = "zeros" if config.norm_offset else "ones"
        for name in ("q", "k"):
            size, axis = (
                (config.head_dim, "head") if config.qk_norm == "head" else (shapes[name][1], _LINEAR_AXES[name][1])
            )
            block[f"{name}_norm"] = ArraySpec((layers, size), ("layers", axis), start)
    specs: dict[str, Any] = {"embed": ArraySpec((vocab, embed), ("vocab", "embed")), "layers": block}
    if config.positions == "learned":
        specs["positions"] = ArraySpec((config.max_positions + config.position_offset, embed), ("positions", "embed"))
    specs |= _norm(config, "final_norm", (embed,), ("embed",))
    if not config.tied_embeddings:
        specs["head"] = ArraySpec((embed, vocab), ("embed", "vocab"))
    return specs


def _norm_names(config: ModelConfig) -> list[str]:
    names = ["attn_norm", "mlp_norm"] if config.norm_place in ("pre", "both") else []
    return names + (["attn_post_norm", "mlp_post_norm"] if config.norm_place in ("post", "both") else [])


def _norm(config: ModelConfig, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> dict[str, ArraySpec]:
    """Returns the parameters of one norm: none, a weight, or a weight and a bias."""
    if config.norm == "plain":
        return {}
    weight = {name: ArraySpec(shape, axes, "zeros" if config.norm_offset else "ones")}
    return weight | ({f"{name}_bias": ArraySpec(shape, axes, "zeros")} if config.norm == "layer" else {})


def init_params(key: Key[Array, ""], config: ModelConfig, dtype: jnp.dtype = jnp.float32) -> dict[str, Any]:
    """Draws random parameters of a model to be trained from scratch, one key an array."""
    specs, treedef = jax.tree.flatten(param_specs(config))
    keys = jax.random.split(key, len(specs))

    def start(spec: ArraySpec, key: jax.Array) -> jax.Array:
        if spec.init == "normal":
            return spec.scale * jax.random.normal(key, spec.shape, dtype)
        return jnp.full(spec.shape, 1.0 if spec.init == "ones" else 0.0, dtype)

    return jax.tree.unflatten(treedef, [start(spec, key) for spec, key in zip(specs, keys, strict=True)])
