"""Adapter arithmetic against dense float64 NumPy, with unequal ranks, partial targets and out != in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.lora import algebra
from rr_jax.lora.adapter import scale_adapter, stack_adapters, unstack_adapter
from rr_jax.models.spec import linear_shapes
from tests import tiny

SHAPES = {"q": (10, 12), "v": (10, 6), "down": (14, 10)}  # grouped-query: v has fewer outputs than inputs
LAYERS = 3


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


def dense(adapter, name):
    """The update of one module in float64; zero where the adapter lacks it."""
    if name not in adapter:
        return np.zeros((LAYERS, *SHAPES[name]))
    return np.asarray(adapter[name]["a"], np.float64) @ np.asarray(adapter[name]["b"], np.float64)


def assert_updates(adapter, expected):
    """Compares updates at 1e-5 of their own size."""
    for name in SHAPES:
        scale = max(np.abs(expected[name]).max(), 1.0)
        np.testing.assert_allclose(dense(adapter, name) / scale, expected[name] / scale, atol=1e-5, err_msg=name)


LEFT = random_adapter(1, 3, ("q", "v"))
RIGHT = random_adapter(2, 5, ("v", "down"))

add, scaled, ext_sub = jax.jit(algebra.add), jax.jit(scale_adapter), jax.jit(algebra.ext_sub)
recompress = jax.jit(algebra.recompress, static_argnums=1)
pem_factor_rule, merge_error = jax.jit(algebra.pem_factor_rule), jax.jit(algebra.merge_error)


def test_a_sum_is_exact_over_unequal_ranks_and_targets():
    third = random_adapter(3, 2)
    total = add(LEFT, RIGHT, third)
    assert_updates(total, {n: dense(LEFT, n) + dense(RIGHT, n) + dense(third, n) for n in SHAPES})
    assert algebra.rank(total) == {"q": 5, "v": 10, "down": 7}


def test_difference_and_negation_and_scale():
    @jax.jit
    def results(left, right):
        mixed = algebra.add(scale_adapter(left, 0.4), scale_adapter(right, -1.7))
        return algebra.add(left, algebra.negate(right)), algebra.negate(left), mixed

    difference, negated, mixed = results(LEFT, RIGHT)
    assert_updates(difference, {n: dense(LEFT, n) - dense(RIGHT, n) for n in SHAPES})
    assert_updates(negated, {n: -dense(LEFT, n) for n in SHAPES})
    assert_updates(mixed, {n: 0.4 * dense(LEFT, n) - 1.7 * dense(RIGHT, n) for n in SHAPES})


def test_sums_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="no adapter"):
        algebra.add()
    with pytest.raises(ValueError, match=r"updates of 'q' have shapes \[\(3, 10, 12\), \(3, 14, 10\)\]"):
        algebra.add(LEFT, {"q": RIGHT["down"]})


def ext_sub_row(w1, w2, alpha):
    """One row by the paper's definition, in float64."""
    common = w1 / np.linalg.norm(w1) + w2 / np.linalg.norm(w2)
    common = common / np.linalg.norm(common)
    return w1 - alpha * (w2 - (w2 @ common) * common)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_ext_sub_is_the_papers_definition_row_by_row(alpha):
    expert, anti = random_adapter(4, 3), random_adapter(5, 2)
    expected = {}
    for name in SHAPES:
        w1, w2 = dense(expert, name).transpose(0, 2, 1), dense(anti, name).transpose(0, 2, 1)  # [L, out, in]
        rows = [[ext_sub_row(w1[i, j], w2[i, j], alpha) for j in range(w1.shape[1])] for i in range(LAYERS)]
        expected[name] = np.array(rows).transpose(0, 2, 1)
    assert_updates(ext_sub(expert, anti, np.float32(alpha)), expected)


