"""Prompts to token ids, with soft tokens where they go, and to batches of few fixed shapes.

Pure host code: NumPy and a tokenizer, no model.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rr_jax.data.packing import encode_prompt
from rr_jax.data.padding import token_batches
from rr_jax.models.decoder import SOFT_TOKEN


class PromptBatch(NamedTuple):
    """Holds some prompts, padded on the left to one bucket and filled up with empty rows to a batch size of the ladder.

    Attributes:
      rows: [n] int, which prompts these are; they come first, empty rows follow.
      tokens: [B, S] int32.
      mask: [B, S] bool.
      soft_prompt: [B, P, D] float32 or None.
    """

    rows: Int[np.ndarray, " n"]
    tokens: Int[np.ndarray, "B S"]
    mask: Bool[np.ndarray, "B S"]
    soft_prompt: Float[np.ndarray, "B P D"] | None


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[str],
    soft_tokens: int = 0,
    chat: bool = False,
    soft_rows: Sequence[bool] | None = None,
) -> list[list[int]]:
    """Returns the ids of each prompt; `soft_tokens` soft tokens are put after the start token and before the text.

    With `soft_rows` only into the prompts for which it is true. With `chat`, prompts are a user's messages in the
    tokenizer's chat template; see `encode_prompt`.

    INSTINCT, where the soft prompts come from, puts them before the start token (its tokenizer adds that to the text).
    Here the start token stays first, because models were trained with it there. A tokenizer without a start token has
    the soft tokens first.

    Raises:
      ValueError: when there is no tokenizer, `prompts` is one string, or a prompt has no tokens.
    """
    if tokenizer is None:
        raise ValueError("the language model has no tokenizer, expected one: give it a tokenizer to work with text")
    if isinstance(prompts, str):
        raise ValueError(f"prompts is the one string {prompts[:40]!r}, expected a list of strings")
    encoded = []
    for number, prompt in enumerate(prompts):
        ids = encode_prompt(tokenizer, prompt, chat)
        soft = soft_tokens if soft_rows is None or soft_rows[number] else 0
        if not ids and not soft:
            raise ValueError(
                f"prompt {number} ({prompt!r}) has no tokens and the tokenizer no start token to put first"
            )
        start = 1 if ids and ids[0] == tokenizer.bos_token_id else 0
        encoded.append(ids[:start] + [SOFT_TOKEN] * soft + ids[start:])
    return encoded


def check_soft_prompts(soft_prompts: Any, count: int, embed_dim: int) -> Float[np.ndarray, "N P D"] | None:
    """Returns soft prompts as float32 [N, P, D], or None.

    Raises:
      ValueError: when the shape is not one soft prompt a prompt, of this model's width.
    """
    if soft_prompts is None:
        return None
    array = np.asarray(soft_prompts, np.float32)
    if array.ndim != 3 or array.shape[0] != count or array.shape[2] != embed_dim or array.shape[1] == 0:
        raise ValueError(
            f"soft_prompts has shape {array.shape}, expected ({count}, P, {embed_dim}): one for each prompt, P >= 1"
        )
    return array


def prompt_batches(
    encoded: Sequence[Sequence[int]], batch_size: int, soft_prompts: Float[np.ndarray, "N P D"] | None = None
) -> Iterator[PromptBatch]:
    """Yields batches that cover all prompts, shortest first, in the shapes of `token_batches`.

    Args:
      encoded: token ids of each prompt, none empty.
      batch_size: prompts a batch, at least 1.
      soft_prompts: [N, P, D] or None.

    Raises:
      ValueError: when `batch_size` is below 1.
    """
    for rows, tokens, mask in token_batches(encoded, batch_size, side="left"):
        soft = None
        if soft_prompts is not None:
            soft = np.zeros((len(tokens), *soft_prompts.shape[1:]), np.float32)
            soft[: len(rows)] = soft_prompts[rows]
        yield PromptBatch(rows, tokens, mask, soft)
