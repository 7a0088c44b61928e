"""Interference measures against dense matrices and gradients of dense weights."""

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.dynamics.interference import by_layer, gradient_cosine, output_ratio
from rr_jax.lora.activations import output_energy
from rr_jax.models.loss import token_nll
from tests import tiny

TARGETS = ["q", "down"]


def trained(seed):
    return tiny.random_adapter(seed, 3, TARGETS, size=0.1)


def test_the_ratio_is_that_of_the_outputs():
    params, adapter, retain, forget = tiny.params(), trained(3), tiny.rows(1), tiny.rows(2)
    ratio = output_ratio(params, adapter, retain, forget, tiny.CONFIG)
    kept, gone = (output_energy(params, adapter, rows, tiny.CONFIG) for rows in (retain, forget))
    for name in TARGETS:
        np.testing.assert_allclose(ratio[name] ** 2, kept[name] / gone[name], rtol=1e-6)
        np.testing.assert_allclose(output_ratio(params, adapter, forget, forget, tiny.CONFIG)[name], 1.0)
    nothing = jax.tree.map(np.zeros_like, adapter)
    assert all(np.all(value == 0) for value in output_ratio(params, nothing, retain, forget, tiny.CONFIG).values())


def test_the_gradient_seen_through_a_is_that_of_the_dense_weights():
    params, adapter, retain, forget = tiny.params(), trained(5), tiny.rows(1), tiny.rows(2)
    found = gradient_cosine(params, adapter, retain, forget, tiny.CONFIG, scale=0.7)

    def dense(rows):
        def loss(weights):
            changed = {**params, "layers": {**params["layers"], **weights}}
            batch = {name: jnp.asarray(value) for name, value in rows._asdict().items()}
            return token_nll(changed, batch, tiny.CONFIG)[0]

        return jax.jit(jax.grad(loss))({name: params["layers"][name] for name in TARGETS})

    kept, gone = dense(retain), dense(forget)
    for name in TARGETS:
        for layer in range(tiny.CONFIG.num_layers):
            a = np.asarray(adapter[name]["a"][layer], np.float64)
            one, other = (a.T @ np.asarray(g[name][layer], np.float64) for g in (kept, gone))
            expected = np.sum(one * other) / np.linalg.norm(one) / np.linalg.norm(other)
            np.testing.assert_allclose(found[name][layer], expected, atol=1e-4)
    same = gradient_cosine(params, adapter, retain, retain, tiny.CONFIG, scale=0.7)
    np.testing.assert_allclose(same["q"], 1.0, atol=1e-6)
    assert by_layer(same)["q"] == [float(value) for value in same["q"]]
