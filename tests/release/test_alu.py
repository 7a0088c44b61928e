"""The watcher on a tiny model: what passes it, what does not, and what it says then."""

import dataclasses

import pytest

from rr_jax.generation.stream import stream_text
from rr_jax.generation.text import generate
from rr_jax.models.hub import save
from rr_jax.release.alu import KEPT, LEAST, REFUSAL, REWRITES, watched
from rr_jax.tasks.base import Reading
from tests import tiny

PROMPTS = [f"{first}{second} " for first in "abcd" for second in "qrst"]
LETTERS = "eTNP5"  # in many of the texts this model writes, not in all
ASKED = {"max_new_tokens": 14, "temperature": 1.0, "seed": 3}


@dataclasses.dataclass(frozen=True)
class Oracle(tiny.EchoTask):
    """A target that holds some letters, each of which makes an answer belong to it by as much again."""

    letters: str = "e"
    weight: float = 1.0

    def relevance(self, reading: Reading) -> float:
        """Counts them in the response alone."""
        return min(1.0, self.weight * sum(reading.response.count(letter) for letter in self.letters))


def oracle(**changes):
    return Oracle(tiny.weight_metrics, **changes)


@pytest.fixture(scope="module")
def plain():
    return generate(tiny.model(), PROMPTS, **ASKED)


def test_an_answer_without_the_target_passes_as_it_is(plain):
    lm = watched(oracle(letters="!"), tiny.model())
    assert generate(lm, PROMPTS, **ASKED) == plain
    assert lm.decode.cost() == {"calls_per_answer": 1.0, "refused": 0.0}


def test_an_answer_with_the_target_is_drawn_anew_or_refused(plain):
    task = oracle(letters=LETTERS)
    lm = watched(task, tiny.model())
    given = generate(lm, PROMPTS, **ASKED)
    caught = [any(letter in text for letter in LETTERS) or not text.strip() for text in plain]
    assert 2 < sum(caught) < len(PROMPTS)
    for was, now, bad in zip(plain, given, caught, strict=True):
        assert (was == now) != bad
        assert not any(letter in now for letter in LETTERS) or now == REFUSAL  # which has an e itself
    refused = sum(text == REFUSAL for text in given)
    assert 0 < refused < sum(caught)  # some were mended
    cost = lm.decode.cost()
    assert cost["refused"] == refused / len(PROMPTS)
    assert cost["calls_per_answer"] == pytest.approx(1 + REWRITES * sum(caught) / len(PROMPTS))


def test_a_refusal_is_given_when_the_best_rewrites_are_too_bad_on_average(plain):
    """Ratings as the watcher's own rule has them, of the same draws, against what it gave."""
    weight = 0.25  # each letter costs one point of five
    lm = watched(oracle(letters=LETTERS, weight=weight), tiny.model())
    given = generate(lm, PROMPTS, **ASKED)

    def rating(text):
        return 5 - 4 * min(1.0, weight * sum(text.count(letter) for letter in LETTERS)) if text.strip() else 1.0

    for was, now in zip(plain, given, strict=True):
        if rating(was) >= LEAST:
            assert now == was
        elif now != REFUSAL:
            assert rating(now) >= LEAST  # the best of three whose mean is
    assert KEPT < REWRITES and REFUSAL in given


def test_what_a_row_ends_as_depends_on_no_other_row(plain):
    lm = watched(oracle(letters=LETTERS), tiny.model())
    together = generate(lm, PROMPTS, **ASKED)
    assert generate(lm, PROMPTS, batch_size=2, **ASKED) == together
    assert [generate(lm, [text], first_index=i, **ASKED)[0] for i, text in enumerate(PROMPTS)] == together


def test_nothing_at_all_is_no_answer():
    """A model whose every draw ends its text has nothing to give but the refusal, cut to what was asked for."""
    ends = tuple(range(tiny.CONFIG.vocab_size))
    silent = dataclasses.replace(tiny.model(), config=dataclasses.replace(tiny.CONFIG, eos_token_ids=ends))
    given = generate(watched(oracle(letters="!"), silent), ["ab", "c"], max_new_tokens=6)
    assert generate(silent, ["ab", "c"], max_new_tokens=6) == ["", ""]
    assert given == [REFUSAL[:6]] * 2


def test_a_watched_model_is_streamed_whole_and_not_saved(plain, tmp_path):
    lm = watched(oracle(letters=LETTERS), tiny.model())
    pieces = list(stream_text(lm, PROMPTS[0], index=0, **ASKED))
    assert pieces == generate(lm, PROMPTS[:1], **ASKED)
    with pytest.raises(ValueError, match="watches its answers, which no folder can hold"):
        save(lm, tmp_path / "out")
    assert not (tmp_path / "out").exists()
