"""Posterior variances against explicit matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.reveal.bandit import posterior, surrogate
from tests.reveal.bandit.reference import data, flat, jacobian, network

HIDDEN = (6, 4)


def gradients(params, n, seed):
    return surrogate.factors(params, jnp.asarray(data(n, seed)[0], jnp.result_type(float)))[1]


@pytest.mark.parametrize("hidden", [(7,), (6, 4), (5, 4, 3)])
@pytest.mark.parametrize("lambda_", [0.03, 2.0])
def test_the_exact_posterior_equals_the_explicit_inverse_in_float64(hidden, lambda_):
    params = network(hidden)
    explicit, seen = (jacobian(params, data(n, seed)[0].astype(np.float64)) for n, seed in ((9, 1), (8, 0)))
    inverse = np.linalg.inv(lambda_ * np.eye(seen.shape[1]) + seen.T @ seen)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        variance = posterior.exact(gradients(params, 8, 0), lambda_)
        new, old = variance(gradients(params, 9, 1)), variance(gradients(params, 8, 0))
    np.testing.assert_allclose(new, np.einsum("np,pq,nq->n", explicit, inverse, explicit), rtol=1e-5)
    np.testing.assert_allclose(old, np.einsum("np,pq,nq->n", seen, inverse, seen), rtol=1e-5)


def test_in_float32_unseen_gradients_have_the_float64_variance():
    params = network(HIDDEN)
    explicit, seen = (jacobian(params, data(n, seed)[0].astype(np.float64)) for n, seed in ((9, 1), (8, 0)))
    inverse = np.linalg.inv(0.5 * np.eye(seen.shape[1]) + seen.T @ seen)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    got = posterior.exact(gradients(params, 8, 0), 0.5)(gradients(params, 9, 1))
    np.testing.assert_allclose(got, np.einsum("np,pq,nq->n", explicit, inverse, explicit), rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_seen_is_certain_to_lambda_and_more_of_it_never_adds_doubt(seed):
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, network(HIDDEN, seed=seed))
        seen, arms = gradients(params, 8, seed), gradients(params, 20, seed + 10)
        fewer = jax.tree.map(lambda part: part[:5], seen)
        before, after = posterior.exact(fewer, 0.3), posterior.exact(seen, 0.3)
        # v = k / (k + lambda) at most for a gradient that is among those seen.
        assert np.all(after(seen) <= 1) and np.all(before(fewer) <= 1)
        assert np.all(after(arms) <= before(arms) * (1 + 1e-9))
        assert np.any(after(arms) < 0.99 * before(arms))
        # With nothing seen U is lambda I. A gradient of 0, which is what padding has, is nothing.
        nothing = surrogate.Factors(seen.inputs, [0 * slopes for slopes in seen.slopes])
        np.testing.assert_allclose(posterior.exact(nothing, 0.3)(arms), surrogate.norms(arms) / 0.3, rtol=1e-9)


def test_rounding_far_above_lambda_gives_neither_nan_nor_certainty():
    params = jax.tree.map(lambda leaf: jnp.asarray(30 * leaf, jnp.float32), network(HIDDEN))
    seen = gradients(params, 12, 0)
    variance = posterior.exact(seen, 1e-3)
    assert float(surrogate.norms(seen).max()) * 1e-7 > 1e-3
    for part in (variance(seen), variance(gradients(params, 9, 1))):
        assert np.all(np.isfinite(part)) and np.all(part > 0)


def test_the_diagonal_grows_by_the_square_of_a_gradient():
    params, u = network(HIDDEN), jax.tree.map(np.abs, network(HIDDEN, seed=1))
    arm = data(1, seed=4)[0].astype(np.float64)
    g = jacobian(params, arm)[0]
    with jax.enable_x64(True):
        _, gradient = surrogate.factors(jax.tree.map(jnp.asarray, params), jnp.asarray(arm))
        grown = posterior.add_square(jax.tree.map(jnp.asarray, u), gradient)
        before, after = posterior.diagonal(u)(gradient), posterior.diagonal(grown)(gradient)
    np.testing.assert_allclose(flat(grown), flat(u) + g * g, rtol=1e-9)
    np.testing.assert_allclose(before, [(g * g / flat(u)).sum()], rtol=1e-9)
    np.testing.assert_allclose(after, [(g * g / (flat(u) + g * g)).sum()], rtol=1e-9)
