"""Collectives: identities without an axis, sums and weighted means with one."""

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.parallel import collectives

TREE = {"x": jnp.arange(3.0), "y": (jnp.float32(2.0),)}


def test_without_an_axis_nothing_happens():
    for same in (collectives.varying, collectives.total, collectives.mean):
        assert same(TREE, None) is TREE
    found = collectives.weighted_mean(TREE, jnp.float32(4.0), None)
    jax.tree.map(lambda got, given: np.testing.assert_allclose(got, given / 4, rtol=1e-6), found, TREE)


def test_over_an_axis():
    sums, counts = jnp.array([[1.0, 2.0], [5.0, -3.0], [0.0, 0.0]]), jnp.array([1.0, 3.0, 0.0])

    def over(function, *values):
        return jax.vmap(lambda *v: function(*v, "data"), axis_name="data", out_axes=None)(*values)

    np.testing.assert_allclose(over(collectives.total, sums), [6.0, -1.0])
    np.testing.assert_allclose(over(collectives.mean, sums), [2.0, -1 / 3], rtol=1e-6)
    np.testing.assert_allclose(over(collectives.weighted_mean, sums, counts), [1.5, -0.25])


def test_a_mean_over_no_weight_is_zero_with_a_finite_gradient():
    def loss(x, count):
        return collectives.weighted_mean(x, count, None)

    value, gradient = jax.value_and_grad(loss)(jnp.float32(3.0), jnp.float32(0.0))
    assert value == 0
    assert gradient == 0
    assert loss(jnp.float32(3.0), jnp.int32(2)) == 1.5
