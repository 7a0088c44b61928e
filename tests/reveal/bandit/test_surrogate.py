"""Factored gradients against gradients written out, for one to three hidden layers."""

import jax
import numpy as np
import pytest

from rr_jax.reveal.bandit import surrogate
from tests.reveal.bandit.reference import as_float64, data, flat, forward, jacobian, network

DEPTHS = pytest.mark.parametrize("hidden", [(7,), (6, 9), (8, 5, 6)])


def single(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)


@DEPTHS
def test_factors_give_the_predictions_and_gradients_of_the_network(hidden):
    params, x = single(network(hidden)), data(9)[0]
    model = surrogate.Surrogate(hidden, "scaled")

    @jax.jit
    def compare(params, x):
        autodiff = jax.vmap(jax.grad(lambda p, row: model.apply({"params": p}, row)), (None, 0))(params, x)
        return surrogate.factors(params, x), model.apply({"params": params}, x), autodiff

    (mean, gradients), applied, autodiff = compare(params, x)
    np.testing.assert_allclose(mean, applied, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean, forward(as_float64(params), np.asarray(x, np.float64))[1], rtol=1e-5, atol=1e-5)
    for layer, a, s in zip(surrogate.ordered(autodiff), *gradients, strict=True):
        np.testing.assert_allclose(np.einsum("ni,no->nio", a, s), layer["kernel"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(s, layer["bias"], rtol=1e-5, atol=1e-5)


@jax.jit
def products(params, weights, x, others):
    (_, gradients), (_, more) = surrogate.factors(params, x), surrogate.factors(params, others)
    return surrogate.squares(gradients, weights), surrogate.norms(gradients), surrogate.kernel(gradients, more)


@DEPTHS
def test_products_of_gradients_equal_those_of_the_float64_jacobian(hidden):
    params, weights = single(network(hidden)), jax.tree.map(np.abs, network(hidden, seed=1))
    x, others = data(9)[0], data(4, seed=1)[0]
    squares, norms, kernel = products(params, single(weights), x, others)
    explicit, expected = (jacobian(as_float64(params), part.astype(np.float64)) for part in (x, others))
    np.testing.assert_allclose(squares, explicit**2 @ flat(weights), rtol=1e-5)
    np.testing.assert_allclose(norms, (explicit**2).sum(1), rtol=1e-5)
    scale = np.abs(explicit) @ np.abs(expected).T  # what rounding of a sum of signed terms is relative to
    assert np.max(np.abs(kernel - explicit @ expected.T) / scale) < 1e-5


def test_a_scaled_network_starts_at_zero_with_weights_of_variance_one_over_fan_in():
    x = data(6, width=50)[0]
    params = jax.jit(surrogate.Surrogate((200, 40), "scaled").init)(jax.random.key(0), x)["params"]
    assert not np.any(jax.jit(surrogate.factors)(params, x)[0])
    params = as_float64(params)
    for layer, fan_in in zip(surrogate.ordered(params)[:-1], (50, 200), strict=True):
        assert abs(np.std(layer["kernel"]) * fan_in**0.5 - 1) < 0.05
    assert all(not np.any(layer["bias"]) for layer in surrogate.ordered(params))


def test_a_unit_normal_network_has_all_weights_and_biases_from_the_standard_normal():
    model = surrogate.Surrogate((200, 150), "unit_normal")
    params = as_float64(jax.jit(model.init)(jax.random.key(0), np.zeros((1, 50), np.float32))["params"])
    for layer in surrogate.ordered(params):
        assert layer["bias"].size == 1 or abs(np.std(layer["bias"]) - 1) < 0.15
        assert abs(np.std(layer["kernel"]) - 1) < 0.15
    assert abs(np.mean(flat(params))) < 0.02
