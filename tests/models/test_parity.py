"""Every family gives the numbers of transformers: logits, generated tokens, and the way back through `save`."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import VARIANTS

from rr_jax.lora import adapter as lora
from rr_jax.models import hub
from rr_jax.models.loss import token_nll
from rr_jax.models.transformer import decode_step, forward, prefill

torch = pytest.importorskip("torch")

LENGTHS = (11, 5, 8)
WIDTH = 11
NAMES = sorted(VARIANTS)


def rows():
    """Three token sequences of different lengths, avoiding the special ids."""
    random = np.random.default_rng(3)
    return [random.integers(8, 61, length) for length in LENGTHS]


def left_padded(sequences, width=WIDTH):
    tokens, mask = np.zeros((len(sequences), width), np.int32), np.zeros((len(sequences), width), bool)
    for row, sequence in enumerate(sequences):
        tokens[row, width - len(sequence) :] = sequence
        mask[row, width - len(sequence) :] = True
    return tokens, mask


def torch_logits(model, sequence):
    with torch.no_grad():
        return model(torch.tensor(np.asarray(sequence))[None]).logits[0].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_logits(name, hf_models):
    model, folder = hf_models(name)
    lm = hub.load(folder)
    sequence = rows()[0]
    ours = forward(lm.params, jnp.asarray(sequence)[None], lm.config)
    assert ours.dtype == jnp.float32
    expected = torch_logits(model, sequence)
    assert np.abs(expected).max() > 1.0
    np.testing.assert_allclose(ours[0], expected, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_left_padded_batch(name, hf_models):
    model, folder = hf_models(name)
    lm = hub.load(folder)
    tokens, mask = left_padded(rows())
    ours = np.asarray(forward(lm.params, jnp.asarray(tokens), lm.config, mask=jnp.asarray(mask)))
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        batch = model(
            torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
            position_ids=torch.tensor(positions),
        ).logits.numpy()
    for row, sequence in enumerate(rows()):
        np.testing.assert_allclose(ours[row, -len(sequence) :], torch_logits(model, sequence), atol=1e-4)
    np.testing.assert_allclose(ours[mask], batch[mask], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_packed_rows_equal_separate_ones(name, hf_models):
    model, folder = hf_models(name)
    lm = hub.load(folder)
    tokens = np.concatenate([*rows(), np.zeros(3, int)])
    segments = np.repeat([1, 2, 3, 0], [*LENGTHS, 3])
    ours = np.asarray(forward(lm.params, jnp.asarray(tokens)[None], lm.config, segment_ids=jnp.asarray(segments)[None]))
    for segment, sequence in enumerate(rows(), start=1):
        np.testing.assert_allclose(ours[0, segments == segment], torch_logits(model, sequence), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens(name, hf_models, monkeypatch):
    """Prefill and a decode loop on a left-padded batch, against generate() of transformers."""
    model, folder = hf_models(name)
    lm = hub.load(folder)
    new = 12
    tokens, mask = left_padded(rows())
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)  # never stop: compare as many as possible
    with torch.no_grad():
        expected = model.generate(
            torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            max_new_tokens=new,
            pad_token_id=0,
        ).numpy()[:, WIDTH:]
    step = jax.jit(functools.partial(decode_step, config=lm.config))
    logits, cache = prefill(lm.params, jnp.asarray(tokens), jnp.asarray(mask), lm.config, cache_size=WIDTH + new + 3)
    chosen = []
    for _ in range(new):
        chosen.append(jnp.argmax(logits, axis=-1))
        logits, cache = step(lm.params, chosen[-1], cache)
    np.testing.assert_array_equal(np.stack(chosen, axis=1), expected)


@pytest.mark.parametrize("name", ["mistral", "llama-llama3", "qwen3"])
def test_decode_logits_equal_forward(name, hf_models):
    """Each cached step gives the logits of reading the whole text at once."""
    _, folder = hf_models(name)
    lm = hub.load(folder)
    tokens, mask = map(jnp.asarray, left_padded(rows()))
    whole = forward(lm.params, tokens, lm.config, mask=mask)
    cut = WIDTH - min(LENGTHS) + 1  # the shortest row brings one token to the prefill
    step = jax.jit(functools.partial(decode_step, config=lm.config))
    logits, cache = prefill(lm.params, tokens[:, :cut], mask[:, :cut], lm.config, cache_size=WIDTH + 2)
    for column in range(cut, WIDTH):
        np.testing.assert_allclose(logits, whole[:, column - 1], atol=1e-4)
        logits, cache = step(lm.params, tokens[:, column], cache)
    np.testing.assert_allclose(logits, whole[:, -1], atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_loss_and_its_gradient(name, hf_models):
    model, folder = hf_models(name)
    lm = hub.load(folder)
    sequence = rows()[0]
    batch = {
        "tokens": jnp.asarray(sequence, jnp.int32)[None],
        "segment_ids": jnp.ones((1, WIDTH), jnp.int32),
        "weights": jnp.ones((1, WIDTH), jnp.float32),
    }

    def mean(params):
        total, weight = token_nll(params, batch, lm.config)
        return total / weight

    ours, gradient = jax.value_and_grad(mean)(lm.params)
    ids = torch.tensor(sequence)[None]
    model.zero_grad()
    expected = model(ids, labels=ids).loss
    expected.backward()
    np.testing.assert_allclose(ours, expected.item(), atol=1e-5)
    last = model.model.layers[-1]
    pairs = [
        (gradient["layers"]["q"][-1], last.self_attn.q_proj.weight.grad.T),
        (gradient["layers"]["down"][-1], last.mlp.down_proj.weight.grad.T),
        (gradient["layers"]["attn_norm"][-1], last.input_layernorm.weight.grad),
        (gradient["embed"], model.model.embed_tokens.weight.grad),
    ]
    for found, reference in pairs:
        np.testing.assert_allclose(found, reference.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_saved_folder_loads_in_transformers(name, hf_models, tmp_path):
    import transformers

    model, folder = hf_models(name)
    lm = hub.load(folder)
    hub.save(lm, tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(again) is type(model)
    for field in ("rope_parameters", "rms_norm_eps", "sliding_window", "tie_word_embeddings", "eos_token_id"):
        assert getattr(again.config, field, None) == getattr(model.config, field, None), field
    np.testing.assert_array_equal(torch_logits(again, rows()[0]), torch_logits(model, rows()[0]))
    assert hub.load(tmp_path / "saved").config == lm.config


@pytest.mark.parametrize("name", ["llama-llama3", "qwen2", "qwen3"])
def test_merged_adapter_in_transformers(name, hf_models, tmp_path):
    import transformers

    _, folder = hf_models(name)
    lm = hub.load(folder)
    adapter = lora.init_adapter(jax.random.key(0), lm.config, 3, ("q", "k", "v", "o", "gate", "up", "down"))
    keys = jax.random.split(jax.random.key(1), len(adapter))
    for key, module in zip(keys, adapter.values(), strict=True):
        module["b"] = 0.2 * jax.random.normal(key, module["b"].shape)
    tokens = jnp.asarray(rows()[0])[None]
    ours = np.asarray(forward(lm.params, tokens, lm.config, adapters=adapter)[0])
    assert np.abs(ours - np.asarray(forward(lm.params, tokens, lm.config)[0])).max() > 0.1
    hub.save(hub.LanguageModel(lm.config, lora.merge_adapter(lm.params, adapter)), tmp_path / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(torch_logits(merged, rows()[0]), ours, atol=1e-4)


def test_bfloat16_file_of_transformers(hf_models, tmp_path):
    """bfloat16 weights widen exactly, so the float32 model equals the rounded one run in float32."""
    import transformers

    model, _ = hf_models("llama")
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(tmp_path / "half", max_shard_size="5KB")
    assert (tmp_path / "half" / "model.safetensors.index.json").is_file()
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)
    lm = hub.load(tmp_path / "half")
    ours = forward(lm.params, jnp.asarray(rows()[0])[None], lm.config)
    np.testing.assert_allclose(ours[0], torch_logits(reference, rows()[0]), atol=1e-4)
    assert {leaf.dtype for leaf in jax.tree.leaves(hub.load(tmp_path / "half", "bfloat16").params)} == {
        jnp.dtype("bfloat16")
    }
