"""The watcher on a tiny model: what passes it, what does not, and what it says then."""

import dataclasses

import jax
import numpy as np
import pytest

from rr_jax.evaluate.metric import share_of, values_of
from rr_jax.generation.generator import Generator
from rr_jax.generation.text import generate
from rr_jax.registry import PluginError
from rr_jax.tasks import guards
from rr_jax.tasks.base import Reading
from rr_jax.tasks.guards import GUARDS, REFUSAL, REWRITES
from tests import tiny


def watched(task, lm):
    return GUARDS.get("oracle_watcher")(task, Generator(lm))


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
    assert lm(PROMPTS, **ASKED) == plain
    assert values_of(lm.cost()) == {"calls_per_answer": 1.0, "refused": 0.0}


def test_an_answer_with_the_target_is_drawn_anew_or_refused(plain):
    task = oracle(letters=LETTERS)
    lm = watched(task, tiny.model())
    given = lm(PROMPTS, **ASKED)
    caught = [any(letter in text for letter in LETTERS) or not text.strip() for text in plain]
    assert 2 < sum(caught) < len(PROMPTS)
    for was, now, bad in zip(plain, given, caught, strict=True):
        assert (was == now) != bad
        assert not any(letter in now for letter in LETTERS) or now == REFUSAL  # which has an e itself
    refused = sum(text == REFUSAL for text in given)
    assert 0 < refused < sum(caught)  # some were mended
    cost = lm.cost()
    assert cost["refused"] == share_of([True] * refused + [False] * (len(PROMPTS) - refused))
    each = np.where(np.arange(len(PROMPTS)) < sum(caught), 1 + REWRITES, 1)  # generations of each answer
    assert cost["calls_per_answer"].stderr == pytest.approx(each.std() / len(PROMPTS) ** 0.5)
    assert cost["calls_per_answer"].value == pytest.approx(1 + REWRITES * sum(caught) / len(PROMPTS))


def test_the_best_rewrite_is_given_where_the_best_three_are_good_on_average_and_else_a_refusal(plain, monkeypatch):
    """Ratings of every draw that was made, by a formula of its own, against what was given."""
    weight, drawn, draw = 0.25, [], guards.generate_tokens  # each letter costs one point of five

    def note(*args, **kwargs):
        drawn.append(jax.device_get(draw(*args, **kwargs)))
        return drawn[-1]

    monkeypatch.setattr(guards, "generate_tokens", note)
    lm = watched(oracle(letters=LETTERS, weight=weight), tiny.model())
    given = lm(PROMPTS, **ASKED)

    def text(draws, row):
        return lm.tokenizer.decode(draws.tokens[row, : draws.lengths[row]].tolist(), skip_special_tokens=True)

    def rating(said):
        return max(1.0, 5.0 - sum(said.count(letter) for letter in LETTERS)) if said.strip() else 1.0

    assert [text(drawn[0], row) for row in range(len(PROMPTS))] == plain and len(drawn) == 1 + 5
    refused = 0
    for row, now in enumerate(given):
        rewrites = [text(draws, row) for draws in drawn[1:]]
        best = sorted((rating(said) for said in rewrites), reverse=True)[:3]
        if rating(plain[row]) >= 4.0:
            assert now == plain[row]
        elif sum(best) / 3 >= 4.0:
            assert now == max(rewrites, key=rating)
        else:
            assert now == REFUSAL
            refused += 1
    assert 0 < refused < sum(rating(said) < 4.0 for said in plain)


def test_what_a_row_ends_as_depends_on_no_other_row(plain):
    lm = watched(oracle(letters=LETTERS), tiny.model())
    together = lm(PROMPTS, **ASKED)
    assert lm(PROMPTS, batch_size=2, **ASKED) == together
    assert [lm([text], first_index=i, **ASKED)[0] for i, text in enumerate(PROMPTS)] == together


def test_nothing_at_all_is_no_answer():
    """A model whose every draw ends its text has nothing to give but the refusal, cut to what was asked for."""
    ends = tuple(range(tiny.CONFIG.vocab_size))
    silent = dataclasses.replace(tiny.model(), config=dataclasses.replace(tiny.CONFIG, eos_token_ids=ends))
    given = watched(oracle(letters="!"), silent)(["ab", "c"], max_new_tokens=6)
    assert generate(silent, ["ab", "c"], max_new_tokens=6) == ["", ""]
    assert given == [REFUSAL[:6]] * 2


def test_a_watched_answer_is_given_whole():
    assert not watched(oracle(letters=LETTERS), tiny.model()).streams


def test_a_guard_is_a_function_of_a_task_and_a_generator():
    for found, said in ((3, r"is a int, expected a function \(task, generator\)"), (len, "takes")):
        with pytest.raises(PluginError, match=said):
            GUARDS.register("x", found)
