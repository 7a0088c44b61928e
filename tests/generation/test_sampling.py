"""Token choice against Hugging Face's warpers, and the draws against the distribution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rr_jax.generation import sampling as module
from rr_jax.generation.sampling import make_sampling

torch = pytest.importorskip("torch")
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

filter_logits, sample_tokens = jax.jit(module.filter_logits), jax.jit(module.sample_tokens)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (7, 50)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 5, 50, 500])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.99, 1.0])
def test_filters_are_those_of_hugging_face(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> None:
    scores = torch.from_numpy(logits)
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    ours = np.asarray(filter_logits(logits / np.float32(temperature), np.int32(top_k), np.float32(top_p)))
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(scores.numpy()))
    np.testing.assert_allclose(ours, scores.numpy(), rtol=1e-5, atol=1e-5)


def test_top_p_keeps_the_token_that_crosses_p() -> None:
    probabilities = np.array([[0.1, 0.4, 0.2, 0.3]])
    for top_p, kept in ((0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.89, 3), (0.91, 4)):
        ours = filter_logits(np.log(np.float32(probabilities)), np.int32(0), np.float32(top_p))
        order = np.argsort(-probabilities[0])[:kept]
        assert set(np.flatnonzero(np.isfinite(np.asarray(ours)[0]))) == set(order)


def test_a_tie_with_the_last_kept_token_is_kept() -> None:
    ours = filter_logits(np.float32([[1.0, 2.0, 0.0, -0.0, 1.0]]), np.int32(2), np.float32(1.0))
    np.testing.assert_array_equal(np.isfinite(np.asarray(ours)), [[True, True, False, False, True]])
    ours = filter_logits(np.float32([[-0.0, 0.0, -1.0, -np.inf]]), np.int32(1), np.float32(1.0))
    np.testing.assert_array_equal(np.isfinite(np.asarray(ours)), [[True, True, False, False]])


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.4, 6, 1.0), (0.9, 8, 0.8)]
)
def test_draws_follow_the_distribution(temperature: float, top_k: int, top_p: float) -> None:
    """Chi-square of 20,000 draws; a right sampler passes this bound for all but one seed in ten thousand."""
    draws, vocab = 20_000, 12
    row = np.random.default_rng(1).normal(0, 1, vocab)
    scaled = row / temperature
    order = np.argsort(-scaled)
    kept = order[: top_k or vocab]
    p = np.exp(scaled[kept]) / np.exp(scaled[kept]).sum()
    kept = kept[np.cumsum(p) - p < top_p]
    expected = np.zeros(vocab)
    expected[kept] = np.exp(scaled[kept]) / np.exp(scaled[kept]).sum() * draws
    logits = np.broadcast_to(np.float32(row), (draws, vocab))
    keys = jax.random.split(jax.random.key(3), draws)
    drawn = sample_tokens(logits, keys, make_sampling(temperature, top_k, top_p))
    counts = np.bincount(np.asarray(drawn), minlength=vocab)
    assert counts[expected == 0].sum() == 0
    chi2 = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi2 < stats.chi2.ppf(1 - 1e-4, len(kept) - 1)


def test_a_row_depends_on_its_own_key_alone(logits: np.ndarray) -> None:
    keys = jax.random.split(jax.random.key(4), len(logits))
    for sampling in (make_sampling(1.3), make_sampling(1.3, 20, 0.95)):
        together = np.asarray(sample_tokens(logits, keys, sampling))
        backwards = np.asarray(sample_tokens(logits[::-1].copy(), keys[::-1], sampling))[::-1]
        alone = [np.asarray(sample_tokens(logits[n : n + 1], keys[n : n + 1], sampling)).item() for n in range(7)]
        assert together.tolist() == backwards.tolist() == alone


def test_greedy_takes_the_largest(logits: np.ndarray) -> None:
    keys = jax.random.split(jax.random.key(0), len(logits))
    drawn = module.sample_tokens(jnp.asarray(logits), keys, make_sampling(0.0, 3, 0.5))
    np.testing.assert_array_equal(np.asarray(drawn), logits.argmax(-1))


def test_numbers_never_recompile(logits: np.ndarray) -> None:
    compiled = jax.jit(lambda *arguments: module.sample_tokens(*arguments))
    keys = jax.random.split(jax.random.key(0), len(logits))
    for temperature, top_k, top_p in ((1.0, 4, 0.5), (2, 4, 1), (0.3, 0, 0.9), (np.float64(0.3), np.int64(9), 1.0)):
        compiled(logits, keys, make_sampling(temperature, top_k, top_p))
    assert compiled._cache_size() == 1


def test_the_cheapest_method_is_taken() -> None:
    assert make_sampling(0.0).method == make_sampling(0, 5, 0.5).method == "greedy"
    assert make_sampling(0.5).method == "temperature"
    assert make_sampling(0.5, 5).method == make_sampling(0.5, 0, 0.5).method == "filtered"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -0.1}, r"temperature is -0\.1, expected a finite number of at least 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1, expected a whole number of at least 0"),
        ({"top_k": 2.5}, r"top_k is 2\.5, expected a whole number"),
        ({"top_p": 0.0}, r"top_p is 0\.0, expected a number above 0 and at most 1"),
        ({"top_p": 1.1}, r"top_p is 1\.1"),
        ({"top_p": float("nan")}, "top_p is nan"),
    ],
)
def test_bad_numbers(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_sampling(**arguments)
