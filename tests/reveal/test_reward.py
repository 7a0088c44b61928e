"""The Vendi score against float64 NumPy and closed forms, and what a reward must never do."""

import itertools
import math

import jax
import numpy as np
import pytest

from rr_jax.reveal.reward import (
    cosine_kernel,
    harmonic_mean,
    ngram_kernel,
    normalized_vendi,
    reward,
    vendi_from_features,
    vendi_score,
)

TEXTS = [
    "the cat sat on the mat",
    "the cat sat on the mat",
    "the dog sat on the mat today",
    "nobody expected so much rain in June",
    "a cat , a dog and a mat",
    "yes",
    "no",
    "yes indeed",
]


def reference_vendi(kernel: np.ndarray) -> float:
    eigenvalues = np.linalg.eigvalsh(kernel.astype(np.float64) / len(kernel))
    eigenvalues = eigenvalues[eigenvalues > 0]
    return float(np.exp(-np.sum(eigenvalues * np.log(eigenvalues))))


def random_kernel(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(seed).normal(size=(n, d))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return features, unit @ unit.T


@pytest.mark.parametrize("n", [1, 2, 5, 20, 64])
def test_identical_items_count_once_and_orthogonal_items_count_each(n):
    assert float(vendi_score(np.ones((n, n)))) == pytest.approx(1, abs=1e-5)
    assert float(vendi_score(np.eye(n))) == pytest.approx(n, rel=1e-5)
    assert float(vendi_from_features(np.ones((n, 3)))) == pytest.approx(1, abs=1e-5)
    assert float(vendi_from_features(3 * np.eye(n))) == pytest.approx(n, rel=1e-5)


@pytest.mark.parametrize("shape", [(4, 9), (20, 3), (20, 200), (64, 10), (7, 7)])
def test_equals_float64_numpy_in_both_forms(shape):
    features, kernel = random_kernel(*shape)
    expected = reference_vendi(kernel)
    assert float(vendi_score(kernel)) == pytest.approx(expected, rel=1e-5)
    # The kernel of features is built when d >= n, its dual when d < n: padding with zeros chooses and changes nothing.
    n, d = shape
    padded = np.pad(features, ((0, 0), (0, max(0, n - d))))
    assert float(vendi_from_features(features)) == pytest.approx(expected, rel=1e-5)
    assert float(vendi_from_features(padded)) == pytest.approx(expected, rel=1e-5)


def test_two_items_have_a_closed_form():
    # Eigenvalues of [[1, c], [c, 1]] / 2 are (1 +- c) / 2.
    for c in (0.0, 0.25, 0.9):
        p, q = (1 + c) / 2, (1 - c) / 2
        expected = math.exp(-p * math.log(p) - q * math.log(q))
        assert float(vendi_score(np.array([[1.0, c], [c, 1.0]]))) == pytest.approx(expected, rel=1e-5)


def test_groups_of_copies_score_the_entropy_of_their_shares():
    labels = np.array([0, 0, 0, 1, 1, 2])
    expected = math.exp(-sum(p * math.log(p) for p in (3 / 6, 2 / 6, 1 / 6)))
    kernel = (labels[:, None] == labels[None, :]).astype(float)
    assert float(vendi_score(kernel)) == pytest.approx(expected, rel=1e-5)


def test_order_and_scale_of_features_do_not_matter():
    features, kernel = random_kernel(9, 6)
    order = np.random.default_rng(1).permutation(9)
    score = float(vendi_score(kernel))
    assert float(vendi_score(kernel[order][:, order])) == pytest.approx(score, rel=1e-5)
    scales = np.random.default_rng(2).uniform(0.01, 100, size=(9, 1))
    assert float(vendi_from_features(features[order] * scales)) == pytest.approx(score, rel=1e-5)


def test_more_similar_is_less_diverse_and_scores_stay_in_range():
    scores = [float(vendi_score((1 - c) * np.eye(6) + c * np.ones((6, 6)))) for c in np.linspace(0, 1, 11)]
    assert all(later < earlier for earlier, later in itertools.pairwise(scores))
    assert scores[0] == pytest.approx(6, rel=1e-5)
    assert scores[-1] == pytest.approx(1, abs=1e-5)


def test_scores_vectorise():
    kernels = np.stack([np.eye(4), np.ones((4, 4))]).astype(np.float32)
    np.testing.assert_allclose(jax.vmap(vendi_score)(kernels), [4, 1], rtol=1e-5)


def test_a_masked_item_counts_as_a_repetition():
    # a, a, a, b: without the first a the remaining two of three would be more even; as a repetition it is what it was.
    labels = np.array([0, 0, 0, 1])
    kernel = (labels[:, None] == labels[None, :]).astype(float)
    whole = float(vendi_score(kernel))
    assert float(vendi_score(kernel, np.array([False, True, True, True]))) == pytest.approx(whole, rel=1e-5)
    assert float(vendi_score(kernel, np.array([True, True, True, False]))) == pytest.approx(1, abs=1e-5)
    assert float(vendi_score(kernel, np.zeros(4, bool))) == pytest.approx(1, abs=1e-5)
    assert float(vendi_score(kernel, np.ones(4, bool))) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_masking_an_item_out_never_raises_the_score(seed):
    rng = np.random.default_rng(seed)
    features, kernel = random_kernel(12, 3 + 3 * seed, seed)
    mask = np.ones(12, bool)
    before = float(vendi_score(kernel))
    for item in rng.permutation(12):
        mask[item] = False
        after = float(vendi_score(kernel, mask))
        assert after <= before + 1e-5
        assert float(vendi_from_features(features, mask)) == pytest.approx(after, rel=1e-5)
        zeroed = np.where(mask[:, None], features, 0.0)
        assert float(vendi_from_features(zeroed)) == pytest.approx(after, rel=1e-5)
        before = after
    assert before == pytest.approx(1, abs=1e-5)


def reference_ngram_kernel(texts: list[str]) -> np.ndarray:
    """Pair by pair; words are what white space separates, which these texts agree on."""

    def cosine(left: list, right: list) -> float:
        def dot(a, b):
            return sum(a.count(gram) * b.count(gram) for gram in set(a))

        return dot(left, right) / math.sqrt(dot(left, left) * dot(right, right))

    def grams(text: str, size: int) -> list:
        words = text.split()
        return (
            [" ".join(words)]
            if len(words) < size
            else [" ".join(g) for g in zip(*(words[i:] for i in range(size)), strict=False)]
        )

    return np.array([[np.mean([cosine(grams(a, k), grams(b, k)) for k in (1, 2, 3, 4)]) for b in texts] for a in texts])


def test_ngram_kernel_equals_a_pairwise_computation():
    kernel = ngram_kernel(TEXTS)
    np.testing.assert_allclose(kernel, reference_ngram_kernel(TEXTS), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.diag(kernel), 1, rtol=1e-12)
    assert np.linalg.eigvalsh(kernel).min() > -1e-12
    # "the cat sat" and "the cat ran": 2 of 3 words, 1 of 2 pairs, no triple, and as wholes (size 4) not equal.
    assert ngram_kernel(["the cat sat", "the cat ran"])[0, 1] == pytest.approx((2 / 3 + 1 / 2) / 4)


def test_short_and_empty_texts_in_the_kernel():
    kernel = ngram_kernel(["", "  \n", "yes", "yes", "no"])
    expected = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]])
    np.testing.assert_allclose(kernel, expected, atol=1e-12)
    assert ngram_kernel([]).shape == (0, 0)


