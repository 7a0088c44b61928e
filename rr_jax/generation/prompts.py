"""Prompts of any length and number to batches of few fixed shapes, so that a handful of compilations serve them all.

Pure host code: NumPy and a tokenizer, no model.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rr_jax.data.packing import encode_prompt
from rr_jax.models.decoder import SOFT_TOKEN

BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512)


class PromptBatch(NamedTuple):
    """Some prompts, padded on the left to one bucket and filled up with empty rows to a batch size of the ladder.

    Attributes:
      rows: [n] int, which prompts these are; they come first, empty rows follow.
      tokens: [B, S] int32.
      mask: [B, S] bool.
      soft_prompt: [B, P, D] float32 or None.
    """

    rows: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    soft_prompt: np.ndarray | None


def bucket(length: int) -> int:
    """The smallest of 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, ... that is at least `length`."""
    size = 16
    while size < length:
        if size >= 64 and size * 3 // 2 >= length and size & (size - 1) == 0:
            return size * 3 // 2
        size *= 2
    return size


def encode_prompts(
    tokenizer: Any,
    prompts: Sequence[str],
    soft_tokens: int = 0,
    chat: bool = False,
    soft_rows: Sequence[bool] | None = None,
) -> list[list[int]]:
    """Ids of each prompt; `soft_tokens` soft tokens are put after the start token and before the text.

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


def check_soft_prompts(soft_prompts: Any, count: int, embed_dim: int) -> np.ndarray | None:
    """Soft prompts as float32 [N, P, D], or None.

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
    encoded: Sequence[Sequence[int]], batch_size: int, soft_prompts: np.ndarray | None = None
) -> Iterator[PromptBatch]:
    """Batches that cover all prompts, shortest first.

    A prompt's bucket follows from its own length alone, so the prompts around it do not change the shape it is computed
    in. The last batch of a bucket takes the smallest size of the ladder that holds it, never beyond `batch_size`.

    Args:
      encoded: token ids of each prompt, none empty.
      batch_size: prompts a batch, at least 1.
      soft_prompts: [N, P, D] or None.

    Raises:
      ValueError: when `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    sizes = (*(size for size in BATCH_SIZES if size < batch_size), batch_size)
    buckets: dict[int, list[int]] = {}
    for row in sorted(range(len(encoded)), key=lambda row: len(encoded[row])):
        buckets.setdefault(bucket(len(encoded[row])), []).append(row)
    for length, members in buckets.items():
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            size = next(size for size in sizes if size >= len(rows))
            tokens = np.zeros((size, length), np.int32)
            mask = np.zeros((size, length), bool)
            for place, row in enumerate(rows):
                tokens[place, length - len(encoded[row]) :] = encoded[row]
                mask[place, length - len(encoded[row]) :] = True
            soft = None
            if soft_prompts is not None:
                soft = np.zeros((size, *soft_prompts.shape[1:]), np.float32)
                soft[: len(rows)] = soft_prompts[rows]
            yield PromptBatch(np.asarray(rows), tokens, mask, soft)
