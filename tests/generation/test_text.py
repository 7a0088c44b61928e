"""Strings in, strings out; and the last hidden states of prompts."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from rr_jax.generation.features import last_hidden
from rr_jax.generation.loop import generate_tokens
from rr_jax.generation.text import end_tokens, generate, generate_ids
from rr_jax.models.decoder import hidden_states
from tests.jitted import forward


def test_greedy_text_is_the_argmax_of_forward(lm: Any) -> None:
    text = generate(lm, ["w1 w2 w3"], max_new_tokens=1)[0]
    logits = forward(lm.params, np.array([[1, 4, 5, 6]]), lm.config)
    assert text == lm.tokenizer.decode([int(np.argmax(np.asarray(logits)[0, -1]))])


def test_a_sample_depends_on_its_own_index_alone(lm: Any, prompts: list[str]) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 14, "seed": 3, "temperature": 1.0}
    expected = generate(lm, prompts, **settings)
    assert len(set(expected)) == len(prompts)
    for batch_size in (1, 3, 8):
        assert generate(lm, prompts, batch_size=batch_size, **settings) == expected
    assert generate(lm, prompts[4:], first_index=4, **settings) == expected[4:]
    for n in (1, 6):
        assert generate(lm, [prompts[n]], first_index=n, **settings) == [expected[n]]


def test_the_order_of_the_prompts_is_kept(lm: Any, prompts: list[str]) -> None:
    forwards = generate(lm, prompts, max_new_tokens=8)
    assert generate(lm, prompts[::-1], max_new_tokens=8) == forwards[::-1]


def test_seed_and_index_give_other_samples(lm: Any) -> None:
    many = generate(lm, ["w1 w2"] * 6, max_new_tokens=10, temperature=1.0)
    assert len(set(many)) == 6
    assert generate(lm, ["w1 w2"] * 5, max_new_tokens=10, temperature=1.0, first_index=1) == many[1:]
    assert generate(lm, ["w1 w2"] * 6, max_new_tokens=10, temperature=1.0, seed=1) != many


def test_the_end_token_ends_the_text(lm: Any, prompts: list[str]) -> None:
    """Many samples: those that finished are shorter than the limit, and no special token is left in the text."""
    encoded = [[1, 5, 9]] * 40
    generations = generate_ids(lm, encoded, max_new_tokens=16, temperature=1.5)
    assert {generation.finished for generation in generations} == {True, False}
    for generation in generations:
        assert 2 not in generation.token_ids
        assert generation.finished == (len(generation.token_ids) < 16)
    assert "</s>" not in " ".join(generate(lm, prompts, max_new_tokens=16, temperature=1.5))


def test_stop_cuts_the_text(lm: Any) -> None:
    text = generate(lm, ["w1 w2"], max_new_tokens=12, temperature=1.0)[0]
    words = text.split()
    assert generate(lm, ["w1 w2"], max_new_tokens=12, temperature=1.0, stop=words[4]) == [text[: text.find(words[4])]]
    several = [" ".join(words[5:7]), "not in there", words[2]]
    assert generate(lm, ["w1 w2"], max_new_tokens=12, temperature=1.0, stop=several) == [text[: text.find(words[2])]]


def test_a_soft_prompt_of_embeddings_is_those_tokens(lm: Any) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.8}
    prompts = ["w7 w8 w9 w10", "w20 w21", "w30 w31 w32"]
    rests = ["w9 w10", "", "w32"]
    ids = [[lm.tokenizer.convert_tokens_to_ids(word) for word in prompt.split()[:2]] for prompt in prompts]
    soft = np.asarray(lm.params["embed"])[np.asarray(ids)]
    assert generate(lm, rests, soft_prompts=soft, **settings) == generate(lm, prompts, **settings)
    assert generate(lm, rests, soft_prompts=soft[::-1].copy(), **settings) != generate(lm, prompts, **settings)
    np.testing.assert_allclose(last_hidden(lm, rests, soft_prompts=soft), last_hidden(lm, prompts), atol=1e-5)


def test_an_adapter_is_the_merged_weight(lm: Any, prompts: list[str]) -> None:
    rng = np.random.default_rng(9)
    a, b = np.float32(rng.normal(size=(2, 24, 3))), np.float32(0.3 * rng.normal(size=(2, 3, 12)))
    adapter = {"v": {"a": a, "b": b}}
    layers = {**lm.params["layers"], "v": np.asarray(lm.params["layers"]["v"]) + a @ b}
    merged = dataclasses.replace(lm, params={**lm.params, "layers": layers})
    prompts = [prompt for prompt in prompts if len(prompt.split()) < 16]
    adapted = generate(lm, prompts, max_new_tokens=10, adapters=adapter)
    assert adapted == generate(merged, prompts, max_new_tokens=10)
    assert adapted != generate(lm, prompts, max_new_tokens=10)
    np.testing.assert_allclose(last_hidden(lm, prompts, adapters=adapter), last_hidden(merged, prompts), atol=1e-4)


def test_nothing_recompiles_between_batches(lm: Any, prompts: list[str]) -> None:
    generate(lm, prompts[:4], max_new_tokens=9, temperature=1.0, top_k=3)
    before = generate_tokens._cache_size()
    generate(lm, prompts[:4] * 2, max_new_tokens=16, temperature=0.2, top_p=0.5, seed=8, first_index=70, batch_size=8)
    generate(lm, prompts[:2][::-1], max_new_tokens=1, temperature=3, top_k=9)
    assert generate_tokens._cache_size() == before


def test_last_hidden_is_the_state_of_the_last_token(lm: Any, prompts: list[str]) -> None:
    features = last_hidden(lm, prompts, batch_size=4)
    assert features.shape == (len(prompts), 24)
    assert features.dtype == np.float32
    whole = jax.jit(lambda tokens: hidden_states(lm.params, tokens, lm.config))
    for n, prompt in enumerate(prompts):
        ids = lm.tokenizer(prompt)["input_ids"]
        states = whole(np.array([ids + [0] * (32 - len(ids))]))  # what follows a token does not change its state
        np.testing.assert_allclose(features[n], np.asarray(states)[0, len(ids) - 1], atol=1e-4)


def test_progress_counts_prompts(lm: Any, prompts: list[str]) -> None:
    calls: list[tuple[int, int]] = []
    generate(lm, prompts, max_new_tokens=2, batch_size=4, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (11, 11)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_end_tokens_join_config_and_tokenizer(lm: Any) -> None:
    assert end_tokens(lm) == (2,)
    assert end_tokens(dataclasses.replace(lm, tokenizer=None)) == (2,)


def test_no_prompts(lm: Any) -> None:
    assert generate(lm, []) == []
    assert generate_ids(lm, []) == []
    assert last_hidden(lm, []).shape == (0, 24)


def test_errors(lm: Any) -> None:
    long = " ".join(["w1"] * 100)
    with pytest.raises(ValueError, match="prompt 1 has 101 tokens, expected at most 98: the model has 128 positions"):
        generate(lm, ["w1", long], max_new_tokens=30)
    assert len(generate(lm, [long], max_new_tokens=27)) == 1
    with pytest.raises(ValueError, match="prompt 0 has 129 tokens, expected at most the model's 128"):
        last_hidden(lm, [" ".join(["w1"] * 128)])
    with pytest.raises(ValueError, match="no tokenizer, expected one"):
        generate(dataclasses.replace(lm, tokenizer=None), ["w1"])
    with pytest.raises(ValueError, match="max_new_tokens is 0, expected at least 1"):
        generate(lm, ["w1"], max_new_tokens=0)
    with pytest.raises(ValueError, match="prompt 0 has no tokens"):
        generate_ids(lm, [[]])
    with pytest.raises(ValueError, match="stop holds an empty text"):
        generate(lm, ["w1"], stop=["w2", ""])
    with pytest.raises(ValueError, match="temperature is -1"):
        generate(lm, ["w1"], temperature=-1.0)
    with pytest.raises(ValueError, match="soft_prompts has shape"):
        generate(lm, ["w1"], soft_prompts=np.zeros((2, 3, 24)))
