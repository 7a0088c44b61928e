"""Text to fixed-shape rows: examples are tokenised, packed several to a row with segment ids, and weighted.

A row never grows with its content, so training compiles once. Knows tokenizers, never models or files.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Example:
    """One training text: what is given, what is to be predicted, and how much each of the two counts in the loss."""

    prompt: str
    response: str
    prompt_weight: float = 0.0
    response_weight: float = 1.0


class Packed(NamedTuple):
    """Rows of packed samples, [N, S] each: token ids, segment ids (0 is padding) and loss weights."""

    tokens: np.ndarray
    segment_ids: np.ndarray
    weights: np.ndarray


def encode_prompt(tokenizer: Any, text: str, chat: bool = False) -> list[int]:
    """Token ids of a prompt, by the tokenizer's own rule for start tokens.

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
    """Ids and weights of prompt + response + end. Prompt and response are tokenised apart, as in generation."""
    prompt = encode_prompt(tokenizer, example.prompt, chat)
    response = list(tokenizer(example.response, add_special_tokens=False, verbose=False)["input_ids"])
    if tokenizer.eos_token_id is not None:
        response = [*response, tokenizer.eos_token_id]
    weights = [example.prompt_weight] * len(prompt) + [example.response_weight] * len(response)
    return prompt + response, weights


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