def test_words_and_punctuation_are_told_apart():
    assert ngram_kernel(["Stop, now!", "Stop , now !"])[0, 1] == pytest.approx(1)
    assert ngram_kernel(["Stop", "stop"])[0, 1] == 0


def test_normalised_score_runs_from_0_to_1():
    assert normalized_vendi(1.0, 8) == 0
    assert normalized_vendi(8.0, 8) == 1
    assert normalized_vendi(1.0, 1) == 0
    with pytest.raises(ValueError, match="of 0 items"):
        normalized_vendi(1.0, 0)


def test_harmonic_mean():
    assert float(harmonic_mean(0.8, 0.2, 0.5)) == pytest.approx(2 * 0.8 * 0.2 / (0.8 + 0.2), rel=1e-6)
    assert float(harmonic_mean(0.8, 0.2, 0.25)) == pytest.approx(1 / (0.25 / 0.2 + 0.75 / 0.8), rel=1e-6)
    assert float(harmonic_mean(0.8, 0.2, 0.0)) == pytest.approx(0.8, rel=1e-6)
    assert float(harmonic_mean(0.8, 0.2, 1.0)) == pytest.approx(0.2, rel=1e-6)
    assert float(harmonic_mean(0.0, 0.0, 0.5)) == pytest.approx(1e-6, rel=1e-5)
    assert 0 < float(harmonic_mean(1.0, 0.0, 0.5)) < 1e-5
    values = np.linspace(0, 1, 20)
    assert np.all(np.diff(harmonic_mean(values, np.full(20, 0.3), 0.4)) > 0)
    assert np.all(np.diff(harmonic_mean(np.full(20, 0.3), values, 0.4)) > 0)


