"""Posterior variances against explicit matrices in float64."""

import jax
import numpy as np
import pytest

from rr_jax.reveal.bandit import posterior, surrogate
from tests.reveal.bandit.reference import as_float64, data, flat, jacobian, network

HIDDEN = (6, 4)


@jax.jit
def variances(params, seen, arms, lambda_):
    """Of the arms, and of what was seen, given what was seen."""
    (_, seen), (_, arms) = surrogate.factors(params, seen), surrogate.factors(params, arms)
    variance = posterior.exact(seen, lambda_)
    return variance(arms), variance(seen)


@jax.jit
def prior(params, seen, arms, lambda_):
    """Variances of the arms when every gradient seen is 0, and the squared lengths of the arms' gradients."""
    (_, seen), (_, arms) = surrogate.factors(params, seen), surrogate.factors(params, arms)
    nothing = surrogate.Factors(seen.inputs, [0 * slopes for slopes in seen.slopes])
    return posterior.exact(nothing, lambda_)(arms), surrogate.norms(arms)


@jax.jit
def grow(params, u, arm):
    """U with the arm's squared gradient added, and the arm's variance before and after."""
    _, gradient = surrogate.factors(params, arm)
    grown = posterior.add_square(u, gradient)
    return grown, posterior.diagonal(u)(gradient), posterior.diagonal(grown)(gradient)


def rows(n, seed):
    return data(n, seed)[0].astype(np.float64)


def single(tree):
    return jax.tree.map(np.float32, tree)


@pytest.mark.parametrize("hidden", [(7,), (6, 4), (5, 4, 3)])
@pytest.mark.parametrize("lambda_", [0.03, 2.0])
def test_the_exact_posterior_equals_the_explicit_inverse_in_float64(hidden, lambda_):
    params = network(hidden)
    explicit, seen = jacobian(params, rows(9, 1)), jacobian(params, rows(8, 0))
    inverse = np.linalg.inv(lambda_ * np.eye(seen.shape[1]) + seen.T @ seen)
    with jax.enable_x64(True):
        new, old = variances(params, rows(8, 0), rows(9, 1), lambda_)
        assert new.dtype == old.dtype == np.float64
    np.testing.assert_allclose(new, np.einsum("np,pq,nq->n", explicit, inverse, explicit), rtol=1e-5)
    np.testing.assert_allclose(old, np.einsum("np,pq,nq->n", seen, inverse, seen), rtol=1e-5)


def test_in_float32_unseen_gradients_have_the_float64_variance():
    params = network(HIDDEN)
    explicit, seen = jacobian(params, rows(9, 1)), jacobian(params, rows(8, 0))
    inverse = np.linalg.inv(0.5 * np.eye(seen.shape[1]) + seen.T @ seen)
    got, _ = variances(single(params), data(8, 0)[0], data(9, 1)[0], 0.5)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.einsum("np,pq,nq->n", explicit, inverse, explicit), rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_seen_is_certain_to_lambda_and_more_of_it_never_adds_doubt(seed):
    params, seen, arms = network(HIDDEN, seed=seed), rows(8, seed), rows(20, seed + 10)
    with jax.enable_x64(True):
        before, few = map(np.asarray, variances(params, seen[:5], arms, 0.3))
        after, all_seen = map(np.asarray, variances(params, seen, arms, 0.3))
        empty, norms = prior(params, seen, arms, 0.3)
    # v = k / (k + lambda) at most for a gradient that is among those seen.
    assert np.all(all_seen <= 1) and np.all(few <= 1)
    assert np.all(after <= before * (1 + 1e-9))
    assert np.any(after < 0.99 * before)
    # With nothing seen U is lambda I. A gradient of 0, which is what padding has, is nothing.
    np.testing.assert_allclose(empty, np.asarray(norms) / 0.3, rtol=1e-9)


def test_rounding_far_above_lambda_gives_neither_nan_nor_certainty():
    params, seen = single(jax.tree.map(lambda leaf: 30 * leaf, network(HIDDEN))), data(12, 0)[0]
    assert np.max((jacobian(as_float64(params), seen.astype(np.float64)) ** 2).sum(1)) * 1e-7 > 1e-3
    for part in map(np.asarray, variances(params, seen, data(9, 1)[0], 1e-3)):
        assert part.dtype == np.float32 and np.all(np.isfinite(part)) and np.all(part > 0)


def test_the_diagonal_grows_by_the_square_of_a_gradient():
    params, u = network(HIDDEN), jax.tree.map(np.abs, network(HIDDEN, seed=1))
    arm = rows(1, 4)
    g = jacobian(params, arm)[0]
    with jax.enable_x64(True):
        grown, before, after = grow(params, u, arm)
    np.testing.assert_allclose(flat(as_float64(grown)), flat(u) + g * g, rtol=1e-9)
    np.testing.assert_allclose(before, [(g * g / flat(u)).sum()], rtol=1e-9)
    np.testing.assert_allclose(after, [(g * g / (flat(u) + g * g)).sum()], rtol=1e-9)
