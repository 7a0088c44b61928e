"""Penalties and overlap measures against double loops and finite differences in float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.lora.adapter import scale_adapter, stack_adapters
from rr_jax.lora.orthogonality import (
    PENALTIES,
    normalized_penalty,
    olora_penalty,
    overlap_by_layer,
    update_cosine_by_layer,
)

SHAPES = {"q": (9, 8), "v": (9, 4), "down": (11, 9)}
LAYERS = 2


def random_adapter(seed, rank, targets=tuple(SHAPES)):
    rng = np.random.default_rng(seed)
    return {
        name: {
            "a": jnp.float32(rng.normal(size=(LAYERS, SHAPES[name][0], rank))),
            "b": jnp.float32(rng.normal(size=(LAYERS, rank, SHAPES[name][1]))),
        }
        for name in targets
    }


FORGET = random_adapter(1, 3, ("q", "v"))
RETAIN = random_adapter(2, 4, ("down", "v", "q"))


def wide(adapter):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), adapter)


def olora_reference(forget, retain):
    total = 0.0
    for name in set(forget) & set(retain):
        for layer in range(LAYERS):
            a_forget, a_retain = forget[name]["a"][layer], retain[name]["a"][layer]
            for j, k in itertools.product(range(a_retain.shape[1]), range(a_forget.shape[1])):
                total += abs(a_retain[:, j] @ a_forget[:, k])
    return total


def normalized_reference(forget, retain):
    cosines = []
    for name in set(forget) & set(retain):
        for layer in range(LAYERS):
            a_forget, a_retain = forget[name]["a"][layer], retain[name]["a"][layer]
            for j, k in itertools.product(range(a_retain.shape[1]), range(a_forget.shape[1])):
                sizes = np.linalg.norm(a_retain[:, j]) * np.linalg.norm(a_forget[:, k])
                cosines.append(abs(a_retain[:, j] @ a_forget[:, k]) / sizes if sizes else 0.0)
    return np.mean(cosines)


REFERENCES = {"olora": olora_reference, "normalized": normalized_reference}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_are_the_double_loop(name):
    expected = REFERENCES[name](wide(FORGET), wide(RETAIN))
    np.testing.assert_allclose(jax.jit(PENALTIES[name])(FORGET, RETAIN), expected, rtol=1e-5)


@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_are_finite_differences(name):
    gradients = jax.grad(PENALTIES[name], argnums=(0, 1))(FORGET, RETAIN)
    reference, step = REFERENCES[name], 1e-6
    for side in (0, 1):
        for module in FORGET:
            expected = np.zeros(gradients[side][module]["a"].shape)
            for at in np.ndindex(expected.shape):
                values = []
                for sign in (1, -1):
                    moved = (wide(FORGET), wide(RETAIN))
                    moved[side][module]["a"][at] += sign * step
                    values.append(reference(*moved))
                expected[at] = (values[0] - values[1]) / (2 * step)
            np.testing.assert_allclose(gradients[side][module]["a"], expected, rtol=1e-5, atol=1e-5)
            assert not gradients[side][module]["b"].any()


def test_the_normalized_penalty_does_not_depend_on_size_depth_or_rank():
    forget = {n: {"a": 1e-3 * m["a"], "b": m["b"]} for n, m in FORGET.items()}
    np.testing.assert_allclose(normalized_penalty(forget, RETAIN), normalized_penalty(FORGET, RETAIN), rtol=1e-5)
    deeper, wider = (
        jax.tree.map(lambda leaf, axis=axis: jnp.concatenate([leaf, leaf], axis=axis), FORGET) for axis in (0, 2)
    )
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), RETAIN)
    np.testing.assert_allclose(normalized_penalty(deeper, twice), normalized_penalty(FORGET, RETAIN), rtol=1e-5)
    np.testing.assert_allclose(normalized_penalty(wider, RETAIN), normalized_penalty(FORGET, RETAIN), rtol=1e-5)
    np.testing.assert_allclose(olora_penalty(deeper, twice), 2 * olora_penalty(FORGET, RETAIN), rtol=1e-5)


def test_orthogonal_and_equal_directions():
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(LAYERS, 9, 9)))[0]
    one, other = (
        {"q": {"a": jnp.float32(basis[:, :, part]), "b": FORGET["q"]["b"]}} for part in (slice(3), slice(3, 6))
    )
    for penalty in PENALTIES.values():
        np.testing.assert_allclose(penalty(one, other), 0.0, atol=1e-5)
    np.testing.assert_allclose(normalized_penalty(one, one), 1 / 3, rtol=1e-5)  # 3 of 9 pairs are the same column
    np.testing.assert_allclose(olora_penalty(one, one), 3 * LAYERS, rtol=1e-5)


@pytest.mark.parametrize("name", PENALTIES)
def test_zero_columns_are_safe(name):
    forget = {n: {"a": m["a"].at[:, :, 0].set(0.0), "b": m["b"]} for n, m in FORGET.items()}
    value, gradient = jax.value_and_grad(PENALTIES[name])(forget, RETAIN)
    np.testing.assert_allclose(value, REFERENCES[name](wide(forget), wide(RETAIN)), rtol=1e-5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_overlap_and_cosine_by_layer():
    overlap, cosine = overlap_by_layer(FORGET, RETAIN), update_cosine_by_layer(FORGET, RETAIN)
    assert set(overlap) == set(cosine) == {"q", "v"}
    forget, retain = wide(FORGET), wide(RETAIN)
    for name in ("q", "v"):
        for layer in range(LAYERS):
            x, y = forget[name], retain[name]
            units = [m["a"][layer] / np.linalg.norm(m["a"][layer], axis=0) for m in (y, x)]
            np.testing.assert_allclose(overlap[name][layer], np.abs(units[0].T @ units[1]).mean(), rtol=1e-5)
            dense = [(m["a"][layer] @ m["b"][layer]).ravel() for m in (x, y)]
            expected = dense[0] @ dense[1] / (np.linalg.norm(dense[0]) * np.linalg.norm(dense[1]))
            np.testing.assert_allclose(cosine[name][layer], expected, rtol=1e-5, atol=1e-5)
    for same in update_cosine_by_layer(FORGET, FORGET).values():
        np.testing.assert_allclose(same, np.ones(LAYERS), rtol=1e-5)


def test_the_cosine_of_a_zero_update_is_zero_with_a_gradient():
    fresh = scale_adapter(FORGET, 0.0)
    cosine, gradient = jax.value_and_grad(
        lambda m: sum(jnp.sum(c) for c in update_cosine_by_layer(m, RETAIN).values())
    )(fresh)
    assert cosine == 0
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_map_over_stacked_adapters(name):
    forgets = [random_adapter(5, 2), random_adapter(6, 2)]
    mapped = jax.vmap(PENALTIES[name], in_axes=(0, None))(stack_adapters(forgets), RETAIN)
    np.testing.assert_allclose(mapped, [PENALTIES[name](forget, RETAIN) for forget in forgets], rtol=1e-5)


def test_no_common_module_is_an_error():
    apart = random_adapter(7, 2, ("down",))
    for measure in (*PENALTIES.values(), overlap_by_layer, update_cosine_by_layer):
        with pytest.raises(ValueError, match=r"share no module: found q, v and down"):
            measure(FORGET, apart)
