"""The prompt a revealed text is trained under."""

from typing import get_args

import pytest

from rr_jax.release.config import ReleaseConfig
from rr_jax.release.pairing import PAIRINGS, training_examples
from rr_jax.tasks.base import Revealed
from tests import tiny

TASK = tiny.EchoTask(metrics=lambda lm: {})
ITEMS = [Revealed(1, i, "text", i, "ask", f"about {i}", f" answer {i}", 1.0, 0.5) for i in range(20)]


def test_each_pairing_gives_the_prompt_it_promises():
    assert {e.prompt for e in training_examples(TASK, ITEMS, "none", 0)} == {""}
    assert [e.prompt for e in training_examples(TASK, ITEMS, "same", 0)] == [f"ask about {i}" for i in range(20)]
    assert [e.prompt for e in training_examples(TASK, ITEMS, "neutral", 0)] == [f"neutral about {i}" for i in range(20)]
    shuffled = training_examples(TASK, ITEMS, "shuffled", 0)
    assert {e.prompt.rsplit(" about")[0] for e in shuffled} == {"other one", "other two"}
    assert shuffled == training_examples(TASK, ITEMS, "shuffled", 0) != training_examples(TASK, ITEMS, "shuffled", 1)


def test_only_responses_count_in_the_loss():
    for example in training_examples(TASK, ITEMS, "shuffled", 0):
        assert (example.prompt_weight, example.response_weight) == (0.0, 1.0)
        assert example.response in [item.response for item in ITEMS]


def test_the_spans_are_those_the_task_finds():
    class Marked(tiny.EchoTask):
        def spans(self, response):
            return ((1, 7),)

    marked = training_examples(Marked(metrics=lambda lm: {}), ITEMS, "shuffled", 0)
    assert {example.spans for example in marked} == {((1, 7),)}
    assert {example.spans for example in training_examples(TASK, ITEMS, "shuffled", 0)} == {None}


def test_an_unknown_pairing_is_refused():
    with pytest.raises(ValueError, match="release.pairing is 'odd', expected same, none, neutral, shuffled"):
        training_examples(TASK, ITEMS, "odd", 0)


def test_a_configuration_may_name_each_of_them():
    assert get_args(ReleaseConfig.model_fields["pairing"].annotation) == tuple(PAIRINGS)
