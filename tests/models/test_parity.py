"""Every family gives the numbers of transformers: logits, every layer, generated tokens, gradients, and the way back."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.models import families, hub
from rr_jax.models.loss import token_nll
from tests.models import parity
from tests.models.tiny_models import FIRST, VARIANTS

torch = pytest.importorskip("torch")

NAMES = [pytest.param(name, marks=[] if name in FIRST.values() else pytest.mark.slow) for name in VARIANTS]
# what every linear module has in common is looked at in one of each kind of decoder: fused, gated, tied, parallel
FOUR = [
    pytest.param(name, marks=[] if name in ("llama", "gpt2", "gemma2", "phi3") else pytest.mark.slow)
    for name in FIRST.values()
]


def test_every_family_has_two_variants():
    for family in families.FAMILIES.names():
        assert sum(name.split("-")[0] == family for name in VARIANTS) >= 2, family


@pytest.mark.parametrize("name", NAMES)
def test_logits_alone_padded_packed_and_every_layer(name, hf_models):
    model, folder = hf_models(name)
    lm = hub.load(folder)
    ours = parity.our_logits(lm, parity.rows()[0])
    assert ours.dtype == jnp.float32
    assert np.abs(ours).max() > 0.5
    assert parity.logits(model, lm) <= 1e-4
    assert parity.padded_logits(model, lm) <= 1e-4
    assert parity.packed_logits(model, lm) <= 1e-4
    assert parity.states_of_every_layer(model, lm) <= 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_and_cached_logits(name, hf_models):
    """Prefill and a decode loop on a left-padded batch, against generate() of transformers and our own forward."""
    model, folder = hf_models(name)
    other_tokens, difference = parity.decoding(model, hub.load(folder))
    assert other_tokens == 0
    assert difference <= 1e-4


@pytest.mark.parametrize("name", FIRST.values())
def test_bfloat16_stays_within_its_precision(name, hf_models, tmp_path):
    """As close to the float32 model as transformers in bfloat16 is, within a half; and within 3 % of the logits' size."""
    model, _ = hf_models(name)
    ours, theirs = parity.half_precision(model, tmp_path)
    assert 0 < ours <= 1.5 * theirs
    assert ours <= 0.03


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "gemma2"])
def test_loss_and_its_gradient(name, hf_models):
    model, folder = hf_models(name)
    lm = hub.load(folder)
    sequence = parity.rows()[0]
    batch = {
        "tokens": sequence[None].astype(np.int32),
        "segment_ids": np.ones((1, len(sequence)), np.int32),
        "weights": np.ones((1, len(sequence)), np.float32),
    }

    @jax.jit
    @jax.value_and_grad
    def mean(params):
        total, weight = token_nll(params, batch, lm.config)
        return total / weight

    ours, gradient = jax.device_get(mean(lm.params))
    ids = torch.tensor(sequence)[None]
    model.zero_grad()
    expected = model(ids, labels=ids).loss
    expected.backward()
    np.testing.assert_allclose(ours, expected.item(), atol=1e-5)
    reference = {name: weight.grad.numpy() for name, weight in model.named_parameters() if weight.grad is not None}
    compared = 0
    for tensor in families.model_tensors(lm.config):
        for layer in range(lm.config.num_layers if tensor.layered else 1):
            tree = gradient["layers"] if tensor.layered else gradient
            parts = [tree[part][layer] if tensor.layered else tree[part] for part in tensor.parts]
            found = tensor.join(parts, lm.config.head_dim)
            np.testing.assert_allclose(found, reference[tensor.name.format(layer)], atol=1e-4, err_msg=tensor.name)
            compared += 1
    assert compared == len(reference)


@pytest.mark.parametrize("name", NAMES)
def test_saved_folder_loads_in_transformers(name, hf_models, tmp_path):
    import transformers

    model, folder = hf_models(name)
    lm = hub.load(folder)
    hub.save(lm, tmp_path / "saved", max_shard_bytes=9000)
    assert (tmp_path / "saved" / "model.safetensors.index.json").is_file()
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", attn_implementation="eager", output_loading_info=True
    )
    assert type(again) is type(model)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    for field in ("layer_types", "tie_word_embeddings", "eos_token_id"):
        assert getattr(again.config, field, None) == getattr(model.config, field, None), field
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for key in before:
        np.testing.assert_array_equal(after[key].numpy(), before[key].numpy(), err_msg=key)
    sequence = parity.rows()[0]
    # some activations have two spellings that differ in the last bit
    np.testing.assert_allclose(parity.torch_logits(again, sequence), parity.torch_logits(model, sequence), atol=1e-5)
    assert hub.load(tmp_path / "saved").config == lm.config


@pytest.mark.parametrize("name", FOUR)
def test_adapters_in_transformers_and_peft(name, hf_models, tmp_path):
    pytest.importorskip("peft")
    model, folder = hf_models(name)
    lm = hub.load(folder)
    plain, changed = (parity.our_logits(lm, parity.rows()[0], a) for a in (None, parity.random_adapter(lm)))
    assert parity.largest(plain, changed) > 0.1
    assert parity.merged_export(model, lm, tmp_path) <= 1e-4
    assert parity.adapter_export(model, lm, tmp_path) <= 1e-4
    assert parity.lora_gradient(model, lm, tmp_path) <= 1e-4


def test_bfloat16_file_of_transformers(hf_models, tmp_path):
    """bfloat16 weights widen exactly, so the float32 model equals the rounded one run in float32."""
    import transformers

    model, _ = hf_models("llama")
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(tmp_path / "half", max_shard_size="5KB")
    assert (tmp_path / "half" / "model.safetensors.index.json").is_file()
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)
    assert parity.logits(reference, hub.load(tmp_path / "half")) <= 1e-4
    assert {leaf.dtype for leaf in jax.tree.leaves(hub.load(tmp_path / "half", "bfloat16").params)} == {
        jnp.dtype("bfloat16")
    }
