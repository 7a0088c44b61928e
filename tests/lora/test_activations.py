"""What modules read, against torch hooks, dense float64 matrices and the model's own outputs."""

from functools import partial

import jax
import numpy as np
import pytest

import rr_jax
from rr_jax.data.packing import Packed
from rr_jax.lora.activations import dominant_directions, output_energy
from rr_jax.models import hub
from rr_jax.models.decoder import read_inputs
from rr_jax.models.spec import linear_shapes
from rr_jax.testbed import BASE
from tests import tiny
from tests.models.tiny_models import VARIANTS

HF_NAMES = {name: f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}


@jax.jit
def real_inputs(params, tokens, segment_ids, config):
    """{module: [L, B, S, in]}, zero where there is no token."""
    real = segment_ids > 0
    return read_inputs(params, tokens, config, lambda name, layer, x: x * real[..., None], segment_ids=segment_ids)


def second_moments(params, rows, config):
    """Sums of x x^T over real tokens, {module: [L, in, in]} float64, and the number of tokens."""
    inputs = jax.device_get(real_inputs(params, rows.tokens, rows.segment_ids, config))
    moments = {}
    for name in linear_shapes(config):
        flat = np.asarray(inputs[name], np.float64).reshape(config.num_layers, -1, inputs[name].shape[-1])
        moments[name] = np.einsum("lni,lnj->lij", flat, flat)
    return moments, float(np.sum(rows.segment_ids > 0))


def test_inputs_are_those_that_torch_sees(tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    name, fields = VARIANTS["llama"]
    config = getattr(transformers, f"{name}Config")(**fields)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    model.save_pretrained(tmp_path)
    lm = hub.load(tmp_path, dtype="float32")
    seen = {}
    for key, module in model.named_modules():
        short = key.rpartition(".")[2]
        if short in HF_NAMES.values():
            module.register_forward_hook(lambda m, i, o, s=short: seen.setdefault(s, []).append(i[0].numpy()))
    tokens = np.arange(3, 15)[None]
    with torch.no_grad():
        model(torch.tensor(tokens))
    ours = jax.jit(partial(read_inputs, read=lambda name, layer, x: x))(lm.params, tokens, lm.config)
    for short, theirs in HF_NAMES.items():
        np.testing.assert_allclose(ours[short], np.stack(seen[theirs]), atol=1e-4)


def test_small_modules_get_the_exact_eigenvectors():
    params, rows = tiny.params(), tiny.rows(3)
    found = jax.device_get(dominant_directions(params, rows, tiny.CONFIG, ("q", "down"), 5))
    moments, tokens = second_moments(params, rows, tiny.CONFIG)
    for name, known in found.items():
        for layer, matrix in enumerate(moments[name] / tokens):
            values, vectors = np.linalg.eigh(matrix)
            np.testing.assert_allclose(known.energy[layer], values[::-1][:5], rtol=1e-4, atol=1e-4 * values[-1])
            projector = vectors[:, ::-1][:, :5] @ vectors[:, ::-1][:, :5].T
            basis = np.asarray(known.basis[layer], np.float64)
            np.testing.assert_allclose(basis @ basis.T, projector, atol=1e-3)
            np.testing.assert_allclose(known.total[layer], np.trace(matrix), rtol=1e-5)


def test_a_sketch_of_a_wide_module_holds_nearly_all_that_the_best_directions_hold():
    lm = rr_jax.load(BASE, dtype="float32")
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, lm.config.vocab_size, (6, 32)).astype(np.int32)
    rows = tiny.rows(0, 6, 32)._replace(tokens=tokens)
    count = 8
    assert 2 * count + 16 < linear_shapes(lm.config)["q"][0]  # so it is a sketch
    found = jax.device_get(dominant_directions(lm.params, rows, lm.config, ("q", "down"), count))
    moments, tokens_read = second_moments(lm.params, rows, lm.config)
    for name, known in found.items():
        for layer, matrix in enumerate(moments[name] / tokens_read):
            basis = np.asarray(known.basis[layer], np.float64)
            np.testing.assert_allclose(basis.T @ basis, np.eye(count), atol=1e-5)
            best = np.sum(np.linalg.eigvalsh(matrix)[-count:])
            assert np.trace(basis.T @ matrix @ basis) > 0.95 * best
            assert np.sum(known.energy[layer]) < 1.001 * best


def test_the_energy_of_an_update_is_that_of_the_dense_matrix():
    params, rows = tiny.params(), tiny.rows(4, count=11)
    rng, shapes, layers = np.random.default_rng(1), linear_shapes(tiny.CONFIG), tiny.CONFIG.num_layers
    adapter = {
        name: {
            "a": np.float32(0.3 + rng.uniform(-0.2, 0.2, (layers, shapes[name][0], 3))),
            "b": np.full((layers, 3, shapes[name][1]), 0.3, np.float32),
        }
        for name in ("v", "down")
    }
    moments, tokens = second_moments(params, rows, tiny.CONFIG)
    for name, energy in output_energy(params, adapter, rows, tiny.CONFIG).items():
        for layer in range(tiny.CONFIG.num_layers):
            dense = np.asarray(adapter[name]["a"][layer], np.float64) @ np.asarray(
                adapter[name]["b"][layer], np.float64
            )
            expected = np.trace(dense.T @ moments[name][layer] @ dense) / tokens
            np.testing.assert_allclose(energy[layer], expected, rtol=1e-4)


def test_rows_without_tokens_have_no_directions():
    empty = Packed(*(np.zeros_like(array) for array in tiny.rows(1)))
    with pytest.raises(ValueError, match="the rows have no tokens, expected at least one"):
        dominant_directions(tiny.params(), empty, tiny.CONFIG, ("q",), 2)


def test_as_many_directions_as_inputs_leave_nothing():
    with pytest.raises(ValueError, match="16 directions of the inputs of 'q' are asked for, which has 16"):
        dominant_directions(tiny.params(), tiny.rows(1), tiny.CONFIG, ("q",), 16)
