"""The shape, axes and initialisation of every array of a model, stated once.

Initialisation, abstract trees and checks on loaded weights all read this one description.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from rr_jax.models.config import ModelConfig

LINEAR_MODULES = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One array: its shape, the name of each axis, and how it starts ("normal" with `scale`, "zeros" or "ones")."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: str = "normal"
    scale: float = 0.02


def linear_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(in, out) of each linear module of a layer; these are the modules an adapter can target."""
    embed, heads, kv = config.embed_dim, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "q": (embed, heads),
        "k": (embed, kv),
        "v": (embed, kv),
        "o": (heads, embed),
        "gate": (embed, config.ffn_dim),
        "up": (embed, config.ffn_dim),
        "down": (config.ffn_dim, embed),
    }


_LINEAR_AXES = {
    "q": ("embed", "heads"),
    "k": ("embed", "kv_heads"),
    "v": ("embed", "kv_heads"),
    "o": ("heads", "embed"),
    "gate": ("embed", "ffn"),
    "up": ("embed", "ffn"),
    "down": ("ffn", "embed"),
}


def param_specs(config: ModelConfig) -> dict[str, Any]:
    """The tree of `ArraySpec` of a model's parameters; layers are stacked on a leading axis for `lax.scan`."""
    layers, embed, vocab = config.num_layers, config.embed_dim, config.vocab_size
    residual = 0.02 / math.sqrt(2 * layers)
    block: dict[str, ArraySpec] = {
        "attn_norm": ArraySpec((layers, embed), ("layers", "embed"), "ones"),
        "mlp_norm": ArraySpec((layers, embed), ("layers", "embed"), "ones"),
    }
    shapes = linear_shapes(config)
    for name, (rows, columns) in shapes.items():
        scale = residual if name in ("o", "down") else 0.02
        block[name] = ArraySpec((layers, rows, columns), ("layers", *_LINEAR_AXES[name]), "normal", scale)
    if config.qkv_bias:
        for name in ("q", "k", "v"):
            block[f"{name}_bias"] = ArraySpec((layers, shapes[name][1]), ("layers", _LINEAR_AXES[name][1]), "zeros")
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            block[name] = ArraySpec((layers, config.head_dim), ("layers", "head"), "ones")
    specs: dict[str, Any] = {
        "embed": ArraySpec((vocab, embed), ("vocab", "embed")),
        "layers": block,
        "final_norm": ArraySpec((embed,), ("embed",), "ones"),
    }
    if not config.tied_embeddings:
        specs["head"] = ArraySpec((embed, vocab), ("embed", "vocab"))
    return specs


def init_params(key: jax.Array, config: ModelConfig, dtype: jnp.dtype = jnp.float32) -> dict[str, Any]:
    """Random parameters of a model to be trained from scratch, one key an array."""
    specs, treedef = jax.tree.flatten(param_specs(config))
    keys = jax.random.split(key, len(specs))

    def start(spec: ArraySpec, key: jax.Array) -> jax.Array:
        if spec.init == "normal":
            return spec.scale * jax.random.normal(key, spec.shape, dtype)
        return jnp.full(spec.shape, 1.0 if spec.init == "ones" else 0.0, dtype)

    return jax.tree.unflatten(treedef, [start(spec, key) for spec, key in zip(specs, keys, strict=True)])
