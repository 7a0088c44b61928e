"""Training against float64 NumPy, with Adam on the features and in the principal axes of the inputs."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rr_jax.reveal.bandit import fitting
from tests.reveal.bandit.reference import adam, as_float64, data, forward, network, standardize

SETTINGS = SimpleNamespace(fit_steps=7, lambda_=0.2, learning_rate=0.01)
train = jax.jit(fitting.train, static_argnames=("steps", "learning_rate", "principal_axes"))


def fit(params, x, rewards, capacity, principal_axes, steps=SETTINGS.fit_steps):
    """`train` in float64 on rows padded to a capacity."""
    n = len(x)
    with jax.enable_x64(True):
        return train(
            params,
            np.pad(x, ((0, capacity - n), (0, 0))),
            np.pad(rewards, (0, capacity - n)),
            np.where(np.arange(capacity) < n, 1 / n, 0),
            steps=steps,
            learning_rate=SETTINGS.learning_rate,
            decay=SETTINGS.lambda_ / n,
            principal_axes=principal_axes,
        )


def observed(width):
    x, rewards = data(8, width=width)
    x = x.astype(np.float64)
    return standardize(x, x), rewards.astype(np.float64)


def assert_close(got, expected, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, expected)


@pytest.mark.parametrize("hidden", [(7,), (6, 5), (6, 5, 4)])
@pytest.mark.parametrize(("width", "principal_axes"), [(5, True), (20, False)])
def test_training_on_all_features_equals_float64_adam(hidden, width, principal_axes):
    params = network(hidden, width)
    x, rewards = observed(width)
    assert_close(fit(params, x, rewards, 12, principal_axes), adam(params, x, rewards, SETTINGS))


@pytest.mark.parametrize("hidden", [(7,), (6, 5)])
def test_training_in_principal_axes_equals_float64_adam_on_rotated_inputs(hidden):
    params = network(hidden, 20)
    x, rewards = observed(20)
    left, lengths, axes = np.linalg.svd(x, full_matrices=False)
    axes = axes[:7].T  # eight standardised rows have rank seven
    kernel = params["layer_0"]["kernel"]
    rotated = params | {"layer_0": params["layer_0"] | {"kernel": axes.T @ kernel}}
    expected = adam(rotated, left[:, :7] * lengths[:7], rewards, SETTINGS)
    got = as_float64(fit(params, x, rewards, 12, True))
    np.testing.assert_allclose(axes.T @ got["layer_0"]["kernel"], expected["layer_0"]["kernel"], rtol=1e-5, atol=1e-5)
    # Across the axes nothing moves.
    off = np.eye(20) - axes @ axes.T
    np.testing.assert_allclose(off @ got["layer_0"]["kernel"], off @ kernel, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(forward(got, x)[1], forward(expected, x @ axes)[1], rtol=1e-5, atol=1e-5)
    # More padding, same fit.
    assert_close(fit(params, x, rewards, 15, True), got)


@pytest.mark.parametrize("principal_axes", [True, False])
def test_training_learns_the_rewards(principal_axes):
    params = network((16,), 20)
    x, rewards = observed(20)
    before = np.mean((forward(params, x)[1] - rewards) ** 2)
    after = forward(as_float64(fit(params, x, rewards, 12, principal_axes, steps=200)), x)[1]
    assert np.mean((after - rewards) ** 2) < 0.02 * before
