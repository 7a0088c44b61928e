"""Penalties and overlap measures against double loops and finite differences in float64 NumPy."""

import itertools
import os
import subprocess
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from rr_jax.lora.activations import Directions
from rr_jax.lora.adapter import scale_adapter, stack_adapters
from rr_jax.lora.orthogonality import (
    PENALTIES,
    activation_penalty,
    activations_by_layer,
    angles_by_layer,
    frobenius_by_layer,
    olora_by_layer,
    orthonormal_columns,
    overlap_by_layer,
    principal_cosines_by_layer,
    project_out,
    update_cosine_by_layer,
)

SHAPES = {"q": (9, 8), "v": (9, 4), "down": (11, 9)}
LAYERS = 2


def random_adapter(seed, rank, targets=tuple(SHAPES)):
    rng = np.random.default_rng(seed)
    adapter = {
        name: {
            "a": np.float32(rng.normal(size=(LAYERS, SHAPES[name][0], rank))),
            "b": np.float32(rng.normal(size=(LAYERS, rank, SHAPES[name][1]))),
        }
        for name in targets
    }
    return jax.device_put(adapter)


FORGET = random_adapter(1, 3, ("q", "v"))
RETAIN = random_adapter(2, 4, ("down", "v", "q"))

JITTED = {name: jax.jit(penalty) for name, penalty in PENALTIES.items()}
GRADED = {name: jax.jit(jax.value_and_grad(penalty, argnums=(0, 1))) for name, penalty in PENALTIES.items()}


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


def frobenius_reference(forget, retain):
    return sum(
        np.sum((retain[name]["a"][layer].T @ forget[name]["a"][layer]) ** 2)
        for name in set(forget) & set(retain)
        for layer in range(LAYERS)
    )


def update_reference(forget, retain):
    cosines = []
    for name in set(forget) & set(retain):
        for layer in range(LAYERS):
            left, right = (adapter[name]["a"][layer] @ adapter[name]["b"][layer] for adapter in (forget, retain))
            size = np.linalg.norm(left) * np.linalg.norm(right)
            cosines.append(np.sum(left * right) / size if size else 0.0)
    return np.mean(np.square(cosines))


@cache  # finite differences move one entry of one of the spaces at a time
def projector(values, columns):
    space = np.frombuffer(values).reshape(-1, columns)
    return space @ np.linalg.pinv(space)


def angles_reference(forget, retain, factor):
    """By orthogonal projectors P onto the spaces: tr(P_retain P_forget) is the sum of cos^2."""
    means = []
    for name in set(forget) & set(retain):
        for layer in range(LAYERS):
            one, other = (adapter[name][factor][layer] for adapter in (forget, retain))
            one, other = (one, other) if factor == "a" else (one.T, other.T)
            total = np.trace(projector(other.tobytes(), other.shape[1]) @ projector(one.tobytes(), one.shape[1]))
            means.append(total / min(one.shape[1], other.shape[1]))
    return np.mean(means)


REFERENCES = {
    "olora": olora_reference,
    "normalized": normalized_reference,
    "frobenius": frobenius_reference,
    "update": update_reference,
    "input_angles": partial(angles_reference, factor="a"),
    "output_angles": partial(angles_reference, factor="b"),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_penalties_are_the_double_loop(name):
    expected = REFERENCES[name](wide(FORGET), wide(RETAIN))
    np.testing.assert_allclose(JITTED[name](FORGET, RETAIN), expected, rtol=1e-5)


@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_are_finite_differences(name):
    _, gradients = GRADED[name](FORGET, RETAIN)
    reference, step = REFERENCES[name], 1e-6
    for side, module, factor in itertools.product((0, 1), FORGET, ("a", "b")):
        found = gradients[side][module][factor]
        expected = np.zeros(found.shape)
        for at in np.ndindex(expected.shape):
            values = []
            for sign in (1, -1):
                moved = (wide(FORGET), wide(RETAIN))
                moved[side][module][factor] = moved[side][module][factor].copy()
                moved[side][module][factor][at] += sign * step
                values.append(reference(*moved))
            expected[at] = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_the_normalized_penalty_does_not_depend_on_size_depth_or_rank():
    normalized, olora = JITTED["normalized"], JITTED["olora"]
    forget = {n: {"a": np.float32(1e-3) * np.asarray(m["a"]), "b": m["b"]} for n, m in FORGET.items()}
    np.testing.assert_allclose(normalized(forget, RETAIN), normalized(FORGET, RETAIN), rtol=1e-5)
    deeper, wider = (
        jax.tree.map(lambda leaf, axis=axis: np.concatenate([leaf, leaf], axis=axis), FORGET) for axis in (0, 2)
    )
    twice = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), RETAIN)
    np.testing.assert_allclose(normalized(deeper, twice), normalized(FORGET, RETAIN), rtol=1e-5)
    np.testing.assert_allclose(normalized(wider, RETAIN), normalized(FORGET, RETAIN), rtol=1e-5)
    np.testing.assert_allclose(olora(deeper, twice), 2 * float(olora(FORGET, RETAIN)), rtol=1e-5)


