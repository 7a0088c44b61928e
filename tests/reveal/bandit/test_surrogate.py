"""Factored gradients against gradients written out, for one to three hidden layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rr_jax.reveal.bandit import surrogate
from tests.reveal.bandit.reference import as_float64, data, flat, forward, jacobian, network

DEPTHS = pytest.mark.parametrize("hidden", [(7,), (6, 9), (8, 5, 6)])


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


@DEPTHS
def test_factors_give_the_predictions_and_gradients_of_the_network(hidden):
    params, x = single(network(hidden)), jnp.asarray(data(9)[0])
    model = surrogate.Surrogate(hidden, "scaled")
    mean, gradients = surrogate.factors(params, x)
    np.testing.assert_allclose(mean, model.apply({"params": params}, x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean, forward(as_float64(params), np.asarray(x, np.float64))[1], rtol=1e-5, atol=1e-5)
    autodiff = jax.vmap(jax.grad(lambda p, row: model.apply({"params": p}, row)), (None, 0))(params, x)
    for layer, a, s in zip(surrogate.ordered(autodiff), *gradients, strict=True):
        np.testing.assert_allclose(jnp.einsum("ni,no->nio", a, s), layer["kernel"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(s, layer["bias"], rtol=1e-5, atol=1e-5)


@DEPTHS
def test_products_of_gradients_equal_those_of_the_float64_jacobian(hidden):
    params, weights = single(network(hidden)), jax.tree.map(np.abs, network(hidden, seed=1))
    x, others = data(9)[0], data(4, seed=1)[0]
    _, gradients = surrogate.factors(params, jnp.asarray(x))
    _, more = surrogate.factors(params, jnp.asarray(others))
    explicit, expected = (jacobian(as_float64(params), part.astype(np.float64)) for part in (x, others))
    np.testing.assert_allclose(surrogate.squares(gradients, single(weights)), explicit**2 @ flat(weights), rtol=1e-5)
    np.testing.assert_allclose(surrogate.norms(gradients), (explicit**2).sum(1), rtol=1e-5)
    scale = np.abs(explicit) @ np.abs(expected).T  # what rounding of a sum of signed terms is relative to
    assert np.max(np.abs(surrogate.kernel(gradients, more) - explicit @ expected.T) / scale) < 1e-5


def test_a_scaled_network_starts_at_zero_with_weights_of_variance_one_over_fan_in():
    x = jnp.asarray(data(6, width=50)[0])
    params = surrogate.Surrogate((200, 40), "scaled").init(jax.random.key(0), x)["params"]
    for layer, fan_in in zip(surrogate.ordered(params)[:-1], (50, 200), strict=True):
        assert abs(float(jnp.std(layer["kernel"])) * fan_in**0.5 - 1) < 0.05
    assert all(not jnp.any(layer["bias"]) for layer in surrogate.ordered(params))
    assert not jnp.any(surrogate.factors(params, x)[0])


def test_a_unit_normal_network_has_all_weights_and_biases_from_the_standard_normal():
    params = surrogate.Surrogate((200, 150), "unit_normal").init(jax.random.key(0), jnp.zeros((1, 50)))["params"]
    for layer in surrogate.ordered(params):
        assert layer["bias"].size == 1 or abs(float(jnp.std(layer["bias"])) - 1) < 0.15
        assert abs(float(jnp.std(layer["kernel"])) - 1) < 0.15
    values, _ = ravel_pytree(params)
    assert abs(float(jnp.mean(values))) < 0.02
