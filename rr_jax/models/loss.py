"""Next-token loss of packed, weighted rows, without ever holding the logits of all of them.

Returned as (sum, weight) so that devices, accumulation steps and evaluation batches add up exactly; the mean is the
caller's division.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rr_jax.models.config import ModelConfig
from rr_jax.models.decoder import hidden_states, unembed
from rr_jax.models.spec import Adapter, Params

Batch = dict[str, jax.Array]

LOGITS_AT_ONCE = 2**25  # float32 logits held at a time, 128 MiB; more rows than that go through in chunks


def token_nll(
    params: Params, batch: Batch, config: ModelConfig, *, adapters: Adapter | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the weighted sum of -log p(token | what precedes it in its segment), in nats, and the sum of the weights.

    Args:
      batch: "tokens" and "segment_ids" [B, S] int32 (segment 0 is padding) and "weights" [B, S] float32, where
        weights[b, s] counts the prediction of tokens[b, s]. The first token of a segment has nothing before it and
        never counts.
    """
    nll, weights = _weighted_nll(params, batch, config, adapters, None)
    return jnp.sum(nll), jnp.sum(weights)


def row_nll(
    params: Params,
    batch: Batch,
    config: ModelConfig,
    *,
    adapters: Adapter | None = None,
    soft_prompt: Float[Array, "B P D"] | None = None,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Returns the same as `token_nll` for each row apart: two arrays [B]. `soft_prompt` as in `forward`; soft tokens
    must not count."""
    nll, weights = _weighted_nll(params, batch, config, adapters, soft_prompt)
    return jnp.sum(nll, axis=1), jnp.sum(weights, axis=1)


def segment_nll(
    params: Params, batch: Batch, config: ModelConfig, *, adapters: Adapter | None = None
) -> tuple[Float[Array, "B S+1"], Float[Array, "B S+1"]]:
    """Returns the same as `token_nll` for each packed segment apart: two arrays [B, S + 1], where entry k is that of
    segment k.

    Numbers that no segment of a row has hold zeros, as does entry 0, the padding.
    """
    nll, weights = _weighted_nll(params, batch, config, adapters, None)
    segments = batch["segment_ids"]

    def sums(values: jax.Array) -> jax.Array:
        by_row = partial(jax.ops.segment_sum, num_segments=segments.shape[1] + 1)
        return jax.vmap(by_row)(values, segments[:, 1:])

    return sums(nll), sums(weights)


def _weighted_nll(
    params: Params, batch: Batch, config: ModelConfig, adapters: Adapter | None, soft_prompt: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Returns weighted -log p of each token but the first, and the weights, [B, S - 1] each."""
    tokens, segment_ids = batch["tokens"], batch["segment_ids"]
    states = hidden_states(params, tokens, config, adapters=adapters, segment_ids=segment_ids, soft_prompt=soft_prompt)
    inside = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)
    weights = jnp.where(inside, batch["weights"][:, 1:], 0.0)
    targets = jnp.maximum(tokens[:, 1:], 0)  # a soft token has no id
    nll = _nll(params, states[:, :-1, :].reshape(-1, config.embed_dim), targets.reshape(-1), config)
    return nll.reshape(weights.shape) * weights, weights


def _nll(params: Params, states: jax.Array, targets: jax.Array, config: ModelConfig) -> jax.Array:
    """Returns cross-entropy [N] of states [N, D], as logsumexp - target logit (cheaper than log_softmax and a gather)."""

    def chunk(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = unembed(params, pair[0], config)
        return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, pair[1][:, None], axis=-1)[:, 0]

    rows = max(1, LOGITS_AT_ONCE // config.vocab_size)
    count = states.shape[0]
    if count <= rows:
        return chunk((states, targets))
    chunks = -(-count // rows)
    padding = chunks * rows - count
    states = jnp.pad(states, ((0, padding), (0, 0))).reshape(chunks, rows, -1)
    targets = jnp.pad(targets, (0, padding)).reshape(chunks, rows)
    # Recomputing each chunk's logits in the backward pass is what keeps memory flat.
    return jax.lax.map(jax.checkpoint(chunk), (states, targets)).reshape(-1)[:count]
