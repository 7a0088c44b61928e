"""PEFT folders in and out, with `peft` as the judge: equal logits both ways, whatever the module is fused with."""

import copy
import json
import warnings

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rr_jax.lora.adapter import merge_adapter
from rr_jax.lora.algebra import add, compact, delta_weight, rank, scale_adapter
from rr_jax.lora.peft import load_peft, save_peft
from rr_jax.models import hub

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
from tests.models import parity
from tests.models.tiny_models import build

TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj"],
    "gpt_neox": ["query_key_value", "dense_4h_to_h"],
    "phi3": ["qkv_proj", "gate_up_proj"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    found = {}

    def get(name):
        if name not in found:
            model = build(name)
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            found[name] = (model, hub.load(folder))
        return found[name]

    return get


def peft_model(model, **settings):
    """A copy with a random PEFT adapter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own use of transformers, and of fan_in_fan_out
        config = peft.LoraConfig(**{"r": 3, "lora_alpha": 7, **settings})
        wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for path, weight in wrapped.named_parameters():
            if "lora_" in path:
                weight.normal_(0.0, 0.3, generator=generator)
    return wrapped


def ours(lm, adapter):
    return parity.our_logits(lm, parity.rows()[0], adapter)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True, "layers_to_transform": [0, 2]}),
        ("llama", {"rank_pattern": {"layers.1.self_attn.q_proj": 5}, "alpha_pattern": {"v_proj": 2, "q_proj": 9}}),
        ("gpt2", {"fan_in_fan_out": True}),
        ("gpt2", {"fan_in_fan_out": True, "rank_pattern": {"mlp.c_proj": 2}}),
        ("gpt_neox", {}),
        ("phi3", {}),
    ],
)
def test_an_adapter_of_peft_gives_its_logits_here(made, tmp_path, name, settings):
    model, lm = made(name)
    theirs = peft_model(model, target_modules=TARGETS[name], **settings)
    theirs.save_pretrained(tmp_path / "adapter")
    adapter = load_peft(tmp_path / "adapter", lm.config)
    expected = parity.torch_logits(theirs, parity.rows()[0])
    assert parity.largest(ours(lm, None), expected) > 0.1
    np.testing.assert_allclose(ours(lm, adapter), expected, atol=1e-4)
    merged = hub.LanguageModel(lm.config, merge_adapter(lm.params, adapter))
    np.testing.assert_allclose(ours(merged, None), expected, atol=1e-4)


@pytest.mark.parametrize("name", list(TARGETS))
def test_out_and_in_again_is_exact_and_keeps_the_rank(made, tmp_path, name):
    """Also of fused modules, whose parts share their input factor when they come from PEFT."""
    model, lm = made(name)
    peft_model(model, target_modules=TARGETS[name]).save_pretrained(tmp_path / "one")
    adapter = load_peft(tmp_path / "one", lm.config)
    save_peft(tmp_path / "two", adapter, lm.config)
    again = load_peft(tmp_path / "two", lm.config)
    assert set(rank(again).values()) == {3}
    assert parity.delta_difference(again, adapter) == 0.0


def test_modules_of_unequal_rank_and_some_missing(made, tmp_path):
    """Parts of a fused module with factors of their own: the ranks add up, and PEFT computes the same."""
    model, lm = made("phi3")
    wide, narrow = parity.random_adapter(lm, rank=4), parity.random_adapter(lm, rank=2)
    adapter = {"q": wide["q"], "v": narrow["v"], "down": wide["down"], "o": narrow["o"]}
    save_peft(tmp_path / "adapter", adapter, lm.config)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    found = {settings["rank_pattern"].get(name, settings["r"]) for name in settings["target_modules"]}
    assert found == {6, 4, 2}
    np.testing.assert_allclose(
        ours(lm, adapter),
        parity.torch_logits(parity.with_peft(model, tmp_path / "adapter"), parity.rows()[0]),
        atol=1e-4,
    )


def test_rounds_become_one_small_adapter_without_loss(made, tmp_path):
    """Three rounds of forget and retain, rank 12 in all, of which only 4 are independent."""
    model, lm = made("llama")
    first, second = parity.random_adapter(lm, rank=2), parity.random_adapter(lm, rank=2, scale=0.1)

    @jax.jit
    def rounds(first, second):
        return add(*(scale_adapter(adapter, s) for s in (0.3, -0.7, 1.1) for adapter in (first, second)))

    deltas = rounds(first, second)
    assert set(rank(deltas).values()) == {12}
    small, error = compact(deltas)
    assert set(rank(small).values()) == {2}  # both share their input factors
    assert max(error.values()) < 2e-6
    dense, wanted = (jax.device_get(jax.jit(delta_weight)(adapter)) for adapter in (small, deltas))
    for name in wanted:
        difference = np.linalg.norm(np.asarray(dense[name] - wanted[name], np.float64), axis=(1, 2))
        stated = error[name] * np.linalg.norm(np.asarray(wanted[name], np.float64), axis=(1, 2))
        assert np.all(difference <= 3 * stated + 1e-6)  # float32 products add some
    save_peft(tmp_path / "adapter", small, lm.config)
    np.testing.assert_allclose(
        ours(lm, deltas),
        parity.torch_logits(parity.with_peft(model, tmp_path / "adapter"), parity.rows()[0]),
        atol=1e-4,
    )


def test_compact_keeps_full_ranks_and_zeros(made):
    _, lm = made("llama")
    adapter = parity.random_adapter(lm, rank=12)
    assert set(rank(compact(adapter)[0]).values()) == {12}
    nothing = scale_adapter({"q": adapter["q"]}, 0.0)
    small, error = compact(nothing)
    assert rank(small) == {"q": 1} and error == {"q": 0.0}


@pytest.fixture
def folder(made, tmp_path):
    _, lm = made("llama")
    save_peft(tmp_path / "adapter", {"q": parity.random_adapter(lm)["q"]}, lm.config)
    return tmp_path / "adapter"


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', supported: 'LORA'"),
        ({"bias": "all"}, "bias is 'all', supported: 'none'"),
        ({"use_dora": True}, "use_dora is True, supported: a plain LoRA without it"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\], supported"),
        ({"field_of_tomorrow": 2}, "field_of_tomorrow is 2, supported"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights is 'pissa_niter_4', which changes the base weights",
        ),
    ],
)
def test_what_is_no_plain_lora_is_refused(made, folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message):
        load_peft(folder, made("llama")[1].config)


def test_what_its_config_leaves_out_has_the_defaults_of_peft(made, folder):
    """Without lora_alpha PEFT takes 8, whatever the rank."""
    _, lm = made("llama")
    edit(folder, lora_alpha=peft.LoraConfig().lora_alpha)
    expected = load_peft(folder, lm.config)
    settings = json.loads((folder / "adapter_config.json").read_text())
    del settings["lora_alpha"]
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    np.testing.assert_array_equal(load_peft(folder, lm.config)["q"]["b"], expected["q"]["b"])
    np.testing.assert_allclose(expected["q"]["b"], parity.random_adapter(lm)["q"]["b"] * (8 / 3), rtol=1e-6)


@pytest.mark.parametrize("changes", [{"r": 5}, {"rank_pattern": {"q_proj": 5}}])
def test_a_rank_other_than_the_factors_have_is_refused(made, folder, changes):
    edit(folder, **changes)
    said = r"layers.0.self_attn.q_proj has factors of rank 3, adapter_config.json says 5"
    with pytest.raises(ValueError, match=said):
        load_peft(folder, made("llama")[1].config)


def test_an_adapter_of_another_model_is_refused(made, folder):
    with pytest.raises(
        ValueError, match=r"q_proj.lora_A.weight belongs to no linear module of a gpt2 model with 3 lay"
    ):
        load_peft(folder, made("gpt2")[1].config)
    tensors = load_file(folder / "adapter_model.safetensors")
    narrow = {key: value[:, :-1] if "lora_A" in key else value for key, value in tensors.items()}
    save_file(narrow, folder / "adapter_model.safetensors")
    with pytest.raises(
        ValueError, match=r"q_proj has factors .*'A': \[3, 23\].* expects A \[R, 24\].* another base model"
    ):
        load_peft(folder, made("llama")[1].config)


def test_half_an_adapter_a_pickle_and_nothing(made, folder):
    config = made("llama")[1].config
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({key: value for key, value in tensors.items() if "lora_B" not in key}, path)
    with pytest.raises(ValueError, match=r"q_proj has factors \{'A': \[3, 24\]\}"):
        load_peft(folder, config)
    save_file({"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((2, 2), np.float32)}, path)
    with pytest.raises(ValueError, match="lora_embedding_A belongs to no linear module"):
        load_peft(folder, config)
    path.write_bytes(b"\x00" * 9)
    with pytest.raises(ValueError, match="adapter_model.safetensors is truncated or corrupt"):
        load_peft(folder, config)
    path.rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="has no adapter_model.safetensors; pickled adapters are never opened"):
        load_peft(folder, config)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="has no adapter_config.json"):
        load_peft(folder, config)


def test_what_cannot_be_written_is_refused(made, folder):
    _, lm = made("llama")
    adapter = {"q": parity.random_adapter(lm)["q"]}
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        save_peft(folder, adapter, lm.config)
    with pytest.raises(ValueError, match="the adapter has a module 'gate', expected some of q, k, v, o, up, down"):
        save_peft(folder / "new", {"gate": adapter["q"]}, made("gpt2")[1].config)
    assert not (folder / "new").exists()
