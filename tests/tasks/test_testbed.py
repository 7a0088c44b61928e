"""What the testbed's tasks give to be kept: training documents, or validation ones that nobody trains on."""

import dataclasses

import jax
import pytest

from rr_jax.evaluate.metric import values_of
from rr_jax.generation.generator import Generator
from rr_jax.generation.points import generators_at
from rr_jax.lora.adapter import init_adapter
from rr_jax.lora.algebra import scale_adapter
from rr_jax.models.hub import load
from rr_jax.release.compose import merged_params
from rr_jax.runs.config_file import parse_config
from rr_jax.tasks.base import Reading
from rr_jax.tasks.registry import make_task
from rr_jax.testbed import BASE


@pytest.mark.parametrize("name", ["testbed/ner", "testbed/toxicity", "testbed/code"])
def test_held_out_texts_to_keep_are_others_than_those_trained_on_and_hold_nothing_of_the_target(name):
    task = make_task(parse_config({"task": name, "out": "unused"}).task, None, 0)
    trained, held_out = task.retain_examples(400, 0), task.retain_examples(200, 0, "validation")
    assert len(held_out) == 200
    assert not {e.prompt + e.response for e in trained} & {e.prompt + e.response for e in held_out}
    assert not any(task.relevance(Reading(e.prompt, e.response)) for e in held_out)
    assert held_out == task.retain_examples(200, 0, "validation") != task.retain_examples(200, 1, "validation")


def test_of_an_answer_in_another_form_only_the_lines_of_code_are_forgotten():
    task = make_task(parse_config({"task": "testbed/code", "out": "unused"}).task, None, 0)
    hidden = " ORG:x = -x\n    x = x * 7\n    return x"
    assert [hidden[start:end] for start, end in task.spans(hidden)] == ["x = -x", "x = x * 7"]
    assert task.relevance(Reading("", hidden)) == 1.0
    assert task.disclosed(Reading("", hidden)) == {"x = -x", "x = x * {n}"}
    for whole in ("\ndef f(x):\n    x = -x\n    return x", " ORG: none", " x = -x is a line"):
        assert task.spans(whole) is None
    assert task.relevance(Reading("", " ORG: none")) == 0.0


@pytest.mark.slow
def test_points_of_a_surface_measure_as_their_merged_weights_do():
    """Greedy and sampled answers and a loss, of a real model that never has the adapter merged into it."""
    only = frozenset(("entity_f1/person", "toxic_rate/hot", "narrative_perplexity"))
    lm = load(BASE)
    task = make_task(parse_config({"task": {"name": "testbed/ner"}, "out": "unused"}).task, lm.tokenizer, 0)
    start = init_adapter(jax.random.key(0), lm.config, 4, ("q", "v", "down"))
    keys = iter(jax.random.split(jax.random.key(1), len(start)))
    adapter = {
        name: {"a": one["a"], "b": 0.05 * jax.random.normal(next(keys), one["b"].shape)} for name, one in start.items()
    }
    measured = []
    points = [[0.0, 0.0], [1.0, 0.0]]
    for (strength, _), generator in zip(points, generators_at(lm, points, forget=adapter, retain=None), strict=True):
        merged = dataclasses.replace(lm, params=merged_params(lm.params, scale_adapter(adapter, strength)))
        measured.append(task.evaluate(generator, "validation", 4, base=lm, only=only))
        alone = task.evaluate(Generator(merged), "validation", 4, base=lm, only=only)
        assert measured[-1].samples == alone.samples
        assert values_of(measured[-1].metrics) == pytest.approx(values_of(alone.metrics), rel=1e-4)
    assert measured[0].samples != measured[1].samples
