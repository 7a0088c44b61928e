"""The likelihood of responses against logits of `forward`, token by token, in float64."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.generation.likelihood import check_logits, response_nll
from tests.jitted import forward


def reference(lm: Any, prompt: str, response: str, soft: Any = None) -> float:
    before = lm.tokenizer(prompt)["input_ids"]
    after = lm.tokenizer(response, add_special_tokens=False)["input_ids"]
    ids = [before[0], *([-1] * (0 if soft is None else len(soft))), *before[1:], *after]
    # What follows a token does not change its logits, so that one compilation serves all lengths.
    tokens = np.array([ids + [0] * (32 - len(ids))], np.int32)
    logits = forward(lm.params, tokens, lm.config, soft_prompt=None if soft is None else soft[None])
    rows = np.asarray(logits, np.float64)[0, : len(ids)]
    log_p = (
        rows
        - np.log(np.sum(np.exp(rows - rows.max(-1, keepdims=True)), -1, keepdims=True))
        - rows.max(-1, keepdims=True)
    )
    places = range(len(ids) - len(after), len(ids))
    return float(-np.mean([log_p[place - 1, ids[place]] for place in places]))


PAIRS = [("w1 w2", "w3 w4 w5"), ("w9", "w8"), ("", "w7 w7 w7 w7"), ("w1 " * 20, "w3 w4")]


def test_against_forward(lm: Any) -> None:
    found = response_nll(lm, *zip(*PAIRS, strict=True), batch_size=3)
    np.testing.assert_allclose(found, [reference(lm, *pair) for pair in PAIRS], atol=1e-4)


def test_soft_prompts_stand_before_the_rows_that_have_them(lm: Any) -> None:
    soft = np.random.default_rng(0).normal(size=(4, 3, lm.config.embed_dim)).astype(np.float32)
    rows = [True, False, True, False]
    found = response_nll(lm, *zip(*PAIRS, strict=True), soft_prompts=soft, soft_rows=rows)
    expected = [reference(lm, *pair, soft=s if on else None) for pair, s, on in zip(PAIRS, soft, rows, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nothing_and_too_much(lm: Any) -> None:
    assert response_nll(lm, ["w1"], [""])[0] == 0
    with pytest.raises(ValueError, match="2 prompts and 1 responses"):
        response_nll(lm, ["a", "b"], ["c"])
    with pytest.raises(ValueError, match="prompt and response 0 have 131 tokens, expected at most the model's 128"):
        response_nll(lm, ["w1 " * 100], ["w2 " * 30])


def test_a_model_whose_activations_overflow_is_refused(lm: Any) -> None:
    """As Gemma does in float16: every weight is finite and no logit is."""
    check_logits(lm, "tiny")
    layers = lm.params["layers"]
    loud = layers | {name: jnp.full_like(layers[name], 300.0) for name in ("up", "gate")}
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), lm.params | {"layers": loud})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(halved))
    with pytest.raises(ValueError, match="tiny computes logits that are not finite in float16; its activations may be"):
        check_logits(dataclasses.replace(lm, params=halved), "tiny")