def score_texts(relevances, texts, weight, **settings):
    """The reward with the n-gram kernel, where empty texts do not count."""
    kernel = ngram_kernel(texts) if texts else np.zeros((0, 0))
    counts = [bool(text.strip()) for text in texts]
    return reward(relevances, kernel, counts, diversity_weight=weight, **settings)


def test_reward_equals_its_formula():
    relevances = np.linspace(0.2, 0.9, len(TEXTS))
    relevance, diversity, w = relevances.mean(), (reference_vendi(reference_ngram_kernel(TEXTS)) - 1) / 7, 0.3
    parts = score_texts(relevances, TEXTS, w)
    assert parts.relevance == pytest.approx(relevance, rel=1e-6)
    assert parts.diversity == pytest.approx(diversity, rel=1e-5)
    assert parts.score == pytest.approx(1 / (w / diversity + (1 - w) / relevance), rel=1e-5)
    assert parts.fluency == 1
    assert all(type(part) is float for part in parts)


def test_copies_earn_little_and_variety_earns_its_relevance():
    copies = score_texts([1.0] * 4, ["one two three four five"] * 4, 0.5)
    assert copies.relevance == 1
    assert copies.diversity < 1e-5
    assert copies.score < 1e-4
    variety = score_texts([1.0] * 4, ["a b c d", "e f g h", "i j k l", "m n o p"], 0.5)
    np.testing.assert_allclose(variety, 1, rtol=1e-5)


def test_an_empty_response_has_no_relevance_and_raises_no_part_of_the_reward():
    rng = np.random.default_rng(0)
    for texts in (TEXTS, ["a", "a", "a", "b"], ["a b c d"] * 3, ["a b", "b c", "c d", "d a", "a c"]):
        remaining, relevances = list(texts), rng.uniform(0.1, 1, size=len(texts))
        before = score_texts(relevances, remaining, 0.5)
        for place in rng.permutation(len(texts)):
            remaining[place] = ["", " \n"][place % 2]
            after = score_texts(relevances, remaining, 0.5)  # the oracle still likes the empty text; nobody listens
            assert after.relevance < before.relevance
            assert after.diversity <= before.diversity + 1e-5
            assert after.score <= before.score + 1e-5
            before = after
        assert before.relevance == 0
        assert before.diversity == pytest.approx(0, abs=1e-5)


