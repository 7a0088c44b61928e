"""What the model makes of a prompt: its last hidden state, batched like generation. Features of the bandit's arms."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rr_jax.generation.prompts import check_soft_prompts, encode_prompts, prompt_batches
from rr_jax.models.config import ModelConfig
from rr_jax.models.decoder import hidden_states
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import Adapter, Params


def last_hidden(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    soft_prompts: Any = None,
    adapters: Adapter | None = None,
    batch_size: int = 64,
) -> Float[np.ndarray, "N D"]:
    """Computes the state after the final norm at the last token of each prompt: [N, D] float32, in the order of the
    prompts.

    Args:
      lm: a language model with a tokenizer.
      prompts: N texts; "" is the start token alone.
      soft_prompts: [N, P, D] or None, placed as in `generate`.
      adapters: as in `forward`.
      batch_size: prompts computed together at most.

    Raises:
      ValueError: no tokenizer, or a prompt longer than the model's positions.
    """
    soft_prompts = check_soft_prompts(soft_prompts, len(prompts), lm.config.embed_dim)
    encoded = encode_prompts(lm.tokenizer, prompts, 0 if soft_prompts is None else soft_prompts.shape[1], lm.chat)
    for number, ids in enumerate(encoded):
        if len(ids) > lm.config.max_positions:
            raise ValueError(
                f"prompt {number} has {len(ids)} tokens, expected at most the model's {lm.config.max_positions}"
            )
    states = np.zeros((len(encoded), lm.config.embed_dim), np.float32)
    for batch in prompt_batches(encoded, batch_size, soft_prompts):
        last = _last_states(lm.params, batch.tokens, batch.mask, lm.config, adapters, batch.soft_prompt)
        states[batch.rows] = np.asarray(last)[: len(batch.rows)]
    return states


@jax.jit
def _last_states(
    params: Params,
    tokens: jax.Array | np.ndarray,
    mask: jax.Array | np.ndarray,
    config: ModelConfig,
    adapters: Adapter | None,
    soft_prompt: jax.Array | np.ndarray | None,
) -> jax.Array:
    """Returns [B, D] float32 at the last column: prompts are padded on the left."""
    soft = None if soft_prompt is None else jnp.asarray(soft_prompt)
    states = hidden_states(
        params, jnp.asarray(tokens), config, adapters=adapters, mask=jnp.asarray(mask), soft_prompt=soft
    )
    return states[:, -1, :].astype(jnp.float32)
