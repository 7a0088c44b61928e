"""One prompt's continuation, piece by piece while it is being generated: for somebody who is watching."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rr_jax.data.padding import bucket
from rr_jax.generation.loop import advance, start
from rr_jax.generation.prompts import encode_prompts, prompt_batches
from rr_jax.generation.sampling import make_sampling
from rr_jax.generation.text import check_room, end_tokens, row_keys
from rr_jax.models.hub import LanguageModel
from rr_jax.random import stream

PIECE = 4  # tokens drawn between two looks: each look waits for the device


def stream_text(
    lm: LanguageModel,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    index: int = 0,
) -> Iterator[str]:
    """Yields the text of `generate(lm, [prompt], first_index=index)` in pieces that add up to it.

    A piece is held back while it ends in the middle of a character.

    Raises:
      ValueError: as `generate`.
    """
    encoded = encode_prompts(lm.tokenizer, [prompt], chat=lm.chat)
    check_room(lm, encoded, max_new_tokens)
    sampling, ends = make_sampling(temperature, top_k, top_p), end_tokens(lm)
    (batch,) = prompt_batches(encoded, 1)
    keys = row_keys(stream(seed, "generation", 0), np.asarray([index], np.uint32))
    more: dict[str, Any] = {
        "eos_ids": np.asarray(ends, np.int32),
        "pad_id": np.asarray(ends[0] if ends else 0, np.int32),
    }
    decoding = start(
        lm.params, batch.tokens, batch.mask, keys, lm.config, sampling, max_new_tokens=bucket(max_new_tokens), **more
    )
    shown = ""
    for limit in range(1, max_new_tokens + PIECE, PIECE):
        limit = min(limit, max_new_tokens)
        decoding = advance(lm.params, decoding, keys, lm.config, sampling, limit=np.asarray(limit, np.int32), **more)
        tokens, length, finished = jax.device_get(
            (decoding.written.tokens[0], decoding.written.lengths[0], decoding.written.finished[0])
        )
        last = bool(finished) or limit == max_new_tokens
        text = lm.tokenizer.decode(tokens[:length].tolist(), skip_special_tokens=True)
        if last or (text.startswith(shown) and not text.endswith("\ufffd")):
            yield text.removeprefix(shown)
            shown = text
        if last:
            return