def test_ext_sub_where_a_column_is_zero():
    expert, anti = (jax.tree.map(np.array, a) for a in (random_adapter(6, 3, ("q", "v")), random_adapter(7, 2)))
    expert["q"]["b"][:, :, 2] = 0.0
    anti["v"]["b"][:, :, 4] = 0.0
    # cancelled by concatenation: zero up to rounding, which must not be amplified
    a, b = expert["v"]["a"], expert["v"]["b"]
    expert["v"] = {"a": np.concatenate([a, a], axis=-1), "b": np.concatenate([b, -b], axis=-2)}
    subtracted = jax.jit(lambda x, y: algebra.delta_weight(algebra.ext_sub(x, y, 0.8)))
    found = jax.device_get(subtracted(expert, anti))
    np.testing.assert_allclose(found["q"][:, :, 2], -0.4 * dense(anti, "q")[:, :, 2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["v"], -0.4 * dense(anti, "v"), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["down"], -0.4 * dense(anti, "down"), rtol=1e-5, atol=1e-5)
    alone = jax.device_get(subtracted(LEFT, {"v": anti["v"]}))
    np.testing.assert_allclose(alone["q"], dense(LEFT, "q"), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(alone["v"][:, :, 4], dense(LEFT, "v")[:, :, 4], rtol=1e-5, atol=1e-5)


def test_recompression_to_the_true_rank_is_exact():
    wide = add(LEFT, scaled(LEFT, -0.5), scaled(LEFT, 2.0))  # rank 9 factors of a rank 3 update
    small, error = recompress(wide, 3)
    assert algebra.rank(small) == {"q": 3, "v": 3}
    assert_updates(small, {n: 2.5 * dense(LEFT, n) for n in SHAPES})
    assert all(np.all(np.asarray(e) < 1e-6) for e in error.values())


def test_recompression_keeps_all_when_the_rank_allows():
    wide = add(random_adapter(8, 5), random_adapter(9, 6))
    small, error = recompress(wide, 11)
    assert algebra.rank(small) == {"q": 10, "v": 6, "down": 10}
    assert_updates(small, {n: dense(wide, n) for n in SHAPES})
    assert all(not np.asarray(e).any() for e in error.values())


def test_recompression_is_the_truncated_svd_and_says_what_it_lost():
    wide = add(random_adapter(10, 4), random_adapter(11, 4))
    small, error = recompress(wide, 3)
    best = {}
    for name in SHAPES:
        u, s, vt = np.linalg.svd(dense(wide, name), full_matrices=False)
        best[name] = (u[..., :3] * s[..., None, :3]) @ vt[..., :3, :]
        expected = np.sqrt((s[..., 3:] ** 2).sum(-1) / (s**2).sum(-1))
        np.testing.assert_allclose(error[name], expected, rtol=1e-5, atol=1e-5)
        assert np.all(expected > 0.1)
    assert_updates(small, best)


def test_recompressing_nothing_gives_nothing():
    small, error = recompress(scaled(LEFT, 0.0), 2)
    assert_updates(small, {n: np.zeros((LEFT["q"]["a"].shape[0], *SHAPES[n])) for n in SHAPES})
    assert all(not np.asarray(e).any() for e in error.values())
    with pytest.raises(ValueError, match="rank must be at least 1, found 0"):
        algebra.recompress(LEFT, 0)


def test_norms_and_inner_products_without_a_dense_matrix():
    norms, products = jax.jit(lambda x, y: (algebra.frobenius_norm(x), algebra.inner_product(x, y)))(LEFT, RIGHT)
    for name in LEFT:
        np.testing.assert_allclose(norms[name], np.linalg.norm(dense(LEFT, name), axis=(1, 2)), rtol=1e-5)
    assert set(products) == {"v"}
    expected = np.sum(dense(LEFT, "v") * dense(RIGHT, "v"), axis=(1, 2))
    np.testing.assert_allclose(products["v"], expected, rtol=1e-5, atol=1e-4)


def test_the_norm_of_a_fresh_adapter_has_a_gradient():
    fresh = scaled(LEFT, 0.0)
    gradient = jax.jit(jax.grad(lambda m: sum(jnp.sum(n) for n in algebra.frobenius_norm(m).values())))(fresh)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_arithmetic_maps_over_stacked_adapters():
    left, right = [random_adapter(20, 2), random_adapter(21, 2)], [random_adapter(22, 3), random_adapter(23, 3)]

    def chain(x, y):
        return algebra.recompress(algebra.ext_sub(x, algebra.add(x, y), 0.5), 4)[0]

    stack, unstack, single = jax.jit(stack_adapters), jax.jit(unstack_adapter), jax.jit(chain)
    alone = [single(x, y) for x, y in zip(left, right, strict=True)]
    for mapped in (jax.vmap(chain), chain):
        stacked = jax.jit(mapped)(stack(left), stack(right))
        for found, expected in zip(unstack(stacked), alone, strict=True):
            assert_updates(found, {n: dense(expected, n) for n in SHAPES})


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_the_factor_rule_of_pem_has_the_cross_terms_of_its_expansion(strength):
    original, other = random_adapter(30, 3), random_adapter(31, 3)
    expected = {}
    for name in SHAPES:
        a_o, b_o = (np.asarray(original[name][side], np.float64) for side in "ab")
        a_t, b_t = (np.asarray(other[name][side], np.float64) for side in "ab")
        cross = strength * (1 + strength) * (a_o @ b_t - a_t @ b_o)
        expected[name] = (1 + strength) ** 2 * (a_o @ b_o) + cross - strength**2 * (a_t @ b_t)
    found = pem_factor_rule(original, other, np.float32(strength))
    assert_updates(found, expected)
    assert algebra.rank(found) == algebra.rank(original)


def test_the_factor_rule_needs_equal_factors():
    for other in (random_adapter(31, 2), random_adapter(31, 3, ("q", "v"))):
        with pytest.raises(ValueError, match="the factor rule needs equal modules and ranks, found") as caught:
            algebra.pem_factor_rule(random_adapter(30, 3), other, 0.5)
        assert "\n" not in str(caught.value)


def model_adapter(seed, ranks):
    """Factors for the linear modules of the tiny model, one rank a module: grouped-query attention and its MLP."""
    rng = np.random.default_rng(seed)
    shapes, layers = linear_shapes(tiny.CONFIG), tiny.CONFIG.num_layers
    adapter = {
        name: {
            "a": np.float32(rng.normal(size=(layers, shapes[name][0], rank))),
            "b": np.float32(rng.normal(size=(layers, rank, shapes[name][1]))),
        }
        for name, rank in ranks.items()
    }
    return jax.device_put(adapter)


def dense64(adapter, name):
    return np.asarray(adapter[name]["a"], np.float64) @ np.asarray(adapter[name]["b"], np.float64)


def ext_sub_dense(w1, w2, alpha):
    """The paper's definition for all output units at once, [L, in, out] in float64."""
    n1, n2 = (np.linalg.norm(w, axis=1, keepdims=True) for w in (w1, w2))
    common = w1 / n1 + w2 / n2
    common = common / np.linalg.norm(common, axis=1, keepdims=True)
    return w1 - alpha * (w2 - np.sum(w2 * common, axis=1, keepdims=True) * common)


cancelled = jax.jit(lambda x, y: algebra.add(x, y, algebra.negate(y)))
OPERATIONS = {
    "add": (algebra.add, lambda x, y: x + y),
    "difference": (lambda x, y: algebra.add(x, algebra.negate(y)), lambda x, y: x - y),
    "negate": (lambda x, y: algebra.negate(x), lambda x, y: -x),
    "ext_sub": (lambda x, y: algebra.ext_sub(x, y, 0.7), lambda x, y: ext_sub_dense(x, y, 0.7)),
    "recompress": (lambda x, y: algebra.recompress(algebra.add(x, y), 9)[0], lambda x, y: x + y),
    "compact": (lambda x, y: algebra.compact(cancelled(x, y))[0], lambda x, y: x),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_exact_where_each_module_has_its_own_shape_and_rank(operation):
    assert linear_shapes(tiny.CONFIG)["q"] != linear_shapes(tiny.CONFIG)["k"]  # fewer key heads than query heads
    left = model_adapter(40, {"q": 1, "k": 2, "v": 3, "o": 4, "gate": 2, "up": 3, "down": 1})
    right = model_adapter(41, {"q": 3, "k": 1, "v": 2, "o": 1, "gate": 4, "up": 1, "down": 5})
    ours, oracle = OPERATIONS[operation]
    found = (ours if operation == "compact" else jax.jit(ours))(left, right)  # compact reads its values
    assert set(found) == set(linear_shapes(tiny.CONFIG))
    for name in found:
        expected = oracle(dense64(left, name), dense64(right, name))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(dense64(found, name) / scale, expected / scale, atol=1e-5, err_msg=name)


def test_the_merge_error_is_what_bfloat16_weights_lose_of_an_update():
    rng, shapes, layers = np.random.default_rng(43), linear_shapes(tiny.CONFIG), tiny.CONFIG.num_layers
    whole = {"layers": {name: np.float32(0.08 * rng.normal(size=(layers, *shape))) for name, shape in shapes.items()}}
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), whole)
    sizes = {"q": 1e-3, "v": 1.0, "down": 1e-2}
    adapter = model_adapter(42, {"q": 2, "v": 3, "down": 1})
    adapter = {name: {"a": m["a"], "b": np.float32(sizes[name]) * np.asarray(m["b"])} for name, m in adapter.items()}
    found = jax.device_get(merge_error(params, adapter))
    for name in sizes:
        w, update = np.asarray(params["layers"][name], np.float64), dense64(adapter, name)
        rounded = np.float64((w + update).astype(jnp.bfloat16))
        lost = np.linalg.norm(rounded - w - update, axis=(1, 2)) / np.linalg.norm(update, axis=(1, 2))
        np.testing.assert_allclose(found[name], lost, rtol=1e-3)
    assert np.all(found["q"] > 0.1) and np.all(found["v"] < 0.01)
    assert all(not np.asarray(e).any() for e in merge_error(params, scaled(adapter, 0.0)).values())
    assert all(np.all(np.asarray(e) < 1e-3) for e in merge_error(whole, scaled(adapter, 10.0)).values())
