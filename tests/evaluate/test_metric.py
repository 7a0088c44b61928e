"""Standard errors and intervals against scipy, a jackknife and a bootstrap that know nothing of our formulas."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from rr_jax.evaluate.metric import (
    Metric,
    difference_of,
    exponential_of,
    from_plain,
    mean_of,
    quotient_of,
    ratio_of,
    share_of,
    to_plain,
    wilson,
)

DRAW = np.random.default_rng(5)


def bootstrap(tops, bottoms, of=lambda ratio: ratio, draws=20000):
    """The standard deviation of a ratio of sums over redrawn units."""
    index = np.random.default_rng(0).integers(0, len(tops), (draws, len(tops)))
    return np.std(of(np.asarray(tops)[index].sum(1) / np.asarray(bottoms)[index].sum(1)))


def test_a_share_has_the_binomial_standard_error():
    hits = [True] * 7 + [False] * 13
    found = share_of(hits)
    assert found == Metric(7 / 20, 20, found.stderr, share=True)
    assert found.stderr == pytest.approx(stats.binom(20, 7 / 20).std() / 20, rel=1e-12)
    assert found.complement() == Metric(1.0 - 7 / 20, 20, found.stderr, share=True)


@pytest.mark.parametrize(("count", "n"), [(0, 48), (48, 48), (7, 20), (1, 3), (95, 96)])
def test_the_interval_of_a_share_is_wilsons(count, n):
    expected = stats.binomtest(count, n).proportion_ci(0.95, method="wilson")
    found = share_of([True] * count + [False] * (n - count)).interval()
    np.testing.assert_allclose(found, (expected.low, expected.high), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(wilson(count / n, n), found, rtol=1e-9, atol=1e-12)


def test_nothing_to_judge_has_a_value_and_no_error():
    assert share_of([], if_none=1.0) == Metric(1.0, 0, None, share=True)
    assert share_of([]).value == 0.0 and share_of([]).interval() is None
    assert mean_of([3.0]) == Metric(3.0, 1, None)
    assert mean_of([3.0]).interval() is None


def test_a_mean_has_the_standard_error_of_scipy():
    values = DRAW.gamma(2.0, size=37)
    found = mean_of(values)
    assert (found.value, found.n) == (pytest.approx(values.mean(), rel=1e-12), 37)
    assert found.stderr == pytest.approx(stats.sem(values), rel=1e-12)
    half = stats.norm.ppf(0.975) * stats.sem(values)
    np.testing.assert_allclose(found.interval(), (values.mean() - half, values.mean() + half), rtol=1e-12)


def test_a_ratio_of_sums_has_the_standard_error_of_a_bootstrap_and_of_a_jackknife():
    bottoms = DRAW.integers(1, 30, 200).astype(float)
    tops = bottoms * DRAW.uniform(0.2, 0.9, 200)
    found = ratio_of(tops, bottoms)
    assert found.value == pytest.approx(tops.sum() / bottoms.sum(), rel=1e-12)
    without = (tops.sum() - tops) / (bottoms.sum() - bottoms)
    jackknife = math.sqrt(199 / 200 * ((without - without.mean()) ** 2).sum())
    assert found.stderr == pytest.approx(jackknife, rel=0.01)
    assert found.stderr == pytest.approx(bootstrap(tops, bottoms), rel=0.03)


def test_f1_over_documents_has_the_standard_error_of_a_bootstrap():
    true, predicted = DRAW.integers(0, 2, 300), DRAW.integers(0, 2, 300)
    right = true * predicted * (DRAW.uniform(size=300) < 0.8)
    found = ratio_of(2 * right, predicted + true, share=True)
    assert found.stderr == pytest.approx(bootstrap(2 * right, predicted + true), rel=0.03)
    low, high = found.interval()  # between the normal interval and Wilson's, which it is of for a plain count
    assert low == pytest.approx(found.value - 1.96 * found.stderr, abs=0.01)
    assert high == pytest.approx(found.value + 1.96 * found.stderr, abs=0.01)
    whole = ratio_of([2, 2, 2], [2, 2, 2], share=True)
    assert (whole.value, whole.stderr) == (1.0, 0.0) and whole.interval().low == pytest.approx(wilson(1.0, 3).low)


def test_a_perplexity_has_the_standard_error_of_a_bootstrap():
    tokens = DRAW.integers(20, 60, 250).astype(float)
    sums = tokens * DRAW.gamma(4.0, 0.3, 250)
    nll = ratio_of(sums, tokens)
    found = exponential_of(nll)
    assert (found.value, found.n) == (pytest.approx(math.exp(sums.sum() / tokens.sum()), rel=1e-12), 250)
    assert found.stderr == pytest.approx(bootstrap(sums, tokens, np.exp), rel=0.03)
    assert exponential_of(Metric(1e4, 9, 1.0)) == Metric(math.inf, 9, None)


def test_a_ratio_refuses_nothing_below_the_line():
    with pytest.raises(ValueError, match="found 2 and 1"):
        ratio_of([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="positive sum below the line, found 0"):
        mean_of([])


def test_metrics_survive_json_and_a_bare_number_does_not():
    metrics = {"f": share_of([True, False]), "p": Metric(math.inf, 3)}
    assert from_plain(json.loads(json.dumps(to_plain(metrics)))) == metrics
    with pytest.raises(ValueError, match="metric 'f' was saved as 0.5, expected value, n and stderr"):
        from_plain({"f": 0.5})


def test_differences_and_quotients_spread_as_independent_draws_do():
    one, other = Metric(0.62, 96, 0.05, share=True), Metric(0.81, 48, 0.03, share=True)
    drawn = np.random.default_rng(0).normal((0.62, 0.81), (0.05, 0.03), (400_000, 2))
    found = difference_of(one, other)
    assert (found.value, found.n, found.share) == (pytest.approx(-0.19), 48, False)
    assert found.stderr == pytest.approx(np.std(drawn[:, 0] - drawn[:, 1]), rel=0.01)
    found = quotient_of(one, other)
    assert (found.value, found.n, found.share) == (pytest.approx(0.62 / 0.81), 48, False)
    assert found.stderr == pytest.approx(np.std(drawn[:, 0] / drawn[:, 1]), rel=0.01)
    assert difference_of(one, Metric(0.5, 1)).stderr is None and quotient_of(Metric(math.inf, 2), one).stderr is None
    assert quotient_of(Metric(0.0, 48, 0.0), one) == Metric(0.0, 48, 0.0)
