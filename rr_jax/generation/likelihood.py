"""Measures how probable a model finds given responses after given prompts: in batches, one number a response."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rr_jax.generation.prompts import check_soft_prompts, encode_prompts, prompt_batches
from rr_jax.models.config import ModelConfig
from rr_jax.models.hub import LanguageModel
from rr_jax.models.loss import row_nll
from rr_jax.models.spec import Adapter, Params


def response_nll(
    lm: LanguageModel,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    soft_prompts: Any = None,
    soft_rows: Sequence[bool] | None = None,
    batch_size: int = 64,
) -> Float[np.ndarray, " N"]:
    """Computes the mean -log p(token) over the tokens of each response, in nats: [N] float32; 0 for a response without
    tokens.

    Args:
      lm: a language model with a tokenizer.
      prompts, responses: N of each; tokenised apart, as in generation. The end token is not counted.
      soft_prompts, soft_rows: as in `generate`.
      batch_size: responses computed together at most.

    Raises:
      ValueError: no tokenizer, unequal numbers, or a text longer than the model's positions.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"there are {len(prompts)} prompts and {len(responses)} responses, expected as many")
    soft_prompts = check_soft_prompts(soft_prompts, len(prompts), lm.config.embed_dim)
    before = encode_prompts(
        lm.tokenizer, prompts, 0 if soft_prompts is None else soft_prompts.shape[1], lm.chat, soft_rows
    )
    after = [list(lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in responses]
    encoded = [[*one, *other] for one, other in zip(before, after, strict=True)]
    for number, ids in enumerate(encoded):
        if len(ids) > lm.config.max_positions:
            raise ValueError(
                f"prompt and response {number} have {len(ids)} tokens, expected at most the model's "
                f"{lm.config.max_positions}"
            )
    found = np.zeros(len(encoded), np.float32)
    for batch in prompt_batches(encoded, batch_size, soft_prompts):
        counted = np.zeros(batch.tokens.shape, np.float32)
        for index, row in enumerate(batch.rows):
            counted[index, batch.tokens.shape[1] - len(after[row]) :] = 1.0  # prompts are padded on the left
        sums, weights = _row_nll(lm.params, batch.tokens, batch.mask, counted, lm.config, None, batch.soft_prompt)
        mean = np.asarray(sums) / np.maximum(np.asarray(weights), 1.0)
        found[batch.rows] = mean[: len(batch.rows)]
    return found


def check_logits(lm: LanguageModel, name: str) -> None:
    """Refuses a model that computes NaN or infinity: it would answer with empty texts, and look as if it had forgotten.

    Args:
      lm: a language model with a tokenizer.
      name: of the model, for the message.

    Raises:
      ValueError: its logits of a short text are not finite.
    """
    if not np.isfinite(response_nll(lm, ["A"], [" dog."])).all():
        dtype = lm.params["embed"].dtype
        hint = "; its activations may be beyond that dtype: try float32 or bfloat16" if dtype == jnp.float16 else ""
        raise ValueError(f"model: {name} computes logits that are not finite in {dtype}{hint}")


@jax.jit
def _row_nll(
    params: Params,
    tokens: jax.Array | np.ndarray,
    mask: jax.Array | np.ndarray,
    weights: jax.Array | np.ndarray,
    config: ModelConfig,
    adapters: Adapter | None,
    soft_prompt: jax.Array | np.ndarray | None,
) -> tuple[jax.Array, jax.Array]:
    batch = {
        "tokens": jnp.asarray(tokens),
        "segment_ids": jnp.asarray(mask, jnp.int32),
        "weights": jnp.asarray(weights),
    }
    soft = None if soft_prompt is None else jnp.asarray(soft_prompt)
    return row_nll(params, batch, config, adapters=adapters, soft_prompt=soft)
