"""What an encoder says about texts: probabilities of its labels, or one embedding each. Strings in, arrays out.

The host side: tokens, batches of few fixed shapes (`data.padding`), results in the order of the texts. Knows no
task and no threshold.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from rr_jax.data.padding import token_batches
from rr_jax.models.encoders.encoder import EncoderConfig, classify, probabilities, sentence_embedding
from rr_jax.models.encoders.hub import Encoder
from rr_jax.models.spec import Params


def classify_texts(
    encoder: Encoder, texts: Sequence[str], *, batch_size: int = 64, max_length: int = 512
) -> dict[str, Float[np.ndarray, " N"]]:
    """Computes the probabilities of each label: {label: [N] float32}, in the order of the texts.

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
) -> Float[np.ndarray, "N D"]:
    """Computes sentence embeddings [N, D] float32: the mean of a text's states, of length one if `normalize`.

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


def _in_batches(
    compute: Callable[..., jax.Array],
    width: int,
    encoder: Encoder,
    texts: Sequence[str],
    batch_size: int,
    max_length: int,
) -> np.ndarray:
    """Returns [N, width] float32: `compute` on all texts."""
    config, encoded = encoder.config, _token_ids(encoder, texts, max_length)
    results = np.zeros((len(texts), width), np.float32)
    for batch in token_batches(
        encoded, batch_size, side="right", pad_id=config.pad_token_id, longest=config.max_tokens
    ):
        computed = compute(encoder.params, batch.tokens, config, batch.mask)
        results[batch.rows] = np.asarray(computed)[: len(batch.rows)]
    return results


def _token_ids(encoder: Encoder, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Returns the ids of each text, with the tokenizer's special tokens, cut to what the model reads."""
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
