"""Text to fixed-shape rows: examples are tokenised, packed several to a row with segment ids, and weighted.

A row never grows with its content, so training compiles once. Knows tokenizers, never models or files.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Example:
    """Holds one training text: what is given, what is to be predicted, and how much each of the two counts in the loss.

    With `spans`, character ranges of the response, only the tokens that overlap them count of the response.
    """

    prompt: str
    response: str
    prompt_weight: float = 0.0
    response_weight: float = 1.0
    spans: tuple[tuple[int, int], ...] | None = None


class Packed(NamedTuple):
    """Holds rows of packed samples, [N, S] each: token ids, segment ids (0 is padding) and loss weights."""

    tokens: Int[np.ndarray, "N S"]
    segment_ids: Int[np.ndarray, "N S"]
    weights: Float[np.ndarray, "N S"]


def first_rows(packed: Packed, count: int) -> Packed:
    """Returns the first `count` rows, or all of them where there are fewer."""
    return Packed(*(array[:count] for array in packed))


def encode_prompt(tokenizer: Any, text: str, chat: bool = False) -> list[int]:
    """Returns token ids of a prompt, by the tokenizer's own rule for start tokens.

    Args:
      tokenizer: a transformers tokenizer.
      text: "" is the start token alone: the tokenizer's, also of one that puts none before other texts (GPT-2).
      chat: a text that is not empty is the message of a user, to be answered, in the tokenizer's chat template.
    """
    if chat and text:
        message = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        # the template writes its start token itself
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    ids = list(tokenizer(text, verbose=False)["input_ids"])  # not verbose: what is too long is cut or refused later
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]  # some tokenizers close every text; a prompt is to be continued
    if not ids and tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id]
    return ids


def encode_example(tokenizer: Any, example: Example, chat: bool = False) -> tuple[list[int], list[float]]:
    """Returns ids and weights of prompt + response + end. Prompt and response are tokenised apart, as in generation."""
    prompt = encode_prompt(tokenizer, example.prompt, chat)
    response, counts = _encode_response(tokenizer, example)
    if tokenizer.eos_token_id is not None:
        response.append(tokenizer.eos_token_id)
        counts.append(example.spans is None)
    weights = [example.prompt_weight] * len(prompt) + [example.response_weight * one for one in counts]
    return prompt + response, weights


def _encode_response(tokenizer: Any, example: Example) -> tuple[list[int], list[bool]]:
    """Returns the ids of the response, and which of them count.

    Raises:
      ValueError: spans are given and the tokenizer does not know which characters a token stands for.
    """
    if example.spans is None:
        ids = list(tokenizer(example.response, add_special_tokens=False, verbose=False)["input_ids"])
        return ids, [True] * len(ids)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} does not say where its tokens lie in a text; a fast one does")
    encoded = tokenizer(example.response, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    counts = [any(a < end and start < b for a, b in example.spans) for start, end in encoded["offset_mapping"]]
    return list(encoded["input_ids"]), counts


def pack_examples(tokenizer: Any, examples: Sequence[Example], seq_len: int, chat: bool = False) -> Packed:
    """Packs examples first-fit, in order, into rows of `seq_len` tokens; longer examples are cut at the end.

    With `chat`, prompts are a user's messages; see `encode_prompt`.

    Raises:
      ValueError: when there is nothing to pack.
    """
    if not examples:
        raise ValueError("there are no examples to pack, expected at least one")
    rows: list[list[tuple[list[int], list[float]]]] = []
    free: list[int] = []
    recent = 0  # rows before this one are taken as full: keeps packing linear in the number of examples
    for example in examples:
        ids, weights = encode_example(tokenizer, example, chat)
        ids, weights = ids[:seq_len], weights[:seq_len]
        row = next((r for r in range(recent, len(rows)) if free[r] >= len(ids)), None)
        if row is None:
            rows.append([])
            free.append(seq_len)
            row = len(rows) - 1
            recent = max(recent, row - 32)
        rows[row].append((ids, weights))
        free[row] -= len(ids)
    packed = Packed(
        np.zeros((len(rows), seq_len), np.int32),
        np.zeros((len(rows), seq_len), np.int32),
        np.zeros((len(rows), seq_len), np.float32),
    )
    for r, samples in enumerate(rows):
        start = 0
        for segment, (ids, weights) in enumerate(samples, start=1):
            stop = start + len(ids)
            packed.tokens[r, start:stop] = ids
            packed.segment_ids[r, start:stop] = segment
            packed.weights[r, start:stop] = weights
            start = stop
    return packed
