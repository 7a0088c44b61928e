"""Streaming gives the text of `generate`, in pieces; prompts of a chat model go through its template."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from rr_jax.data.packing import Example, encode_prompt, pack_examples
from rr_jax.generation.features import last_hidden
from rr_jax.generation.loop import advance
from rr_jax.generation.prompts import encode_prompts
from rr_jax.generation.stream import PIECE, stream_text
from rr_jax.generation.text import generate

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}w5{{ ' ' }}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} w6 w7{% endif %}"
)


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.8, "top_p": 0.9, "top_k": 9}]
)
@pytest.mark.parametrize("length", [1, PIECE, 14])
def test_pieces_add_up_to_the_generated_text(lm: Any, settings: dict[str, Any], length: int) -> None:
    pieces = list(stream_text(lm, "w1 w2 w3", max_new_tokens=length, index=2, **settings))
    assert "".join(pieces) == generate(lm, ["w1 w2 w3"], max_new_tokens=length, first_index=2, **settings)[0]
    assert len(pieces) <= -(-(length - 1) // PIECE) + 1


def test_it_ends_with_the_text_and_is_seen_before(lm: Any) -> None:
    ended = 0
    for index in range(12):
        pieces = list(stream_text(lm, "w1 w2", max_new_tokens=40, temperature=1.5, index=index))
        ended += len(pieces) < 11
        assert len(pieces[0].split()) <= 1
    assert ended > 0


def test_the_length_does_not_recompile(lm: Any) -> None:
    list(stream_text(lm, "w1 w2", max_new_tokens=9))
    before = advance._cache_size()
    for length in (2, 5, 13):
        list(stream_text(lm, "w1 w2 w3", max_new_tokens=length))
    assert advance._cache_size() == before


def test_half_a_character_is_held_back(lm: Any) -> None:
    """A tokenizer that shows an unfinished character as the replacement sign until its second byte is there."""

    class Halves:
        bos_token_id, eos_token_id = 1, 2

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [1, 4]}

        def decode(self, ids: list[int], **_: Any) -> str:
            return "é" * (len(ids) // 2) + "\ufffd" * (len(ids) % 2)

    halves = dataclasses.replace(lm, tokenizer=Halves())
    pieces = list(stream_text(halves, "x", max_new_tokens=12, seed=1))
    assert all("\ufffd" not in piece for piece in pieces[:-1])
    assert "".join(pieces) == generate(halves, ["x"], max_new_tokens=12, seed=1)[0]


def test_a_prompt_too_long_is_refused(lm: Any) -> None:
    with pytest.raises(ValueError, match="prompt 0 has 101 tokens, expected at most 64"):
        next(stream_text(lm, "w1 " * 100, max_new_tokens=64))


@pytest.fixture
def chat_lm(lm: Any) -> Any:
    tokenizer = type(lm.tokenizer)(
        tokenizer_object=lm.tokenizer._tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = TEMPLATE.replace("{{ bos_token }}", "<s> ")
    return dataclasses.replace(lm, tokenizer=tokenizer, chat=True)


def test_a_chat_prompt_is_the_template_with_one_start_token(chat_lm: Any) -> None:
    ids = encode_prompt(chat_lm.tokenizer, "w1 w2", chat=True)
    assert ids == [1, 3 + 5, 3 + 1, 3 + 2, 3 + 6, 3 + 7]
    assert ids == chat_lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": "w1 w2"}], add_generation_prompt=True, return_dict=False
    )
    assert encode_prompt(chat_lm.tokenizer, "", chat=True) == [1]
    assert encode_prompts(chat_lm.tokenizer, ["w1"], 2, chat=True) == [[1, -1, -1, 8, 4, 9, 10]]


def test_everything_that_reads_prompts_uses_the_template(chat_lm: Any) -> None:
    raw = dataclasses.replace(chat_lm, chat=False)
    wrapped = "w5 w1 w2 w6 w7"
    assert generate(chat_lm, ["w1 w2"], max_new_tokens=6) == generate(raw, [wrapped], max_new_tokens=6)
    assert list(stream_text(chat_lm, "w1 w2", max_new_tokens=6)) == list(stream_text(raw, wrapped, max_new_tokens=6))
    np.testing.assert_array_equal(last_hidden(chat_lm, ["w1 w2"]), last_hidden(raw, [wrapped]))
    example = Example("w1 w2", "w9")
    in_chat = pack_examples(chat_lm.tokenizer, [example], 12, chat=True)
    np.testing.assert_array_equal(in_chat.tokens[0], [1, 8, 4, 5, 9, 10, 12, 2, 0, 0, 0, 0])
    np.testing.assert_array_equal(in_chat.weights[0], [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0])
