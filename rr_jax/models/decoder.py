"""One decoder for every supported family: `forward`, `hidden_states`, `prefill` and `decode_step` as pure functions.

Layers are stacked on a leading axis and scanned, so a deep model compiles as fast as a shallow one. An adapter is
optional data that enters every linear module; the base weights never hold it. Nothing here knows about text, files,
training or where the weights came from, and no family is named: `ModelConfig` says all there is to know.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rr_jax.models import layers
from rr_jax.models.attention_masks import AttentionMask, make_masks, mask_of_layer, segment_positions, slides_by_layer
from rr_jax.models.config import ModelConfig
from rr_jax.models.spec import Adapter, Params, check_inputs

Read = Callable[[str, jax.Array, jax.Array], Any]
Keep = Callable[[str, jax.Array], None]

AFTER_LAYER = "after"  # what `read_inputs` calls the residual stream after a layer
SOFT_TOKEN = -1  # a token id that takes its embedding from the soft prompt


@flax.struct.dataclass
class Cache:
    """Holds the keys and values of what was already read, and says where the next token goes.

    Attributes:
      k, v: [L, B, T, K, h].
      mask: [B, T] bool, slots that hold a real token.
      positions: [B, T] int32, the rotary position of each slot.
      index: int32 scalar, the slot of the next token (the same for all rows: prompts are padded on the left).
    """

    k: Float[Array, "L B T K h"]
    v: Float[Array, "L B T K h"]
    mask: Bool[Array, "B T"]
    positions: Int[Array, "B T"]
    index: Int[Array, ""]


def forward(
    params: Params,
    tokens: Int[Array, "B S"],
    config: ModelConfig,
    *,
    adapters: Adapter | None = None,
    mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    soft_prompt: Float[Array, "B P D"] | None = None,
) -> Float[Array, "B S V"]:
    """Computes next-token logits [B, S, V] in float32.

    Args:
      params: the tree that `spec.param_specs` describes.
      tokens: [B, S] int32; `SOFT_TOKEN` takes the next row of `soft_prompt`.
      config: static.
      adapters: {module: {"a": [L, in, R], "b": [L, R, out]}} with the scale already in `b`, or None.
      mask: [B, S] bool, real tokens; padding may be on either side.
      segment_ids: [B, S] int32 for packed rows: a token sees its own segment only, 0 is padding. Replaces `mask`.
      soft_prompt: [B, P, D] embeddings for the soft tokens of each row, in order.

    Raises:
      ValueError: tokens of another number of axes, or an adapter of a module that the model has not.
    """
    states = hidden_states(
        params, tokens, config, adapters=adapters, mask=mask, segment_ids=segment_ids, soft_prompt=soft_prompt
    )
    return unembed(params, states, config)


def hidden_states(
    params: Params,
    tokens: Int[Array, "B S"],
    config: ModelConfig,
    *,
    adapters: Adapter | None = None,
    mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    soft_prompt: Float[Array, "B P D"] | None = None,
) -> Float[Array, "B S D"]:
    """Computes the states [B, S, D] after the final norm. Arguments as for `forward`."""
    x, _ = _read(params, tokens, config, adapters, mask, segment_ids, soft_prompt)
    return _norm(x, params, "final_norm", config)


def read_inputs(
    params: Params,
    tokens: Int[Array, "B S"],
    config: ModelConfig,
    read: Read,
    *,
    adapters: Adapter | None = None,
    mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
) -> dict[str, Any]:
    """Returns what `read` makes of the input of each linear module: {module: a tree whose leaves have a leading axis
    L}.

    Args:
      read: called as read(module, layer, x) with the number of the layer (traced) and x [B, S, in], and once a layer
        with the name `AFTER_LAYER` and the residual stream [B, S, D] after it. What it returns is stacked over layers;
        None leaves the module out. Returning sums, and not x itself, is what keeps memory small.
      others: as for `forward`.
    """
    return _read(params, tokens, config, adapters, mask, segment_ids, None, read)[1]


def unembed(params: Params, states: Float[Array, "*B D"], config: ModelConfig) -> Float[Array, "*B V"]:
    """Computes logits in float32 of states [..., D]: through the head, or the transposed embeddings when they are tied."""
    if config.tied_embeddings:
        logits = jnp.einsum("...d,vd->...v", states, params["embed"], preferred_element_type=jnp.float32)
    else:
        logits = jnp.einsum("...d,dv->...v", states, params["head"], preferred_element_type=jnp.float32)
    return logits if config.logit_softcap is None else layers.soft_cap(logits, config.logit_softcap)


def prefill(
    params: Params,
    tokens: Int[Array, "B S"],
    mask: Bool[Array, "B S"],
    config: ModelConfig,
    *,
    cache_size: int,
    adapters: Adapter | None = None,
    soft_prompt: Float[Array, "B P D"] | None = None,
) -> tuple[Float[Array, "B V"], Cache]:
    """Reads left-padded prompts and opens a cache of `cache_size` slots (static, at least S).

    Args:
      tokens: [B, S] int32, padded on the left.
      mask: [B, S] bool, real tokens.

    Returns:
      Logits [B, V] float32 after the last prompt token (only those are computed), and the cache.
    """
    check_inputs(tokens, 2, adapters, config)
    batch, length = tokens.shape
    if cache_size < length:
        raise ValueError(f"cache_size is {cache_size}, the prompts alone need {length}")
    positions = segment_positions(mask.astype(jnp.int32))
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
    masks = make_masks(positions, cache.positions, cache.mask[:, None, :], config)
    x = _embed(params, tokens, positions, config, soft_prompt)
    x, cache = _scan_cached(params, x, masks, config, adapters, cache)
    last = _norm(x[:, -1, :], params, "final_norm", config)
    return unembed(params, last, config), dataclasses.replace(cache, index=jnp.asarray(length, jnp.int32))


def decode_step(
    params: Params, token: Int[Array, " B"], cache: Cache, config: ModelConfig, *, adapters: Adapter | None = None
) -> tuple[Float[Array, "B V"], Cache]:
    """Appends one token [B] to every row and returns the logits [B, V] float32 that follow it, and the cache."""
    check_inputs(token, 1, adapters, config)
    slots = jnp.arange(cache.mask.shape[1])[None, :] == cache.index
    position = jnp.sum(cache.mask, axis=1, dtype=jnp.int32)[:, None]  # [B, 1]: real tokens so far
    cache = dataclasses.replace(cache, mask=cache.mask | slots, positions=jnp.where(slots, position, cache.positions))
    masks = make_masks(position, cache.positions, cache.mask[:, None, :], config)
    x = _embed(params, token[:, None], position, config, None)
    x, cache = _scan_cached(params, x, masks, config, adapters, cache)
    last = _norm(x[:, 0, :], params, "final_norm", config)
    return unembed(params, last, config), dataclasses.replace(cache, index=cache.index + 1)


def _embed(
    params: Params, tokens: jax.Array, positions: jax.Array, config: ModelConfig, soft_prompt: jax.Array | None
) -> jax.Array:
    """Returns embeddings [B, S, D]; the n-th soft token of a row takes row n of its soft prompt in place of a table
    row."""
    x = params["embed"][jnp.maximum(tokens, 0)]
    if soft_prompt is not None:
        soft = tokens == SOFT_TOKEN
        order = jnp.clip(jnp.cumsum(soft, axis=1) - 1, 0, soft_prompt.shape[1] - 1)
        inserted = jnp.take_along_axis(soft_prompt.astype(x.dtype), order[:, :, None], axis=1)
        x = jnp.where(soft[:, :, None], inserted, x)
    if config.embed_scale != 1.0:
        x = x * jnp.asarray(config.embed_scale, x.dtype)
    if config.positions == "learned":
        x = x + params["positions"][positions + config.position_offset]
    return x


def _read(
    params: Params,
    tokens: jax.Array,
    config: ModelConfig,
    adapters: Adapter | None,
    mask: jax.Array | None,
    segment_ids: jax.Array | None,
    soft_prompt: jax.Array | None,
    read: Read | None = None,
) -> tuple[jax.Array, dict[str, Any]]:
    """Runs all layers over whole texts: the last residual stream [B, S, D], and what `read` kept of each layer."""
    check_inputs(tokens, 2, adapters, config)
    if segment_ids is None:
        segment_ids = jnp.ones_like(tokens) if mask is None else mask.astype(jnp.int32)
    positions = segment_positions(segment_ids)
    same_segment = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids > 0)[:, None, :]
    masks = make_masks(positions, positions, same_segment, config)

    def block(x: jax.Array, scanned: Any) -> tuple[jax.Array, dict[str, Any]]:
        weights, adapter, slides, layer = scanned
        kept: dict[str, Any] = {}

        def keep(name: str, value: jax.Array) -> None:
            if read is not None and (found := read(name, layer, value)) is not None:
                kept[name] = found

        attention_mask = mask_of_layer(masks, slides)
        q, k, v = _queries_keys_values(x, weights, adapter, attention_mask, config, keep)
        x = _finish_layer(x, _attend(q, k, v, attention_mask, config), weights, adapter, config, keep)
        keep(AFTER_LAYER, x)
        return x, kept

    x = _embed(params, tokens, positions, config, soft_prompt)
    return jax.lax.scan(block, x, (params["layers"], adapters, slides_by_layer(config), jnp.arange(config.num_layers)))


def _scan_cached(
    params: Params,
    x: jax.Array,
    masks: tuple[AttentionMask, ...],
    config: ModelConfig,
    adapters: Adapter | None,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """Runs all layers over x [B, S, D]; new keys and values are written at `cache.index`."""

    def block(carry: Any, scanned: Any) -> tuple[Any, None]:
        # The cache is carried and updated in place: as a scanned input and output it would be copied every token.
        x, all_k, all_v = carry
        weights, adapter, slides, layer = scanned
        attention_mask = mask_of_layer(masks, slides)
        q, k, v = _queries_keys_values(x, weights, adapter, attention_mask, config)
        at = (layer, 0, cache.index, 0, 0)
        all_k = jax.lax.dynamic_update_slice(all_k, k[None], at)
        all_v = jax.lax.dynamic_update_slice(all_v, v[None], at)
        context = _attend(q, all_k[layer], all_v[layer], attention_mask, config)
        return (_finish_layer(x, context, weights, adapter, config), all_k, all_v), None

    scanned = (params["layers"], adapters, slides_by_layer(config), jnp.arange(config.num_layers))
    (x, k, v), _ = jax.lax.scan(block, (x, cache.k, cache.v), scanned)
    return x, dataclasses.replace(cache, k=k, v=v)


def _queries_keys_values(
    x: jax.Array,
    weights: dict[str, jax.Array],
    adapter: Adapter | None,
    attention_mask: AttentionMask,
    config: ModelConfig,
    keep: Keep | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns positioned queries [B, S, H, h] and keys [B, S, K, h], and values [B, S, K, h], of one layer."""
    normed = x if config.norm_place == "post" else _norm(x, weights, "attn_norm", config)

    def project(name: str, heads: int) -> jax.Array:
        y = _linear(normed, name, weights, adapter, keep)
        if config.qk_norm == "full" and name != "v":
            y = layers.rms_norm(y, weights[f"{name}_norm"], config.norm_eps, config.norm_offset)
        if config.clip_qkv is not None:
            y = jnp.clip(y, -config.clip_qkv, config.clip_qkv)
        y = y.reshape(*y.shape[:-1], heads, config.head_dim)
        if config.qk_norm == "head" and name != "v":
            y = layers.rms_norm(y, weights[f"{name}_norm"], config.norm_eps, config.norm_offset)
        return y if name == "v" or attention_mask.angles is None else layers.apply_rotary(y, attention_mask.angles)

    return project("q", config.num_heads), project("k", config.num_kv_heads), project("v", config.num_kv_heads)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, attention_mask: AttentionMask, config: ModelConfig) -> jax.Array:
    return layers.attention(q, k, v, attention_mask.visible, config.attention_scale, config.attention_softcap)


