"""Token ids of any length and number to batches of few fixed shapes, so that a handful of compilations serve them all.

One batcher for prompts of a decoder (padded on the left) and texts of an encoder (padded on the right). Pure host code:
NumPy alone, no tokenizer and no model.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512)


class TokenBatch(NamedTuple):
    """Holds some texts, padded to one bucket and filled up with empty rows to a batch size of the ladder.

    Attributes:
      rows: [n] int, which texts these are; they come first, empty rows follow.
      tokens: [B, S] int32.
      mask: [B, S] bool, where there is a token of a text.
    """

    rows: Int[np.ndarray, " n"]
    tokens: Int[np.ndarray, "B S"]
    mask: Bool[np.ndarray, "B S"]


def bucket(length: int) -> int:
    """Returns the smallest of 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, ... that is at least `length`."""
    size = 16
    while size < length:
        if size >= 64 and size * 3 // 2 >= length and size & (size - 1) == 0:
            return size * 3 // 2
        size *= 2
    return size


def token_batches(
    encoded: Sequence[Sequence[int]],
    batch_size: int,
    *,
    side: Literal["left", "right"],
    pad_id: int = 0,
    longest: int | None = None,
) -> Iterator[TokenBatch]:
    """Yields batches that cover all texts, shortest first.

    A text's bucket follows from its own length alone, so the texts around it do not change the shape it is computed in.
    The last batch of a bucket takes the smallest size of the ladder that holds it, never beyond `batch_size`.

    Args:
      encoded: token ids of each text, none empty.
      batch_size: texts a batch, at least 1.
      side: where padding goes.
      pad_id: the token of padding.
      longest: what no bucket goes beyond, at least the length of the longest text; None: as long as they come.

    Raises:
      ValueError: when `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    sizes = (*(size for size in BATCH_SIZES if size < batch_size), batch_size)
    buckets: dict[int, list[int]] = {}
    for row in sorted(range(len(encoded)), key=lambda row: len(encoded[row])):
        length = bucket(len(encoded[row]))
        buckets.setdefault(length if longest is None else min(length, longest), []).append(row)
    for length, members in buckets.items():
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            size = next(size for size in sizes if size >= len(rows))
            tokens = np.full((size, length), pad_id, np.int32)
            mask = np.zeros((size, length), bool)
            for index, row in enumerate(rows):
                count = len(encoded[row])
                filled = slice(length - count, length) if side == "left" else slice(0, count)
                tokens[index, filled] = encoded[row]
                mask[index, filled] = True
            yield TokenBatch(np.asarray(rows), tokens, mask)