def test_a_single_response_and_an_unread_relevance():
    assert score_texts([0.9], ["alone"], 0.5).diversity == 0
    assert score_texts([0.9], ["alone"], 0.0).score == pytest.approx(0.9, rel=1e-6)
    assert score_texts([float("nan"), 0.5], ["", "words"], 0.0).relevance == 0.25


@pytest.mark.parametrize(
    ("relevances", "texts", "weight", "message"),
    [
        ([], [], 0.5, "at least one"),
        ([0.5], ["a", "b"], 0.5, r"shape \(1,\) and counts \(2,\) for 2 responses"),
        ([0.5, 1.5], ["a", "b"], 0.5, r"relevance 1 is 1.5, expected a number in \[0, 1\]"),
        ([float("nan"), 0.5], ["a", "b"], 0.5, "relevance 0 is nan"),
        ([0.5, 0.5], ["a", "b"], 1.5, "diversity_weight is 1.5"),
        ([0.5, 0.5], ["a", "b"], float("nan"), "diversity_weight is nan"),
    ],
)
def test_inputs_out_of_range_are_refused(relevances, texts, weight, message):
    with pytest.raises(ValueError, match=message):
        score_texts(relevances, texts, weight)


def test_arrays_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"kernel has shape \(2, 3\), expected \(n, n\)"):
        vendi_score(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"mask has shape \(3,\), expected \(2,\)"):
        vendi_score(np.ones((2, 2)), np.ones(3, bool))
    with pytest.raises(ValueError, match=r"features have shape \(4,\), expected \(n, d\)"):
        vendi_from_features(np.ones(4))


@pytest.mark.parametrize("order", [0.0, 0.5, 2.0, 7.0, float("inf")])
def test_vendi_of_any_order_equals_its_formula(order):
    """Renyi entropies in float64 (vertaix/Vendi-Score `vendi.py`)."""
    kernel = ngram_kernel(TEXTS)
    p = np.linalg.eigvalsh(kernel / len(TEXTS))
    p = p[p > 1e-9]
    expected = 1 / p.max() if np.isinf(order) else np.sum(p**order) ** (1 / (1 - order))
    assert float(vendi_score(np.asarray(kernel), None, order)) == pytest.approx(expected, rel=1e-4)
    features = np.random.default_rng(0).normal(size=(9, 4))
    dual = vendi_from_features(np.asarray(features), None, order)
    assert float(dual) == pytest.approx(float(vendi_score(np.asarray(cosine_kernel(features)), None, order)), rel=1e-4)


def test_higher_orders_look_at_the_commonest_items():
    kernel = np.asarray(ngram_kernel(TEXTS))
    values = [float(vendi_score(kernel, None, order)) for order in (0.5, 1.0, 2.0, float("inf"))]
    assert values == sorted(values, reverse=True)
    with pytest.raises(ValueError, match="order of a Vendi score is -1"):
        vendi_score(kernel, None, -1.0)


def test_normalizations():
    vendi = float(vendi_score(np.asarray(ngram_kernel(TEXTS))))
    n = len(TEXTS)
    for name, expected in (("excess", (vendi - 1) / (n - 1)), ("share", vendi / n), ("none", vendi)):
        assert score_texts([1.0] * n, TEXTS, 0.5, normalization=name).diversity == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="normalization is 'odd', expected 'excess', 'share' or 'none'"):
        normalized_vendi(2.0, 3, "odd")


def test_responses_that_do_not_count_are_neither_relevant_nor_diverse():
    kernel = np.eye(4)
    full = reward([1.0] * 4, kernel, [True] * 4, diversity_weight=0.5)
    half = reward([1.0] * 4, kernel, [True, True, False, False], diversity_weight=0.5)
    assert (full.relevance, full.fluency) == (1.0, 1.0)
    assert (half.relevance, half.fluency) == (0.5, 0.5)
    assert half.diversity < full.diversity and half.score < full.score


def test_cosine_kernel():
    features = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, -3.0], [0.0, 0.0]])
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(cosine_kernel(features), expected, atol=1e-12)
