"""Strings in, strings out: tokenise, batch, generate, decode. The host side of generation."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rr_jax.data.padding import bucket
from rr_jax.generation.loop import Generated, generate_tokens
from rr_jax.generation.prompts import check_soft_prompts, encode_prompts, prompt_batches
from rr_jax.generation.sampling import make_sampling
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import Adapter
from rr_jax.random import stream

Decode = Callable[..., Generated]


class Generation(NamedTuple):
    """Holds the new token ids of one prompt, without the end token, and says whether the model ended it by itself."""

    token_ids: list[int]
    finished: bool


def generate(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    first_index: int = 0,
    stop: str | Sequence[str] | None = None,
    batch_size: int = 64,
    adapters: Adapter | None = None,
    decode: Decode = generate_tokens,
    soft_prompts: Any = None,
    soft_rows: Sequence[bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Returns one continuation of each prompt, in the order of the prompts.

    The text is what the new tokens decode to on their own, special tokens left out. Some tokenizers (SentencePiece)
    drop the space before the first word then, and put it back when a response is tokenised for training.

    Args:
      lm: a language model with a tokenizer.
      prompts: texts; "" starts from the start token alone.
      max_new_tokens: how many tokens at most.
      temperature: 0 takes the most likely token.
      top_k, top_p: as in `make_sampling`.
      seed, first_index: prompt i is drawn with the key stream(seed, "generation", 0, first_index + i), so its text
        depends neither on the other prompts nor on the batch size.
      stop: texts at which a continuation is cut, they and what follows left out; decoding itself ends at the model's
        end token only.
      batch_size: prompts computed together at most.
      adapters: as in `forward`.
      decode: what decodes a batch, called as `generate_tokens`.
      soft_prompts: [N, P, D] embeddings, one soft prompt for each prompt, placed right after the start token.
      soft_rows: [N], which prompts take theirs; None: all.
      progress: called with (prompts done, all prompts) after each batch.

    Raises:
      ValueError: no tokenizer, a prompt too long for the model, or a setting outside its range.
    """
    soft_prompts = check_soft_prompts(soft_prompts, len(prompts), lm.config.embed_dim)
    encoded = encode_prompts(
        lm.tokenizer, prompts, 0 if soft_prompts is None else soft_prompts.shape[1], lm.chat, soft_rows
    )
    generations = generate_ids(
        lm,
        encoded,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        first_index=first_index,
        batch_size=batch_size,
        adapters=adapters,
        decode=decode,
        soft_prompts=soft_prompts,
        progress=progress,
    )
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    if "" in stops:
        raise ValueError("stop holds an empty text, which would cut everything: expected non-empty texts")
    texts = [lm.tokenizer.decode(generation.token_ids, skip_special_tokens=True) for generation in generations]
    return [_cut(text, stops) for text in texts]


def generate_ids(
    lm: LanguageModel,
    encoded: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    first_index: int = 0,
    batch_size: int = 64,
    adapters: Adapter | None = None,
    decode: Decode = generate_tokens,
    soft_prompts: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Generates as `generate` does, from token ids to token ids; needs no tokenizer. `SOFT_TOKEN` ids mark where soft
    prompts go."""
    check_room(lm, encoded, max_new_tokens)
    sampling = make_sampling(temperature, top_k, top_p)
    soft_prompts = check_soft_prompts(soft_prompts, len(encoded), lm.config.embed_dim)
    ends = end_tokens(lm)
    results: list[Generation | None] = [None] * len(encoded)
    done = 0
    base = stream(seed, "generation", 0)
    for batch in prompt_batches(encoded, batch_size, soft_prompts):
        indices = np.zeros(len(batch.tokens), np.uint32)
        indices[: len(batch.rows)] = batch.rows + first_index
        generated = decode(
            lm.params,
            batch.tokens,
            batch.mask,
            row_keys(base, indices),
            lm.config,
            sampling,
            max_new_tokens=bucket(max_new_tokens),
            limit=np.asarray(max_new_tokens, np.int32),
            eos_ids=np.asarray(ends, np.int32),
            pad_id=np.asarray(ends[0] if ends else 0, np.int32),
            adapters=adapters,
            soft_prompt=batch.soft_prompt,
        )
        tokens, lengths, finished = jax.device_get((generated.tokens, generated.lengths, generated.finished))
        for index, row in enumerate(batch.rows):
            results[row] = Generation(tokens[index, : lengths[index]].tolist(), bool(finished[index]))
        done += len(batch.rows)
        if progress is not None:
            progress(done, len(encoded))
    return [result for result in results if result is not None]


def end_tokens(lm: LanguageModel) -> tuple[int, ...]:
    """Returns the ids that end a text: those of the config and the tokenizer's own, without repeats."""
    own = None if lm.tokenizer is None else lm.tokenizer.eos_token_id
    return tuple(sorted({*lm.config.eos_token_ids, *(() if own is None else (own,))}))


def check_room(lm: LanguageModel, encoded: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raises ValueError unless every prompt has tokens and, with what is to follow, fits the model's positions."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, expected at least 1")
    room = lm.config.max_positions - max_new_tokens
    if room < 1:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}, but the model has {lm.config.max_positions} positions, of which the "
            "prompt takes some"
        )
    for number, ids in enumerate(encoded):
        if not ids:
            raise ValueError(f"prompt {number} has no tokens, expected at least one")
        if len(ids) > room:
            raise ValueError(
                f"prompt {number} has {len(ids)} tokens, expected at most {room}: the model has "
                f"{lm.config.max_positions} positions, of which max_new_tokens takes {max_new_tokens}"
            )


@jax.jit
def row_keys(base: jax.Array, indices: np.ndarray) -> jax.Array:
    """Returns the key of each row from the global index of its prompt: [B] indices -> [B] keys."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(base, indices)


def _cut(text: str, stops: list[str]) -> str:
    ends = [end for end in (text.find(stop) for stop in stops) if end >= 0]
    return text[: min(ends)] if ends else text
