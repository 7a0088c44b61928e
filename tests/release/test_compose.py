"""Adapter arithmetic of a round, and the rule that chooses eta."""

import jax
import numpy as np
import pytest

from rr_jax.lora.adapter import init_adapter
from rr_jax.release.compose import Point, choose_eta, compose, merged_params
from tests import tiny


def filled(seed):
    adapter = init_adapter(jax.random.key(seed), tiny.CONFIG, 3, ["q", "up"])
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(seed + 1), x.shape), adapter)


def test_composition_equals_the_dense_sum():
    params, first, forget, retain = tiny.params(), filled(1), filled(3), filled(5)
    result = merged_params(params, compose(first, forget, 0.3, 2.0, [(retain, 0.5)]))
    for name in ("q", "up"):
        dense = {k: np.asarray(v[name]["a"], np.float64) @ np.asarray(v[name]["b"], np.float64)
                 for k, v in {"d": first, "f": forget, "r": retain}.items()}  # fmt: skip
        expected = np.asarray(params["layers"][name], np.float64) + dense["d"] - 0.6 * dense["f"] + 1.0 * dense["r"]
        np.testing.assert_allclose(result["layers"][name], expected, atol=1e-5)


def test_zero_strength_gives_the_base_weights_bit_for_bit():
    params = tiny.params()
    for same in (merged_params(params, None), merged_params(params, compose(None, filled(1), 0.0, 2.0))):
        jax.tree.map(np.testing.assert_array_equal, params, same)


def point(eta, forget, utility, degenerate=0.0):
    return Point(eta, forget, utility, degenerate, {})


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([point(0.2, 0.5, 1.0), point(0.4, 0.1, 0.95), point(0.6, 0.0, 0.5)], 0.4),  # the budget binds
        ([point(0.2, 0.0, 1.0), point(0.4, 0.0, 1.0)], 0.2),  # of equals the smallest
        ([point(0.2, 0.3, 1.0), point(0.4, 0.0, 1.0, degenerate=0.5)], 0.2),  # silence is not forgetting
        ([point(0.2, 0.0, 0.1)], None),
        ([], None),
    ],
)
def test_the_rule_takes_the_most_forgetting_within_both_budgets(points, expected):
    chosen = choose_eta(points, 0.9, 0.1)
    assert (None if chosen is None else chosen.eta_forget) == expected
