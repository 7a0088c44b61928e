"""Prompts of ids to new ids, on the device: prefill, then a `while_loop` that ends when every row is done.

Compiled once per prompt bucket, batch size and buffer size; how many tokens are wanted, the sampling numbers, the end
tokens and the weights are data. Knows nothing about text or about how prompts were batched.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from rr_jax.generation.sampling import Sampling, sample_tokens
from rr_jax.models.config import ModelConfig
from rr_jax.models.decoder import Cache, decode_step, prefill
from rr_jax.models.spec import Adapter, Params


@flax.struct.dataclass
class Generated:
    """Holds the new tokens of a batch.

    Attributes:
      tokens: [B, N] int32, `pad_id` from the end token on.
      lengths: [B] int32, how many real tokens each row has (the end token is not counted).
      finished: [B] bool, whether the row ended by itself and not because of the limit; true for rows without a prompt.
      steps: int32 scalar, how many tokens the loop drew for the longest row (one model call each).
    """

    tokens: Int[Array, "B N"]
    lengths: Int[Array, " B"]
    finished: Bool[Array, " B"]
    steps: Int[Array, ""]


@flax.struct.dataclass
class Decoding:
    """Holds a batch on its way: each row's last token [B], the cache with all before it, and what was written so far."""

    token: Int[Array, " B"]
    cache: Cache
    written: Generated


@functools.partial(jax.jit, static_argnames=("max_new_tokens",))
def start(
    params: Params,
    tokens: Int[Array, "B S"] | Int[np.ndarray, "B S"],
    mask: Bool[Array, "B S"] | Bool[np.ndarray, "B S"],
    keys: Key[Array, " B"],
    config: ModelConfig,
    sampling: Sampling,
    *,
    max_new_tokens: int,
    eos_ids: Int[Array, " E"] | Int[np.ndarray, " E"],
    pad_id: Int[Array, ""] | Int[np.ndarray, ""],
    adapters: Adapter | None = None,
    soft_prompt: Float[Array, "B P D"] | Float[np.ndarray, "B P D"] | None = None,
) -> Decoding:
    """Reads the prompts and draws the first token of each row. Arguments as for `generate_tokens`."""
    batch, length = tokens.shape
    logits, cache = prefill(
        params,
        jnp.asarray(tokens),
        jnp.asarray(mask),
        config,
        cache_size=length + max_new_tokens,
        adapters=adapters,
        soft_prompt=None if soft_prompt is None else jnp.asarray(soft_prompt),
    )
    nothing = Generated(
        tokens=jnp.full((batch, max_new_tokens), pad_id, jnp.int32),
        lengths=jnp.zeros((batch,), jnp.int32),
        finished=~jnp.any(mask, axis=1),
        steps=jnp.zeros((), jnp.int32),
    )
    # The first token follows from the prefill, so no model call is spent on the last one.
    return _draw(logits, cache, nothing, keys, sampling, eos_ids, pad_id)


@functools.partial(jax.jit, donate_argnames=("decoding",))
def advance(
    params: Params,
    decoding: Decoding,
    keys: Key[Array, " B"],
    config: ModelConfig,
    sampling: Sampling,
    *,
    limit: Int[Array, ""] | Int[np.ndarray, ""],
    eos_ids: Int[Array, " E"] | Int[np.ndarray, " E"],
    pad_id: Int[Array, ""] | Int[np.ndarray, ""],
    adapters: Adapter | None = None,
) -> Decoding:
    """Draws until each row has ended or has `limit` tokens; the same whether that is done at once or in pieces."""
    limit = jnp.minimum(limit, decoding.written.tokens.shape[1])

    def going(decoding: Decoding) -> jax.Array:
        return (decoding.written.steps < limit) & ~jnp.all(decoding.written.finished)

    def step(decoding: Decoding) -> Decoding:
        logits, cache = decode_step(params, decoding.token, decoding.cache, config, adapters=adapters)
        return _draw(logits, cache, decoding.written, keys, sampling, eos_ids, pad_id)

    result: Decoding = jax.lax.while_loop(going, step, decoding)
    return result


def _draw(
    logits: jax.Array,
    cache: Cache,
    written: Generated,
    keys: jax.Array,
    sampling: Sampling,
    eos_ids: jax.Array | np.ndarray,
    pad_id: jax.Array | np.ndarray,
) -> Decoding:
    """Draws one token for each row that has not ended."""
    step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, written.steps)
    token = sample_tokens(logits, step_keys, sampling)
    ended = written.finished | jnp.any(token[:, None] == eos_ids[None, :], axis=1)
    token = jnp.where(ended, pad_id, token)
    written = Generated(
        tokens=jax.lax.dynamic_update_slice(written.tokens, token[:, None], (0, written.steps)),
        lengths=written.lengths + ~ended,
        finished=ended,
        steps=written.steps + 1,
    )
    return Decoding(token, cache, written)


@functools.partial(jax.jit, static_argnames=("max_new_tokens",))
def generate_tokens(
    params: Params,
    tokens: Int[Array, "B S"] | Int[np.ndarray, "B S"],
    mask: Bool[Array, "B S"] | Bool[np.ndarray, "B S"],
    keys: Key[Array, " B"],
    config: ModelConfig,
    sampling: Sampling,
    *,
    max_new_tokens: int,
    limit: Int[Array, ""] | Int[np.ndarray, ""],
    eos_ids: Int[Array, " E"] | Int[np.ndarray, " E"],
    pad_id: Int[Array, ""] | Int[np.ndarray, ""],
    adapters: Adapter | None = None,
    soft_prompt: Float[Array, "B P D"] | Float[np.ndarray, "B P D"] | None = None,
) -> Generated:
    """Continues each row until it draws an end token or has `limit` tokens: `start` and `advance` in one call.

    Token t of row i is drawn with fold_in(keys[i], t): it does not depend on the other rows or on when they end.

    Args:
      params: the model's weights.
      tokens: [B, S] int32, padded on the left.
      mask: [B, S] bool, real tokens. A row with none (it fills up a batch) is done from the start.
      keys: [B] keys, one a row.
      config: static.
      sampling: its `method` is static, its numbers are traced.
      max_new_tokens: N, static: the size of the buffer and of the cache beyond the prompt; at least 1.
      limit: int32 scalar, how many tokens to draw at most; no more than N are.
      eos_ids: [E] int32, the tokens that end a row; E may be 0.
      pad_id: int32 scalar, what is written once a row is done.
      adapters: as in `forward`.
      soft_prompt: [B, P, D], as in `forward`.
    """
    ends = {"eos_ids": eos_ids, "pad_id": pad_id}
    begun = start(
        params, tokens, mask, keys, config, sampling, max_new_tokens=max_new_tokens, **ends,
        adapters=adapters, soft_prompt=soft_prompt,
    )  # fmt: skip
    return advance(params, begun, keys, config, sampling, limit=limit, **ends, adapters=adapters).written
