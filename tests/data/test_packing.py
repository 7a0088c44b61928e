"""Packing: every example once, whole and in order, in a segment of its own, with its weights."""

import numpy as np
import pytest

from rr_jax.data.packing import Example, encode_example, encode_prompt, pack_examples

START, END = 1, 2


class Letters:
    """A tokenizer of single characters, with or without start and end tokens, that puts them there or does not."""

    def __init__(self, start: int | None = START, end: int | None = END, opens: bool = True, closes: bool = False):
        self.bos_token_id, self.eos_token_id = start, end
        self.opens, self.closes = opens and start is not None, closes

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        ids = [ord(letter) for letter in text]
        if add_special_tokens:
            ids = [self.bos_token_id] * self.opens + ids + [self.eos_token_id] * self.closes
        return {"input_ids": ids}


def _samples(packed) -> list[tuple[list[int], list[float]]]:
    """Each segment of each row, in order."""
    samples = []
    for tokens, segments, weights in zip(*packed, strict=True):
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            samples.append((tokens[here].tolist(), weights[here].tolist()))
    return samples


def test_an_example_is_start_prompt_response_end_with_their_weights():
    ids, weights = encode_example(Letters(), Example("ab", "cde", 0.25, 2.0))
    assert ids == [START, *map(ord, "abcde"), END]
    assert weights == [0.25] * 3 + [2.0] * 4


def test_start_and_end_tokens_are_neither_doubled_nor_invented():
    assert encode_prompt(Letters(closes=True), "a") == [START, ord("a")]
    assert encode_prompt(Letters(), "") == [START]
    assert encode_prompt(Letters(opens=False), "a") == [ord("a")]  # GPT-2 and Pythia have one and put it nowhere
    assert encode_prompt(Letters(opens=False), "") == [START]
    assert encode_prompt(Letters(start=END), "") == [END]  # OPT: start and end are one token
    assert encode_prompt(Letters(start=END), "a") == [END, ord("a")]
    assert encode_prompt(Letters(start=None), "") == []
    assert encode_example(Letters(start=None, end=None), Example("a", "b")) == ([ord("a"), ord("b")], [0.0, 1.0])


def test_with_spans_only_the_tokens_that_overlap_them_count():
    """Words as tokens; the spans cut into some of them. Neither the other words nor the end count."""
    from tests import tiny

    tokenizer = tiny.tokenizer()
    example = Example("ab", "cat Lily dog Lily", response_weight=0.5, spans=((4, 8), (14, 15)))
    ids, weights = encode_example(tokenizer, example)
    plain, _ = encode_example(tokenizer, Example("ab", "cat Lily dog Lily"))
    assert ids == plain
    counted = "".join(tokenizer.decode([i]) for i, weight in zip(ids, weights, strict=True) if weight)
    assert counted == "Lily" + "i"  # one character is one token here, and the second span is one letter
    assert set(weights) == {0.0, 0.5}


def test_spans_need_a_tokenizer_that_knows_its_characters():
    with pytest.raises(ValueError, match="Letters does not say where its tokens lie in a text"):
        encode_example(Letters(), Example("a", "bc", spans=((0, 1),)))


def test_every_example_is_packed_once_and_whole():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 20, size=150)
    examples = [Example(chr(100 + n), chr(300 + n) * size, 0.5) for n, size in enumerate(lengths)]
    packed = pack_examples(Letters(), examples, 24)
    expected = sorted(encode_example(Letters(), example) for example in examples)
    assert sorted(_samples(packed)) == expected
    assert packed.tokens.dtype == packed.segment_ids.dtype == np.int32 and packed.weights.dtype == np.float32


def test_segments_stand_side_by_side_and_padding_weighs_nothing():
    packed = pack_examples(Letters(), [Example("", "abc"), Example("", "de"), Example("", "fghi")], 12)
    assert packed.segment_ids.tolist() == [[1] * 5 + [2] * 4 + [0] * 3, [1] * 6 + [0] * 6]
    padding = packed.segment_ids == 0
    assert not packed.tokens[padding].any() and not packed.weights[padding].any()


def test_examples_fill_the_first_row_with_room():
    """The third example goes back to the first row, because the second did not fit there."""
    packed = pack_examples(Letters(), [Example("", "a" * 5), Example("", "b" * 7), Example("", "c")], 10)
    rows = zip(packed.tokens, packed.segment_ids, strict=True)
    firsts = [[chr(row[np.flatnonzero(seg == s)[1]]) for s in range(1, seg.max() + 1)] for row, seg in rows]
    assert firsts == [["a", "c"], ["b"]]


def test_a_long_example_is_cut_at_the_end():
    packed = pack_examples(Letters(), [Example("abcd", "efghij")], 7)
    assert packed.tokens.tolist() == [[START, *map(ord, "abcdef")]]
    assert packed.weights.tolist() == [[0.0] * 5 + [1.0] * 2]


def test_nothing_to_pack():
    with pytest.raises(ValueError, match="no examples to pack"):
        pack_examples(Letters(), [], 8)