def _finish_layer(
    x: jax.Array,
    context: jax.Array,
    weights: dict[str, jax.Array],
    adapter: Adapter | None,
    config: ModelConfig,
    keep: Keep | None = None,
) -> jax.Array:
    """Adds the attention output and the MLP to the residual stream x [B, S, D]."""

    def after(y: jax.Array, name: str) -> jax.Array:
        return y if config.norm_place == "pre" else _norm(y, weights, name, config)

    attended = x + after(_linear(context, "o", weights, adapter, keep), "attn_post_norm")
    source = x if config.parallel_residual else attended
    normed = source if config.norm_place == "post" else _norm(source, weights, "mlp_norm", config)
    activate = layers.ACTIVATIONS[config.activation]
    up = _linear(normed, "up", weights, adapter, keep)
    inner = activate(_linear(normed, "gate", weights, adapter, keep)) * up if config.gated else activate(up)
    return attended + after(_linear(inner, "down", weights, adapter, keep), "mlp_post_norm")


def _norm(x: jax.Array, weights: Params, name: str, config: ModelConfig) -> jax.Array:
    """Applies the norm called `name`, of the kind that all norms of the model are."""
    if config.norm == "rms":
        return layers.rms_norm(x, weights[name], config.norm_eps, config.norm_offset)
    return layers.layer_norm(x, weights.get(name), weights.get(f"{name}_bias"), config.norm_eps)


def _linear(
    x: jax.Array, name: str, weights: dict[str, jax.Array], adapter: Adapter | None, keep: Keep | None
) -> jax.Array:
    """Applies the linear module called `name` with its bias and its part of the adapter, if it has them."""
    if keep is not None:
        keep(name, x)
    return layers.linear(x, weights[name], weights.get(f"{name}_bias"), None if adapter is None else adapter.get(name))


__all__ = [
    "AFTER_LAYER",
    "SOFT_TOKEN",
    "Cache",
    "decode_step",
    "forward",
    "hidden_states",
    "prefill",
    "read_inputs",
    "unembed",
]
