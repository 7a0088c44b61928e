"""Model families from outside the package, registered and by entry point; and what is wrong with one."""

import dataclasses
import json
import sys
import types

import pytest

from rr_jax.generation.text import generate
from rr_jax.models import families, hub
from rr_jax.models.encoders import families as encoder_families
from rr_jax.models.families import FAMILIES, llama
from rr_jax.registry import PluginError
from tests import tiny

ALPACA = """
from rr_jax.models.families import common
from rr_jax.models.families.tensors import Tensor, linear

ARCHITECTURE, PREFIX = "AlpacaForCausalLM", "alpaca."
TENSORS = (
    Tensor("alpaca.words.weight", ("embed",)),
    Tensor("alpaca.norm.weight", ("final_norm",)),
    Tensor("out.weight", ("head",), flipped=True),
    Tensor("alpaca.blocks.{}.norm_1.weight", ("attn_norm",)),
    Tensor("alpaca.blocks.{}.norm_2.weight", ("mlp_norm",)),
    *linear("alpaca.blocks.{}.qkv", "q", "k", "v"),
    *linear("alpaca.blocks.{}.o", "o"),
    *linear("alpaca.blocks.{}.gate_up", "gate", "up"),
    *linear("alpaca.blocks.{}.down", "down"),
)


def config_from_hf(hf):
    return common.base_config(common.read_fields(hf, "LlamaConfig", set()), "alpaca")


def config_to_hf(config):
    return common.base_fields(config, ARCHITECTURE)
"""


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(FAMILIES, "_registered", {})


@pytest.fixture
def alpaca(tmp_path, monkeypatch):
    """A model of a stranger's family, in its own file format: a Llama whose tensors have other names."""
    (tmp_path / "stranger_alpaca.py").write_text(ALPACA)
    info = tmp_path / "stranger_alpaca-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-alpaca\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rr_jax.plugins]\nfamily.alpaca = stranger_alpaca\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = tiny.model()
    yield dataclasses.replace(made, config=dataclasses.replace(made.config, family="alpaca"))
    sys.modules.pop("stranger_alpaca", None)


def test_a_family_from_outside_is_written_and_read(alpaca, tmp_path):
    hub.save(dataclasses.replace(alpaca, tokenizer=None), tmp_path / "alpaca")
    fields = json.loads((tmp_path / "alpaca" / "config.json").read_text())
    assert (fields["architectures"], fields["model_type"]) == (["AlpacaForCausalLM"], "alpaca")
    again = dataclasses.replace(hub.load(tmp_path / "alpaca"), tokenizer=alpaca.tokenizer)
    assert again.config == alpaca.config
    prompts = ["ab", "cde"]
    texts = generate(again, prompts, max_new_tokens=8)
    assert texts == generate(tiny.model(), prompts, max_new_tokens=8) and any(texts)
    del fields["architectures"]
    assert families.config_from_hf(fields).family == "alpaca"


def test_a_family_may_be_any_object_and_is_found_by_its_architecture():
    other = types.SimpleNamespace(**{name: getattr(llama, name) for name in families.MEMBERS})
    other.ARCHITECTURE = "VicunaForCausalLM"
    FAMILIES.register("vicuna", other)
    fields = llama.config_to_hf(tiny.CONFIG) | {"architectures": ["VicunaForCausalLM"]}
    assert families.config_from_hf(fields).family == "llama"  # as it says: this one is a Llama by another name
    with pytest.raises(ValueError, match=r"is Other, supported: .*, Qwen3ForCausalLM, VicunaForCausalLM$"):
        families.config_from_hf(fields | {"architectures": ["Other"]})


def test_other_families_are_not_imported_for_one_that_is_named(monkeypatch):
    asked = []
    get = FAMILIES.get
    monkeypatch.setattr(FAMILIES, "get", lambda name: asked.append(name) or get(name))
    fields = llama.config_to_hf(tiny.CONFIG)
    asked.clear()
    families.config_from_hf(fields)
    assert asked == ["llama"]


def test_a_model_s_files_name_no_code(tmp_path, monkeypatch):
    (tmp_path / "hostile.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    fields = llama.config_to_hf(tiny.CONFIG) | {"model_type": "hostile:family"}
    for architectures in (None, ["hostile:family"]):
        with pytest.raises(ValueError, match="architecture is .*hostile:family.*, supported: GPT2LMHeadModel"):
            families.config_from_hf(fields | {"architectures": architectures})
    with pytest.raises(PluginError, match="there is no family 'hostile:family'; expected one of gemma2, .*qwen3$"):
        FAMILIES.get("hostile:family")
    with pytest.raises(ValueError, match="model_type is 'hostile:family', supported: bert, distilbert"):
        encoder_families.config_from_hf({"model_type": "hostile:family"})


def test_what_is_wrong_with_a_family_is_one_line(alpaca, tmp_path):
    with pytest.raises(PluginError, match="^family 'half' lacks TENSORS, config_to_hf, which every family has$"):
        FAMILIES.register("half", types.SimpleNamespace(ARCHITECTURE="H", PREFIX="h.", config_from_hf=len))
    with pytest.raises(PluginError, match="family 'llama' cannot be registered: that name is taken"):
        FAMILIES.register("llama", llama)
    (tmp_path / "stranger_alpaca.py").write_text("1 / 0\n")
    with pytest.raises(PluginError, match="family 'alpaca' cannot be imported from 'stranger_alpaca' .ZeroDivisionErr"):
        families.config_from_hf(llama.config_to_hf(tiny.CONFIG) | {"architectures": ["AlpacaForCausalLM"]})


def test_an_encoder_family_from_outside_is_read(monkeypatch):
    monkeypatch.setattr(encoder_families.FAMILIES, "_registered", {})
    bert = encoder_families.FAMILIES.get("bert")
    fields = {
        "architectures": ["BertModel"], "model_type": "my_bert", "vocab_size": 30, "hidden_size": 6,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 5, "max_position_embeddings": 9,
    }  # fmt: skip
    with pytest.raises(ValueError, match="model_type is 'my_bert', supported: bert, distilbert"):
        encoder_families.config_from_hf(fields)
    encoder_families.FAMILIES.register("my_bert", bert)
    config = encoder_families.config_from_hf(fields)
    assert (config.family, config.embed_dim) == ("my_bert", 6)
    headless = dataclasses.replace(config, family="bert")
    assert encoder_families.model_tensors(config) == encoder_families.model_tensors(headless) != []
    assert encoder_families.plain_names(config)("model.bert.encoder.x") == "encoder.x"
    with pytest.raises(PluginError, match="encoder_family 'x' lacks classes, prefix, tensors"):
        encoder_families.FAMILIES.register("x", object())
