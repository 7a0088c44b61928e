"""Models of many strengths that decode together: each says what it would have said alone, and all are computed once."""

import dataclasses

import jax
import numpy as np
import pytest

from rr_jax.generation import points as module
from rr_jax.generation.likelihood import response_nll
from rr_jax.generation.points import models_at
from rr_jax.generation.stream import stream_text
from rr_jax.generation.text import generate
from rr_jax.lora.adapter import init_adapter
from rr_jax.lora.algebra import add, at_strengths, scale_adapter
from rr_jax.models.hub import save
from rr_jax.release.compose import merged_params
from tests import tiny

LM = tiny.model()
POINTS = np.array([[0.0, 0.0], [0.0, 1.0], [0.7, 0.0], [0.7, 1.0]])
PROMPTS = ["tell", "w1 w2 w3", "w4", "w1 w1 w1 w1 w1 w1 w1 w1 w1"]  # of two buckets
ASKED = {"max_new_tokens": 7, "seed": 3}


def trained(seed):
    """An adapter that does something: `b` starts at zero otherwise."""
    adapter = init_adapter(jax.random.key(seed), LM.config, 2, ("q", "v", "down"))
    keys = iter(jax.random.split(jax.random.key(seed + 100), len(adapter)))
    return {
        name: {"a": factors["a"], "b": 0.5 * jax.random.normal(next(keys), factors["b"].shape)}
        for name, factors in adapter.items()
    }


FORGET, RETAIN, BEFORE = trained(1), trained(2), trained(3)


@pytest.mark.parametrize("strategy", ["vmap", "map"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_point_says_what_its_merged_weights_say(strategy, temperature):
    models = models_at(LM, POINTS, forget=FORGET, retain=RETAIN, before=BEFORE, strategy=strategy)
    said = []
    for point, lm in zip(POINTS, models, strict=True):
        whole = add(BEFORE, scale_adapter(FORGET, point[0]), scale_adapter(RETAIN, point[1]))
        merged = dataclasses.replace(LM, params=merged_params(LM.params, whole))
        said.append(generate(lm, PROMPTS, temperature=temperature, **ASKED))
        assert said[-1] == generate(merged, PROMPTS, temperature=temperature, **ASKED)
        np.testing.assert_array_equal(lm.params["embed"], LM.params["embed"])
    assert len({tuple(texts) for texts in said}) > 1  # the strengths matter


def test_a_batch_is_decoded_once_for_all_points_and_another_anew(monkeypatch):
    calls, decode = [], module._decode_all
    monkeypatch.setattr(module, "_decode_all", lambda *args, **more: calls.append(args) or decode(*args, **more))
    models = models_at(LM, POINTS, forget=FORGET, retain=None, strategy="map")
    for lm in models:
        generate(lm, PROMPTS, **ASKED)
    batches = len(calls)
    assert 1 <= batches < len(models)
    for changed in ({"seed": 4}, {"max_new_tokens": 6}, {"temperature": 1.0}):
        generate(models[0], PROMPTS, **ASKED | changed)
        batches += len(calls) - batches
        generate(models[3], PROMPTS, **ASKED | changed)
        assert len(calls) == batches


def test_what_reads_the_weights_reads_the_adapters_too(tmp_path):
    whole = at_strengths(BEFORE, FORGET, RETAIN, POINTS[3])
    carrying = dataclasses.replace(LM, adapters=whole)
    merged = dataclasses.replace(LM, params=merged_params(LM.params, whole))
    texts = ["w2 w3 w4", "w1"]
    np.testing.assert_allclose(
        response_nll(carrying, PROMPTS[:2], texts), response_nll(merged, PROMPTS[:2], texts), rtol=1e-4
    )
    for lm in (carrying, merged):
        assert "".join(stream_text(lm, "tell", **ASKED)) == generate(merged, ["tell"], **ASKED)[0]
    with pytest.raises(ValueError, match="has adapters that are not merged"):
        save(carrying, tmp_path / "model")
    assert not (tmp_path / "model").exists()
