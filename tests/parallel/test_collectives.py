"""Collectives: identities without an axis, sums with one."""

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.parallel import collectives

TREE = {"x": jnp.arange(3.0), "y": (jnp.float32(2.0),)}


def test_without_an_axis_nothing_happens():
    for same in (collectives.varying, collectives.total):
        assert same(TREE, None) is TREE


def test_over_an_axis():
    sums = jnp.array([[1.0, 2.0], [5.0, -3.0], [0.0, 0.0]])
    total = jax.vmap(lambda x: collectives.total(x, "data"), axis_name="data", out_axes=None)(sums)
    np.testing.assert_allclose(total, [6.0, -1.0])
