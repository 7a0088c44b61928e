"""Buckets, batches and where soft tokens go."""

from typing import Any

import numpy as np
import pytest

from rr_jax.data.padding import bucket
from rr_jax.generation.prompts import check_soft_prompts, encode_prompts, prompt_batches
from rr_jax.models.decoder import SOFT_TOKEN


def test_batches_cover_every_prompt_once() -> None:
    encoded = [[n + 1] * size for n, size in enumerate([5, 40, 16, 17, 2, 9, 33, 1, 16, 12, 3])]
    soft = np.arange(11 * 2 * 3, dtype=np.float32).reshape(11, 2, 3)
    seen = []
    for batch in prompt_batches(encoded, 5, soft):
        assert batch.soft_prompt is not None
        assert batch.tokens.shape[0] == 5
        for index, row in enumerate(batch.rows):
            seen.append(int(row))
            assert batch.tokens.shape[1] == bucket(len(encoded[row]))
            assert batch.tokens[index][batch.mask[index]].tolist() == encoded[row]
            assert batch.mask[index, -len(encoded[row]) :].all()
            np.testing.assert_array_equal(batch.soft_prompt[index], soft[row])
        assert not batch.mask[len(batch.rows) :].any()
    assert sorted(seen) == list(range(11))


def test_soft_tokens_follow_the_start_token(tokenizer: Any) -> None:
    assert encode_prompts(tokenizer, ["w0 w1", ""], 2) == [
        [1, SOFT_TOKEN, SOFT_TOKEN, 3, 4],
        [1, SOFT_TOKEN, SOFT_TOKEN],
    ]
    assert encode_prompts(tokenizer, ["w0 w1", ""]) == [[1, 3, 4], [1]]


def test_errors(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="no tokenizer, expected one: give it"):
        encode_prompts(None, ["w1"])
    with pytest.raises(ValueError, match="prompts is the one string 'w1 w2', expected a list"):
        encode_prompts(tokenizer, "w1 w2")
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        list(prompt_batches([[1]], 0))
    for shape in ((3, 4), (2, 2, 4), (3, 2, 5), (3, 0, 4)):
        with pytest.raises(ValueError, match=r"soft_prompts has shape .*, expected \(3, P, 4\)"):
            check_soft_prompts(np.zeros(shape), 3, 4)