def test_orthogonal_and_equal_directions():
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(LAYERS, 9, 9)))[0]
    one, other = (
        {"q": {"a": np.float32(basis[:, :, part]), "b": FORGET["q"]["b"]}} for part in (slice(3), slice(3, 6))
    )
    every = jax.jit(lambda one, other: {name: penalty(one, other) for name, penalty in PENALTIES.items()})
    for name, found in every(one, other).items():
        if name != "output_angles":  # their B are the same
            np.testing.assert_allclose(found, 0.0, atol=1e-5)
    same = every(one, one)
    np.testing.assert_allclose(same["normalized"], 1 / 3, rtol=1e-5)  # 3 of 9 pairs are the same column
    np.testing.assert_allclose(same["olora"], 3 * LAYERS, rtol=1e-5)


@pytest.mark.parametrize("name", PENALTIES)
def test_zero_columns_are_safe(name):
    forget = jax.tree.map(np.array, FORGET)
    for module in forget.values():
        module["a"][:, :, 0] = 0.0
    value, gradient = GRADED[name](forget, RETAIN)
    np.testing.assert_allclose(value, REFERENCES[name](wide(forget), wide(RETAIN)), rtol=1e-5)
    assert all(np.all(np.isfinite(np.asarray(leaf))) for leaf in jax.tree.leaves(gradient))


def test_overlap_and_cosine_by_layer():
    both = jax.jit(lambda x, y: (overlap_by_layer(x, y), update_cosine_by_layer(x, y)))
    overlap, cosine = jax.device_get(both(FORGET, RETAIN))
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
    for same in jax.jit(update_cosine_by_layer)(FORGET, FORGET).values():
        np.testing.assert_allclose(same, np.ones(LAYERS), rtol=1e-5)


LAYER_MEASURES = {
    "olora": olora_by_layer,
    "normalized": overlap_by_layer,
    "frobenius": frobenius_by_layer,
    "input_angles": partial(angles_by_layer, factor="a"),
    "output_angles": partial(angles_by_layer, factor="b"),
}


@pytest.mark.parametrize("name", LAYER_MEASURES)
def test_a_layer_s_value_is_the_penalty_of_that_layer_alone(name):
    """The reference of a whole adapter, given one module whose layers all are the one looked at."""
    found = jax.device_get(jax.jit(LAYER_MEASURES[name])(FORGET, RETAIN))
    assert set(found) == {"q", "v"}
    for module, layer in itertools.product(found, range(LAYERS)):
        alone = [{module: {f: np.stack([m[f][layer]] * LAYERS) for f, _ in m.items()}}
                 for m in (wide(FORGET)[module], wide(RETAIN)[module])]  # fmt: skip
        expected = REFERENCES[name](*alone) / (LAYERS if name in ("olora", "frobenius") else 1)
        np.testing.assert_allclose(found[module][layer], expected, rtol=1e-5)


