"""Rounded weights against the formula in float64, one number at a time, and which arrays of a model are rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.evaluate import quantize
from rr_jax.evaluate.quantize import quantize_params
from tests import tiny

round_weights = jax.jit(quantize.round_weights, static_argnames=("bits", "group", "axis"))


def reference(weights, bits, group, axis):
    """(rounded, scale of each weight) in float64, group by group."""
    inputs = np.moveaxis(np.asarray(weights, np.float64), axis, 0)
    rounded, scales = np.zeros_like(inputs), np.zeros_like(inputs)
    step = inputs.shape[0] if group is None else group
    for start in range(0, inputs.shape[0], step):
        for channel in np.ndindex(inputs.shape[1:]):
            place = (slice(start, start + step), *channel)
            scale = np.abs(inputs[place]).max() / (2 ** (bits - 1) - 1)
            scales[place] = scale
            rounded[place] = scale * np.rint(inputs[place] / scale) if scale else 0.0
    return np.moveaxis(rounded, 0, axis), np.moveaxis(scales, 0, axis)


@pytest.mark.parametrize(("bits", "group", "axis"), [(8, None, -2), (4, 4, -2), (4, 4, -1), (2, 64, 0)])
def test_rounding_is_the_formula_and_errs_by_half_a_scale_at_most(bits, group, axis):
    weights = np.random.default_rng(0).normal(size=(3, 10, 6)).astype(np.float32)
    weights[:, :, 2] = 0.0
    expected, scale = reference(weights, bits, group, axis)
    found = np.asarray(round_weights(weights, bits, group, axis=axis), np.float64)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.all(np.abs(found - weights) <= scale / 2 + 1e-6)
    assert np.abs(found - weights).max() > 1e-4
    assert not found[:, :, 2].any()


def test_a_channel_has_no_more_values_than_its_bits_allow():
    weights = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    for bits in (2, 4, 8):
        rounded = np.asarray(round_weights(weights, bits, None, axis=-2))
        for column in range(3):
            assert 2 <= len(np.unique(rounded[:, column])) <= 2**bits - 1


def test_linear_maps_and_embeddings_are_rounded_and_nothing_else(monkeypatch):
    monkeypatch.setattr(quantize, "round_weights", round_weights)
    params = tiny.params() | {"head": np.random.default_rng(1).normal(size=(16, 64)).astype(np.float32)}
    rounded = quantize_params(params, 4, 8)
    axes = {"embed": -1, "head": -2} | dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), -2)
    for tree, after in ((params, rounded), (params["layers"], rounded["layers"])):
        for name, value in tree.items():
            if name == "layers":
                continue
            if name in axes:
                expected, _ = reference(value, 4, 8, axes[name])
                np.testing.assert_allclose(after[name], expected, rtol=1e-5)
            else:
                assert after[name] is value


def test_the_result_has_the_dtype_of_the_weights():
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(64, 8)), jnp.bfloat16)
    found = quantize.round_weights(weights, 8, None, axis=-2)
    _, scale = reference(weights, 8, None, -2)
    assert found.dtype == jnp.bfloat16
    before, after = (np.asarray(array, np.float64) for array in (weights, found))
    assert np.all(np.abs(after - before) <= scale / 2 + 2.0**-8 * np.abs(after))


def test_bits_and_groups_outside_their_range_are_refused():
    weights = np.ones((2, 2), np.float32)
    for bits in (1, 9):
        with pytest.raises(ValueError, match=f"bits is {bits}, expected 2 to 8"):
            quantize.round_weights(weights, bits, None, axis=-2)
    with pytest.raises(ValueError, match="group is 0, expected at least 1"):
        quantize.round_weights(weights, 4, 0, axis=-2)
