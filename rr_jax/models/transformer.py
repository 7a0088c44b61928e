"""One decoder for every supported family: `forward`, `hidden_states`, `prefill` and `decode_step` as pure functions.

Layers are stacked on a leading axis and scanned, so a deep model compiles as fast as a shallow one. An adapter is
optional data that enters every linear module; the base weights never hold it. Nothing here knows about text, files,
training or where the weights came from.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from rr_jax.models import layers
from rr_jax.models.config import ModelConfig
from rr_jax.models.spec import LINEAR_MODULES

Params = dict[str, Any]
Adapter = dict[str, dict[str, jax.Array]]

SOFT_TOKEN = -1  # a token id that takes its embedding from the soft prompt


@flax.struct.dataclass
class Cache:
    """Keys and values of what was already read, and where the next token goes.

    Attributes:
      k, v: [L, B, T, K, h].
      mask: [B, T] bool, slots that hold a real token.
      positions: [B, T] int32, the rotary position of each slot.
      index: int32 scalar, the slot of the next token (the same for all rows: prompts are padded on the left).
    """

    k: jax.Array
    v: jax.Array
    mask: jax.Array
    positions: jax.Array
    index: jax.Array


def forward(
    params: Params,
    tokens: jax.Array,
    config: ModelConfig,
    *,
    adapters: Adapter | None = None,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    soft_prompt: jax.Array | None = None,
) -> jax.Array:
    """Next-token logits [B, S, V] in float32.

    Args:
      params: the tree that `spec.param_specs` describes.
      tokens: [B, S] int32; `SOFT_TOKEN` takes the next row of `soft_prompt`.
      config: static.
      adapters: {module: {"a": [L, in, R], "b": [L, R, out]}} with the scale already in `b`, or None.
      mask: [B, S] bool, real tokens; padding may be on either side.
      segment_ids: [B, S] int32 for packed rows: a token sees its own segment only, 0 is padding. Replaces `mask`.
      soft_prompt: [B, P, D] embeddings for the soft tokens of each row, in order.
    """
    states = hidden_states(
        params, tokens, config, adapters=adapters, mask=mask, segment_ids=segment_ids, soft_prompt=soft_prompt
    )
    return unembed(params, states)


def hidden_states(
    params: Params,
    tokens: jax.Array,
    config: ModelConfig,
    *,
    adapters: Adapter | None = None,
    mask: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    soft_prompt: jax.Array | None = None,
) -> jax.Array:
    """The states [B, S, D] after the final norm. Arguments as for `forward`."""
    if segment_ids is None:
        segment_ids = jnp.ones_like(tokens) if mask is None else mask.astype(jnp.int32)
    positions = _segment_positions(segment_ids)
    same_segment = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids > 0)[:, None, :]
    visible = same_segment & _causal(positions, positions, config)
    x = _embed(params, tokens, soft_prompt)
    x, _ = _scan_layers(params, x, positions, visible, config, adapters, cache=None)
    return layers.rms_norm(x, params["final_norm"], config.norm_eps)


def unembed(params: Params, states: jax.Array) -> jax.Array:
    """Logits in float32 of states [..., D]: through the head, or the transposed embeddings when they are tied."""
    if "head" in params:
        return jnp.einsum("...d,dv->...v", states, params["head"], preferred_element_type=jnp.float32)
    return jnp.einsum("...d,vd->...v", states, params["embed"], preferred_element_type=jnp.float32)


def prefill(
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    config: ModelConfig,
    *,
    cache_size: int,
    adapters: Adapter | None = None,
    soft_prompt: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
    """Reads left-padded prompts and opens a cache of `cache_size` slots (static, at least S).

    Args:
      tokens: [B, S] int32, padded on the left.
      mask: [B, S] bool, real tokens.

    Returns:
      Logits [B, V] float32 after the last prompt token (only those are computed), and the cache.
    """
    batch, length = tokens.shape
    if cache_size < length:
        raise ValueError(f"cache_size is {cache_size}, the prompts alone need {length}")
    segment_ids = mask.astype(jnp.int32)
    positions = _segment_positions(segment_ids)
    room = ((0, 0), (0, cache_size - length))
    shape = (config.num_layers, batch, cache_size, config.num_kv_heads, config.head_dim)
    dtype = params["embed"].dtype
    cache = Cache(
        k=jnp.zeros(shape, dtype),
        v=jnp.zeros(shape, dtype),
        mask=jnp.pad(mask, room),
        positions=jnp.pad(positions, room),
        index=jnp.zeros((), jnp.int32),
    )
    visible = _causal(positions, cache.positions, config) & cache.mask[:, None, :]
    x = _embed(params, tokens, soft_prompt)
    x, cache = _scan_layers(params, x, positions, visible, config, adapters, cache)
    last = layers.rms_norm(x[:, -1, :], params["final_norm"], config.norm_eps)
    return unembed(params, last), dataclasses.replace(cache, index=jnp.asarray(length, jnp.int32))


def decode_step(
    params: Params, token: jax.Array, cache: Cache, config: ModelConfig, *, adapters: Adapter | None = None
) -> tuple[jax.Array, Cache]:
    """Appends one token [B] to every row and returns the logits [B, V] float32 that follow it, and the cache."""
    slots = jnp.arange(cache.mask.shape[1])[None, :] == cache.index
    position = jnp.sum(cache.mask, axis=1, dtype=jnp.int32)[:, None]  # [B, 1]: real tokens so far
    cache = dataclasses.replace(cache, mask=cache.mask | slots, positions=jnp.where(slots, position, cache.positions))
    visible = _causal(position, cache.positions, config) & cache.mask[:, None, :]
    x = _embed(params, token[:, None], None)
    x, cache = _scan_layers(params, x, position, visible, config, adapters, cache)
    last = layers.rms_norm(x[:, 0, :], params["final_norm"], config.norm_eps)
    return unembed(params, last), dataclasses.replace(cache, index=cache.index + 1)


def _segment_positions(segment_ids: jax.Array) -> jax.Array:
    """Positions [B, S] counted from the start of each run of equal segment ids."""
    columns = jnp.broadcast_to(jnp.arange(segment_ids.shape[1], dtype=jnp.int32)[None, :], segment_ids.shape)
    before = jnp.concatenate([jnp.full_like(segment_ids[:, :1], -1), segment_ids[:, :-1]], axis=1)
    starts = jnp.where(segment_ids != before, columns, 0)
    return columns - jax.lax.cummax(starts, axis=1)


def _causal(query_positions: jax.Array, key_positions: jax.Array, config: ModelConfig) -> jax.Array:
    """[B, S, T] bool: keys at or before the query, and within the sliding window if there is one."""
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    if config.sliding_window is None:
        return distance >= 0
    return (distance >= 0) & (distance < config.sliding_window)


def _embed(params: Params, tokens: jax.Array, soft_prompt: jax.Array | None) -> jax.Array:
    """Embeddings [B, S, D]; the n-th soft token of a row takes row n of its soft prompt."""
    x = params["embed"][jnp.maximum(tokens, 0)]
    if soft_prompt is None:
        return x
    soft = tokens == SOFT_TOKEN
    order = jnp.clip(jnp.cumsum(soft, axis=1) - 1, 0, soft_prompt.shape[1] - 1)
    inserted = jnp.take_along_axis(soft_prompt.astype(x.dtype), order[:, :, None], axis=1)
    return jnp.where(soft[:, :, None], inserted, x)


def _scan_layers(
    params: Params,
    x: jax.Array,
    positions: jax.Array,
    visible: jax.Array,
    config: ModelConfig,
    adapters: Adapter | None,
    cache: Cache | None,
) -> tuple[jax.Array, Any]:
    """Runs all layers over x [B, S, D]. With a cache, new keys and values are written at `cache.index`."""
    angles = layers.rotary_angles(positions, config)
    if cache is None:

        def block(x: jax.Array, scanned: Any) -> tuple[jax.Array, None]:
            weights, adapter = scanned
            q, k, v = _queries_keys_values(x, weights, adapter, angles, config)
            return _finish_layer(x, layers.attention(q, k, v, visible), weights, adapter, config), None

        x, _ = jax.lax.scan(block, x, (params["layers"], adapters))
        return x, None

    def cached_block(carry: Any, scanned: Any) -> tuple[Any, None]:
        # The cache is carried and updated in place: as a scanned input and output it would be copied every token.
        x, all_k, all_v = carry
        weights, adapter, layer = scanned
        q, k, v = _queries_keys_values(x, weights, adapter, angles, config)
        at = (layer, 0, cache.index, 0, 0)
        all_k = jax.lax.dynamic_update_slice(all_k, k[None], at)
        all_v = jax.lax.dynamic_update_slice(all_v, v[None], at)
        context = layers.attention(q, all_k[layer], all_v[layer], visible)
        return (_finish_layer(x, context, weights, adapter, config), all_k, all_v), None

    scanned = (params["layers"], adapters, jnp.arange(config.num_layers))
    (x, k, v), _ = jax.lax.scan(cached_block, (x, cache.k, cache.v), scanned)
    return x, dataclasses.replace(cache, k=k, v=v)


def _queries_keys_values(
    x: jax.Array,
    weights: dict[str, jax.Array],
    adapter: Adapter | None,
    angles: tuple[jax.Array, jax.Array],
    config: ModelConfig,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotated queries [B, S, H, h] and keys [B, S, K, h], and values [B, S, K, h], of one layer."""
    batch, length, _ = x.shape
    normed = layers.rms_norm(x, weights["attn_norm"], config.norm_eps)

    def project(name: str, heads: int) -> jax.Array:
        y = layers.linear(normed, weights[name], weights.get(f"{name}_bias"), _of(adapter, name))
        return y.reshape(batch, length, heads, config.head_dim)

    q, k, v = (
        project("q", config.num_heads),
        project("k", config.num_kv_heads),
        project("v", config.num_kv_heads),
    )
    if config.qk_norm:
        q = layers.rms_norm(q, weights["q_norm"], config.norm_eps)
        k = layers.rms_norm(k, weights["k_norm"], config.norm_eps)
    return layers.apply_rotary(q, angles), layers.apply_rotary(k, angles), v


def _finish_layer(
    x: jax.Array, context: jax.Array, weights: dict[str, jax.Array], adapter: Adapter | None, config: ModelConfig
) -> jax.Array:
    """Adds the attention output and the gated MLP to the residual stream."""
    x = x + layers.linear(context, weights["o"], None, _of(adapter, "o"))
    normed = layers.rms_norm(x, weights["mlp_norm"], config.norm_eps)
    gate = jax.nn.silu(layers.linear(normed, weights["gate"], None, _of(adapter, "gate")))
    up = layers.linear(normed, weights["up"], None, _of(adapter, "up"))
    return x + layers.linear(gate * up, weights["down"], None, _of(adapter, "down"))


def _of(adapter: Adapter | None, module: str) -> dict[str, jax.Array] | None:
    return None if adapter is None else adapter.get(module)


__all__ = [
    "LINEAR_MODULES",
    "SOFT_TOKEN",
    "Adapter",
    "Cache",
    "Params",
    "decode_step",
    "forward",
    "hidden_states",
    "prefill",
    "unembed",
]
