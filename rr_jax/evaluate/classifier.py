"""What an encoder says about texts: probabilities of its labels, or one embedding each. Strings in, arrays out.

The host side: tokens, batches of few fixed shapes, results in the order of the texts. A text's width follows from its
own length, so the texts around it do not change what is computed for it. Knows no task and no threshold.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from rr_jax.generation.prompts import BATCH_SIZES, bucket
from rr_jax.models.encoders.encoder import EncoderConfig, Params, classify, probabilities, sentence_embedding
from rr_jax.models.encoders.hub import Encoder


def classify_texts(
    encoder: Encoder, texts: Sequence[str], *, batch_size: int = 64, max_length: int = 512
) -> dict[str, np.ndarray]:
    """Probabilities of each label: {label: [N] float32}, in the order of the texts.

    Args:
      encoder: one with a classification head and a tokenizer.
      texts: N texts; "" is the tokenizer's special tokens alone.
      batch_size: texts computed together at most.
      max_length: tokens of a text that are read, special tokens included; never more than the model's positions.

    Raises:
      ValueError: no head or tokenizer, one string instead of a list, a text without tokens, or a size out of range.
    """
    labels = encoder.config.labels
    if not labels:
        raise ValueError(f"this {encoder.config.family} encoder has no classification head, expected one with labels")
    found = _in_batches(_probabilities, len(labels), encoder, texts, batch_size, max_length)
    return {label: found[:, column] for column, label in enumerate(labels)}


def embed_texts(
    encoder: Encoder, texts: Sequence[str], *, normalize: bool = True, batch_size: int = 64, max_length: int = 512
) -> np.ndarray:
    """Sentence embeddings [N, D] float32: the mean of a text's states, of length one if `normalize`.

    Other arguments and errors as for `classify_texts`, without the head. all-MiniLM-L6-v2 as sentence-transformers
    runs it is normalised and reads 256 tokens.
    """
    compute = _unit_embeddings if normalize else _embeddings
    return _in_batches(compute, encoder.config.embed_dim, encoder, texts, batch_size, max_length)


@jax.jit
def _probabilities(params: Params, tokens: jax.Array, config: EncoderConfig, mask: jax.Array) -> jax.Array:
    return probabilities(classify(params, tokens, config, mask), config)


@jax.jit
def _unit_embeddings(params: Params, tokens: jax.Array, config: EncoderConfig, mask: jax.Array) -> jax.Array:
    return sentence_embedding(params, tokens, config, mask, normalize=True)


@jax.jit
def _embeddings(params: Params, tokens: jax.Array, config: EncoderConfig, mask: jax.Array) -> jax.Array:
    return sentence_embedding(params, tokens, config, mask, normalize=False)


class _Batch(NamedTuple):
    """rows: [n] int, which texts these are; tokens [B, S] int32 and mask [B, S] bool have them first, then filling."""

    rows: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray


def _in_batches(
    compute: Callable[..., jax.Array],
    width: int,
    encoder: Encoder,
    texts: Sequence[str],
    batch_size: int,
    max_length: int,
) -> np.ndarray:
    """[N, width] float32: `compute` on all texts."""
    results = np.zeros((len(texts), width), np.float32)
    for batch in _batches(_token_ids(encoder, texts, max_length), encoder.config, batch_size):
        computed = compute(encoder.params, batch.tokens, encoder.config, batch.mask)
        results[batch.rows] = np.asarray(computed)[: len(batch.rows)]
    return results


def _token_ids(encoder: Encoder, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Ids of each text, with the tokenizer's special tokens, cut to what the model reads."""
    if encoder.tokenizer is None:
        raise ValueError("the encoder has no tokenizer, expected one: it is read from the model's folder")
    if isinstance(texts, str):
        raise ValueError(f"texts is the one string {texts[:40]!r}, expected a list of strings")
    least = encoder.tokenizer.num_special_tokens_to_add() + 1
    limit = min(max_length, encoder.config.max_tokens)
    if limit < least:
        raise ValueError(f"max_length is {max_length}, expected at least {least}: one token and the special ones")
    if not texts:
        return []
    encoded = encoder.tokenizer(list(texts), padding=False, truncation=True, max_length=limit)["input_ids"]
    for number, ids in enumerate(encoded):
        if not ids:
            raise ValueError(f"text {number} ({texts[number][:40]!r}) has no tokens and the tokenizer adds none")
    return [list(ids) for ids in encoded]


def _batches(encoded: Sequence[Sequence[int]], config: EncoderConfig, batch_size: int) -> Iterator[_Batch]:
    """Batches that cover all texts: one width a bucket of lengths, and the sizes that prompts have."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    sizes = (*(size for size in BATCH_SIZES if size < batch_size), batch_size)
    buckets: dict[int, list[int]] = {}
    for row, ids in enumerate(encoded):
        buckets.setdefault(min(bucket(len(ids)), config.max_tokens), []).append(row)
    for length, members in sorted(buckets.items()):
        for start in range(0, len(members), batch_size):
            rows = members[start : start + batch_size]
            size = next(size for size in sizes if size >= len(rows))
            tokens = np.full((size, length), config.pad_token_id, np.int32)
            mask = np.zeros((size, length), bool)
            for place, row in enumerate(rows):
                tokens[place, : len(encoded[row])] = encoded[row]
                mask[place, : len(encoded[row])] = True
            yield _Batch(np.asarray(rows), tokens, mask)
