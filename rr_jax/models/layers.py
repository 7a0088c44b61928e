"""The pieces a decoder layer is made of, as pure functions of arrays.

Norms, softmax and adapter products are computed in float32; matrix products in the dtype of the weights. Nothing here
knows about layers being stacked, caches or configs of other projects.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rr_jax.models.config import ModelConfig, RopeScaling

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}


def rms_norm(
    x: Float[Array, "*B D"], weight: Float[Array, " D"], eps: float, offset: float = 0.0
) -> Float[Array, "*B D"]:
    """Returns x / rms(x) * (weight + offset) over the last axis, in float32, in the dtype of `x` (Zhang & Sennrich
    2019)."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (normed * (_along_last(weight, x.ndim) + offset)).astype(x.dtype)


def layer_norm(
    x: Float[Array, "*B D"], weight: Float[Array, " D"] | None, bias: Float[Array, " D"] | None, eps: float
) -> Float[Array, "*B D"]:
    """Returns (x - mean) / sqrt(variance + eps) * weight + bias over the last axis, in float32, in the dtype of `x`.

    (Ba, Kiros & Hinton 2016.) Without a weight or bias nothing is multiplied or added.
    """
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)
    if weight is not None:
        normed = normed * _along_last(weight, x.ndim)
    if bias is not None:
        normed = normed + _along_last(bias, x.ndim)
    return normed.astype(x.dtype)


def _along_last(vector: jax.Array, ndim: int) -> jax.Array:
    return vector.astype(jnp.float32).reshape((1,) * (ndim - vector.ndim) + vector.shape)


def rotary_frequencies(dim: int, theta: float, scaling: RopeScaling | None = None) -> Float[Array, " dim/2"]:
    """Returns the angular frequency of each of the dim / 2 rotary pairs, float32, after scaling.

    The llama3 rule is that of the Llama 3.1 release: wavelengths longer than original / low_freq_factor are divided by
    `factor`, shorter than original / high_freq_factor are kept, and those between are interpolated.
    """
    exponents = jnp.arange(0, dim, 2, dtype=jnp.float32) / dim
    frequencies = 1.0 / theta**exponents
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


def rotary_angles(
    positions: Int[Array, "B S"], config: ModelConfig, *, local: bool = False
) -> tuple[Float[Array, "B S rotated/2"], Float[Array, "B S rotated/2"]]:
    """Returns cosine and sine of positions [B, S], each [B, S, rotated / 2] float32: computed once, shared by all
    layers.

    `local` gives those of the layers that slide, where the config has another theta for them.
    """
    if local and config.local_rope_theta is not None:
        frequencies = rotary_frequencies(config.rotated, config.local_rope_theta)
    else:
        frequencies = rotary_frequencies(config.rotated, config.rope_theta, config.rope_scaling)
    angles = positions.astype(jnp.float32)[:, :, None] * frequencies[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def apply_rotary(
    x: Float[Array, "B S heads h"], angles: tuple[Float[Array, "B S rotated/2"], Float[Array, "B S rotated/2"]]
) -> Float[Array, "B S heads h"]:
    """Rotates the halves of the first entries of each head of x [B, S, heads, h] (half-split, as Hugging Face has it).

    As many entries as there are angles, two for each; the rest of the head passes through.
    """
    cos, sin = (part[:, :, None, :] for part in angles)
    rotated = 2 * cos.shape[-1]
    first, second = jnp.split(x[..., :rotated].astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
    return turned if rotated == x.shape[-1] else jnp.concatenate([turned, x[..., rotated:]], axis=-1)


def linear(
    x: Float[Array, "*B in"],
    weight: Float[Array, "in out"],
    bias: Float[Array, " out"] | None = None,
    adapter: dict[str, jax.Array] | None = None,
) -> Float[Array, "*B out"]:
    """Returns x @ weight (+ bias) (+ x @ a @ b).

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


def attention(
    q: Float[Array, "B S H h"],
    k: Float[Array, "B T K h"],
    v: Float[Array, "B T K h"],
    mask: Bool[Array, "B S T"],
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B S H*h"]:
    """Computes grouped-query attention with a float32 softmax.

    Args:
      q: [B, S, H, h].
      k, v: [B, T, K, h]; H is a multiple of K.
      mask: [B, S, T] bool, which slots each query sees.
      scale: what scores are multiplied by; None is 1 / sqrt(h).
      softcap: scores become softcap * tanh(scores / softcap) before the mask (Gemma 2).

    Returns:
      [B, S, H * h]. A query that sees nothing (padding) gets the mean of all slots, which nobody reads.
    """
    batch, length, heads, dim = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(batch, length, kv_heads, heads // kv_heads, dim)
    scores = jnp.einsum("bskgh,btkh->bkgst", grouped, k, preferred_element_type=jnp.float32)
    scores = scores / math.sqrt(dim) if scale is None else scores * scale
    if softcap is not None:
        scores = soft_cap(scores, softcap)
    scores = jnp.where(mask[:, None, None, :, :], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgst,btkh->bskgh", weights, v).reshape(batch, length, heads * dim)


def soft_cap(x: Float[Array, "*B"], cap: float) -> Float[Array, "*B"]:
    """Returns cap * tanh(x / cap): x where it is small, never beyond +- cap (Gemma 2)."""
    return cap * jnp.tanh(x / cap)