def test_the_cosine_of_a_zero_update_is_zero_with_a_gradient():
    @jax.jit
    @jax.value_and_grad
    def total(adapter):
        return sum(jnp.sum(cosines) for cosines in update_cosine_by_layer(adapter, RETAIN).values())

    cosine, gradient = total(jax.jit(scale_adapter)(FORGET, 0.0))
    assert cosine == 0
    assert all(np.all(np.isfinite(np.asarray(leaf))) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", ["input_angles", "output_angles"])
def test_angles_of_a_factor_of_lower_rank_are_finite_and_about_right(name):
    """Gram matrices that float32 cannot tell from singular ones, as of an adapter that has hardly been trained."""
    rng = np.random.default_rng(23)

    def low(seed):
        a = rng.normal(size=(LAYERS, 300, 5)) @ rng.normal(size=(LAYERS, 5, 64))
        return {"q": {"a": np.float32(a), "b": np.float32(np.swapaxes(a, 1, 2))}}

    forget, retain = low(1), low(2)
    value, grads = GRADED[name](forget, retain)
    assert all(np.all(np.isfinite(np.asarray(leaf))) for leaf in jax.tree.leaves(grads))
    assert 0.0 <= float(value) < 0.1  # 5 of 64 directions, of which few are shared


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_map_over_stacked_adapters(name):
    forgets = [random_adapter(5, 2), random_adapter(6, 2)]
    mapped = jax.jit(jax.vmap(PENALTIES[name], in_axes=(0, None)))(jax.jit(stack_adapters)(forgets), RETAIN)
    np.testing.assert_allclose(mapped, [JITTED[name](forget, RETAIN) for forget in forgets], rtol=1e-5)


def test_no_common_module_is_an_error():
    apart = random_adapter(7, 2, ("down",))
    for measure in (*PENALTIES.values(), overlap_by_layer, update_cosine_by_layer):
        with pytest.raises(ValueError, match=r"share no module: found q, v and down"):
            measure(FORGET, apart)


def test_angles_are_those_of_the_spaces():
    rng = np.random.default_rng(13)

    def orthonormal(adapter):
        return {
            name: {
                "a": np.float32(np.linalg.qr(rng.normal(size=m["a"].shape))[0]),
                "b": np.float32(np.linalg.qr(rng.normal(size=m["b"].shape).swapaxes(1, 2))[0].swapaxes(1, 2)),
            }
            for name, m in adapter.items()
        }

    forget, retain = orthonormal(FORGET), orthonormal(RETAIN)
    for factor, name in (("a", "input_angles"), ("b", "output_angles")):
        expected = angles_reference(wide(forget), wide(retain), factor)
        np.testing.assert_allclose(JITTED[name](forget, retain), expected, rtol=1e-5)


def test_angles_do_not_depend_on_the_basis_of_a_factor_and_cosines_of_columns_do():
    mixing = np.random.default_rng(5).normal(size=(3, 3))
    mixed = {
        name: {"a": np.float32(m["a"] @ mixing), "b": np.float32(np.linalg.inv(mixing) @ m["b"])}
        for name, m in wide(FORGET).items()
    }
    for name in ("input_angles", "update"):
        np.testing.assert_allclose(JITTED[name](mixed, RETAIN), JITTED[name](FORGET, RETAIN), rtol=1e-3)
    assert abs(float(JITTED["normalized"](mixed, RETAIN)) - float(JITTED["normalized"](FORGET, RETAIN))) > 1e-3


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_every_penalty_is_finite_with_a_finite_gradient_where_b_is_zero(name):
    fresh, other = (
        {key: {"a": m["a"], "b": np.zeros_like(m["b"])} for key, m in adapter.items()} for adapter in (FORGET, RETAIN)
    )
    value, grads = GRADED[name](fresh, other)
    assert np.isfinite(value) and all(np.all(np.isfinite(np.asarray(leaf))) for leaf in jax.tree.leaves(grads))


def test_principal_cosines_are_those_of_the_spaces():
    for factor in ("a", "b"):
        found = principal_cosines_by_layer(FORGET, RETAIN, factor)
        for name in ("q", "v"):
            for layer in range(LAYERS):
                spaces = [x[name][factor][layer] for x in (wide(FORGET), wide(RETAIN))]
                angles = scipy.linalg.subspace_angles(*(space if factor == "a" else space.T for space in spaces))
                np.testing.assert_allclose(found[name][layer], np.sort(np.cos(angles))[::-1], atol=1e-7)


def test_orthonormal_columns_span_what_was_given_and_drop_what_depends():
    rng = np.random.default_rng(17)
    near = rng.normal(size=(LAYERS, 11, 1))
    given = np.concatenate([near, near + 1e-3 * rng.normal(size=(LAYERS, 11, 3)), rng.normal(size=(LAYERS, 11, 2))], -1)
    given = np.concatenate([given, np.zeros((LAYERS, 11, 1)), given[:, :, :2] @ [[1.0], [-3.0]]], -1)
    found = np.asarray(orthonormal_columns(np.float32(given)), np.float64)
    assert not np.any(found[:, :, 6:])
    np.testing.assert_allclose(found.mT @ found, np.diag([1.0] * 6 + [0.0] * 2) * np.ones((LAYERS, 1, 1)), atol=1e-6)
    q = np.linalg.qr(np.float32(given[:, :, :6]).astype(np.float64)).Q
    np.testing.assert_allclose(found @ found.mT, q @ q.mT, atol=2e-3)  # columns 1e-3 apart in float32


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot hold a process to two cores")
def test_projections_of_many_modules_end_on_two_cores():
    """Batched decompositions, several in one program, waited for each other on a small thread pool."""
    script = """
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, jax.numpy as jnp
from rr_jax.lora.orthogonality import input_angles_penalty, project_out
adapter = {f"m{i}": {"a": jax.random.normal(jax.random.key(i), (4, 384, 48)), "b": jnp.ones((4, 48, 8))} for i in range(9)}
basis = {name: jax.random.normal(jax.random.key(9), (4, 384, 48)) for name in adapter}
other = {name: {"a": basis[name], "b": module["b"]} for name, module in adapter.items()}
step = jax.jit(lambda adapter: (project_out(adapter, [basis]), jax.grad(input_angles_penalty)(adapter, other)))
for _ in range(20):
    moved, gradient = jax.block_until_ready(step(adapter))
print(max(float(jnp.max(jnp.abs(basis[name].mT @ module["a"]))) for name, module in moved.items()))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) < 1e-3  # of columns as long as 20: what was to be projected out is out


def test_projection_leaves_nothing_of_the_directions_and_all_of_the_rest():
    basis = {"q": np.asarray(RETAIN["q"]["a"])}
    more = {"q": np.float32(np.random.default_rng(7).normal(size=(LAYERS, 9, 1)))}
    project = jax.jit(project_out)
    moved = jax.device_get(project(FORGET, [basis, more]))
    for layer in range(LAYERS):
        taken = np.concatenate([np.asarray(b["q"][layer], np.float64) for b in (basis, more)], axis=1)
        q = np.linalg.qr(taken)[0]
        a = wide(FORGET)["q"]["a"][layer]
        np.testing.assert_allclose(moved["q"]["a"][layer], a - q @ (q.T @ a), atol=1e-5)
        assert np.max(np.abs(taken.T @ moved["q"]["a"][layer])) < 1e-4
    np.testing.assert_array_equal(moved["v"]["a"], FORGET["v"]["a"])  # no basis has it
    np.testing.assert_array_equal(moved["q"]["b"], FORGET["q"]["b"])
    again = project(moved, [basis, more])
    np.testing.assert_allclose(again["q"]["a"], moved["q"]["a"], atol=1e-6)


def test_the_activation_penalty_is_the_energy_that_is_read_over_that_of_a_random_adapter():
    rng = np.random.default_rng(11)
    inputs = rng.normal(size=(LAYERS, 400, 9)) * np.linspace(3, 0.1, 9)  # x of one module
    moments = np.einsum("lni,lnj->lij", inputs, inputs) / 400
    values, vectors = np.linalg.eigh(moments)
    totals = np.trace(moments, axis1=1, axis2=2)
    known = Directions(*(np.float32(x) for x in (vectors[:, :, ::-1], values[:, ::-1], totals)))
    a = np.asarray(FORGET["q"]["a"], np.float64)
    read = np.mean(np.sum((inputs @ a) ** 2, axis=-1), axis=-1)
    expected = read / (np.sum(a**2, axis=(1, 2)) * totals / 9)
    by_layer, penalty = jax.jit(activations_by_layer), jax.jit(activation_penalty)
    np.testing.assert_allclose(by_layer({"q": FORGET["q"]}, {"q": known})["q"], expected, rtol=1e-4)
    np.testing.assert_allclose(penalty({"q": FORGET["q"]}, {"q": known}), np.mean(expected), rtol=1e-4)
    top = Directions(known.basis[:, :, :5], known.energy[:, :5], known.total)
    out = jax.jit(project_out)({"q": FORGET["q"]}, [{"q": top.basis}])
    assert float(penalty(out, {"q": top})) < 1e-6
    with pytest.raises(ValueError, match="activations are known of k"):
        activation_penalty({"q": FORGET["q"]}, {"k": known})
