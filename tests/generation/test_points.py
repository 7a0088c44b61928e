"""Models of many strengths that decode together: each says what it would have said alone, and all are computed once."""

import dataclasses

import numpy as np
import pytest

from rr_jax.generation import points as module
from rr_jax.generation.generator import Generator
from rr_jax.generation.points import generators_at
from rr_jax.generation.text import generate
from rr_jax.lora.algebra import add, at_strengths, scale_adapter
from rr_jax.release.compose import merged_params
from tests import tiny

POINTS = np.array([[0.0, 0.0], [0.0, 1.0], [0.7, 0.0], [0.7, 1.0]])
PROMPTS = ["tell", "w1 w2 w3", "w4", "w1 w1 w1 w1 w1 w1 w1 w1 w1"]  # of two buckets
ASKED = {"max_new_tokens": 7, "seed": 3}


FORGET, RETAIN, BEFORE = (tiny.random_adapter(seed, 2, ("q", "v", "down"), size=0.5) for seed in (1, 2, 3))


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.mark.parametrize("strategy", ["vmap", "map"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_point_says_what_its_merged_weights_say(strategy, temperature, model):
    generators = generators_at(model, POINTS, forget=FORGET, retain=RETAIN, before=BEFORE, strategy=strategy)
    said = []
    for point, generator in zip(POINTS, generators, strict=True):
        whole = add(BEFORE, scale_adapter(FORGET, point[0]), scale_adapter(RETAIN, point[1]))
        merged = dataclasses.replace(model, params=merged_params(model.params, whole))
        said.append(generator(PROMPTS, temperature=temperature, **ASKED))
        assert said[-1] == generate(merged, PROMPTS, temperature=temperature, **ASKED)
        np.testing.assert_array_equal(generator.params["embed"], model.params["embed"])
    assert len({tuple(texts) for texts in said}) > 1  # the strengths matter


def test_a_batch_is_decoded_once_for_all_points_and_another_anew(monkeypatch, model):
    calls, decode = [], module._decode_all
    monkeypatch.setattr(module, "_decode_all", lambda *args, **more: calls.append(args) or decode(*args, **more))
    generators = generators_at(model, POINTS, forget=FORGET, retain=None, strategy="map")
    for generator in generators:
        generator(PROMPTS, **ASKED)
    batches = len(calls)
    assert 1 <= batches < len(generators)
    for changed in ({"seed": 4}, {"max_new_tokens": 6}, {"temperature": 1.0}):
        generators[0](PROMPTS, **ASKED | changed)
        batches += len(calls) - batches
        generators[3](PROMPTS, **ASKED | changed)
        assert len(calls) == batches


def test_adapters_beside_the_weights_answer_as_if_they_were_merged(model):
    whole = at_strengths(BEFORE, FORGET, RETAIN, POINTS[3])
    carrying = Generator(model, adapters=whole)
    merged = dataclasses.replace(model, params=merged_params(model.params, whole))
    assert carrying(PROMPTS, **ASKED) == generate(merged, PROMPTS, **ASKED) != generate(model, PROMPTS, **ASKED)
    assert not carrying.streams and Generator(model).streams
    assert Generator(model).cost() == {}
