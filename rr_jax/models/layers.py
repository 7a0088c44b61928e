"""The pieces a decoder layer is made of, as pure functions of arrays.

Norms, softmax and adapter products are computed in float32; matrix products in the dtype of the weights. Nothing here
knows about layers being stacked, caches or configs of other projects.
"""

import math

import jax
import jax.numpy as jnp

from rr_jax.models.config import ModelConfig


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * weight over the last axis, in float32, returned in the dtype of `x` (Zhang & Sennrich 2019)."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    weight = weight.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + weight.shape)
    return (normed * weight).astype(x.dtype)


def rotary_frequencies(config: ModelConfig) -> jax.Array:
    """Angular frequency of each rotary pair, [h / 2] float32, after the config's scaling.

    The llama3 rule is that of the Llama 3.1 release: wavelengths longer than original / low_freq_factor are divided by
    `factor`, shorter than original / high_freq_factor are kept, and those between are interpolated.
    """
    exponents = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "llama3":
        turns = scaling.original_max_positions * frequencies / (2 * math.pi)  # full turns within the original length
        keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        keep = jnp.clip(keep, 0.0, 1.0)
        return keep * frequencies + (1.0 - keep) * frequencies / scaling.factor
    raise ValueError(f"rope_scaling.kind is {scaling.kind!r}, expected 'linear' or 'llama3'")


def rotary_angles(positions: jax.Array, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of positions [B, S], each [B, S, h / 2] float32: computed once, shared by all layers."""
    angles = positions.astype(jnp.float32)[:, :, None] * rotary_frequencies(config)[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def apply_rotary(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the halves of each head of x [B, S, heads, h] (the half-split layout of Hugging Face)."""
    cos, sin = (part[:, :, None, :] for part in angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def linear(
    x: jax.Array, weight: jax.Array, bias: jax.Array | None = None, adapter: dict[str, jax.Array] | None = None
) -> jax.Array:
    """x @ weight (+ bias) (+ x @ a @ b).

    Args:
      x: [..., in].
      weight: [in, out].
      bias: [out].
      adapter: {"a": [in, R], "b": [R, out]} float32, its scale already in `b`.
    """
    rows = x.reshape(-1, x.shape[-1])  # one large 2-D product is faster than a batched one on every backend
    y = rows @ weight
    if bias is not None:
        y = y + bias[None, :]
    if adapter is not None:
        y = y + ((rows.astype(jnp.float32) @ adapter["a"]) @ adapter["b"]).astype(y.dtype)
    return y.reshape(*x.shape[:-1], weight.shape[-1])


def attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Grouped-query attention with a float32 softmax.

    Args:
      q: [B, S, H, h].
      k, v: [B, T, K, h]; H is a multiple of K.
      mask: [B, S, T] bool, which slots each query sees.

    Returns:
      [B, S, H * h]. A query that sees nothing (padding) gets the mean of all slots, which nobody reads.
    """
    batch, length, heads, dim = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(batch, length, kv_heads, heads // kv_heads, dim)
    scores = jnp.einsum("bskgh,btkh->bkgst", grouped, k, preferred_element_type=jnp.float32) / math.sqrt(dim)
    scores = jnp.where(mask[:, None, None, :, :], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgst,btkh->bskgh", weights, v).reshape(batch, length, heads * dim)
