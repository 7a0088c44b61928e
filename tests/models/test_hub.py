"""Files in and out: sharding, dtypes, downloads, and one clear error for whatever is wrong with a folder."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

from rr_jax.models import hub
from rr_jax.models.config import ModelConfig, RopeScaling
from rr_jax.models.decoder import forward
from rr_jax.models.spec import init_params, param_specs

ROOT = Path(__file__).parents[2]
CONFIG = ModelConfig(
    family="qwen3",
    vocab_size=37,
    embed_dim=12,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    ffn_dim=20,
    norm_eps=1e-3,
    rope_theta=500.0,
    rope_scaling=RopeScaling(kind="linear", factor=2.0),
    tied_embeddings=False,
    qk_norm="head",
    max_positions=64,
    eos_token_ids=(2, 3),
)


@pytest.fixture(scope="module")
def lm() -> hub.LanguageModel:
    return hub.LanguageModel(CONFIG, init_params(jax.random.key(0), CONFIG))


@pytest.fixture
def folder(lm, tmp_path) -> Path:
    hub.save(lm, tmp_path / "model")
    return tmp_path / "model"


def make_tokenizer(words):
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"w{index}": index for index in range(words)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0")


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def edit(path, **changes):
    """Changes fields of a JSON file; None removes one."""
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: field for key, field in value.items() if field is not None}))


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# --- round trips -----------------------------------------------------------------------------------------------------


def test_round_trip_is_exact(lm, folder):
    again = hub.load(folder)
    assert again.config == CONFIG
    assert again.tokenizer is None
    assert_same(again.params, lm.params)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]


def test_weights_in_the_file_are_output_first(lm, folder):
    tensors = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(tensors["model.layers.1.mlp.up_proj.weight"], lm.params["layers"]["up"][1].T)
    np.testing.assert_array_equal(tensors["lm_head.weight"], lm.params["head"].T)
    np.testing.assert_array_equal(tensors["model.embed_tokens.weight"], lm.params["embed"])


def test_sharded_equals_single(lm, folder, tmp_path):
    hub.save(lm, tmp_path / "sharded", max_shard_bytes=2000)
    files = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(files) > 3
    assert not (tmp_path / "sharded" / "model.safetensors").exists()
    assert all(path.stat().st_size < 2000 + 2000 for path in files)  # beyond the tensors there is a header
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in files}
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(lm.params))
    assert_same(hub.load(tmp_path / "sharded").params, hub.load(folder).params)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(lm, dtype, tmp_path):
    hub.save(lm, tmp_path / "half", dtype=dtype)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == dtype
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype), lm.params)
    assert_same(hub.load(tmp_path / "half", dtype=dtype).params, rounded)
    widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded)
    assert_same(hub.load(tmp_path / "half").params, widened)
    hub.save(hub.LanguageModel(CONFIG, rounded), tmp_path / "again")
    assert_same(hub.load(tmp_path / "again", dtype=dtype).params, rounded)


@pytest.fixture
def tied(tmp_path) -> Path:
    config = dataclasses.replace(CONFIG, tied_embeddings=True)
    hub.save(hub.LanguageModel(config, init_params(jax.random.key(1), config)), tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    return tmp_path / "tied"


def test_a_copy_of_tied_embeddings_in_the_file_is_passed_over(tied):
    before = hub.load(tied)
    edit_weights(tied, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]}))
    assert_same(hub.load(tied).params, before.params)

    def halve(tensors):
        tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.float16)

    edit_weights(tied, halve)
    assert_same(hub.load(tied).params, before.params)


def test_a_head_that_is_not_the_embeddings_is_used_whatever_the_config_says(tied, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    head = np.random.default_rng(0).normal(size=(37, 12)).astype(np.float32)
    edit_weights(tied, lambda tensors: tensors.update({"lm_head.weight": head}))
    lm = hub.load(tied)
    assert not lm.config.tied_embeddings
    np.testing.assert_array_equal(lm.params["head"], head.T)
    tokens = [[3, 5, 7, 11]]
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tied)(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(forward(lm.params, jnp.asarray(tokens), lm.config), theirs, atol=1e-5)
    hub.save(lm, tmp_path / "again")  # and says so from then on
    assert_same(hub.load(tmp_path / "again").params, lm.params)


def test_of_a_tensor_in_two_shards_the_index_names_the_right_one(lm, tmp_path):
    folder = tmp_path / "sharded"
    hub.save(lm, folder, max_shard_bytes=5000)
    listed = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        for shard in folder.glob("model-*.safetensors"):
            if shard.name != listed[name]:
                tensors = load_file(shard)
                save_file(tensors | {name: np.zeros((37, 12), np.float32)}, shard, metadata={"format": "pt"})
    assert_same(hub.load(folder).params, lm.params)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(folder, bad):
    def change(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][0, 3:5] = bad

    edit_weights(folder, change)
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight holds 2 of 240 numbers that are NaN or inf"):
        hub.load(folder)


def test_weights_beyond_the_range_of_a_dtype_are_named(folder):
    def change(tensors):
        tensors["model.norm.weight"][2] = -1e6

    edit_weights(folder, change)
    with pytest.raises(ValueError, match=r"model.norm.weight holds numbers up to 1e\+06, which float16 cannot hold"):
        hub.load(folder, dtype="float16")
    assert np.min(hub.load(folder, dtype="bfloat16").params["final_norm"].astype(jnp.float32)) == -999424.0


def test_old_rotary_buffers_are_ignored(lm, folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(folder, lambda tensors: tensors.update({name: np.ones(4, np.float32)}))
    assert_same(hub.load(folder).params, lm.params)


def test_tokenizer_travels_along(lm, tmp_path):
    tokenizer = make_tokenizer(37)
    hub.save(dataclasses.replace(lm, tokenizer=tokenizer), tmp_path / "model")
    again = hub.load(tmp_path / "model").tokenizer
    assert again("w3 w36 w1").input_ids == tokenizer("w3 w36 w1").input_ids == [3, 36, 1]


def test_chat_is_on_where_there_is_a_template(lm, tmp_path):
    tokenizer = make_tokenizer(37)
    hub.save(dataclasses.replace(lm, tokenizer=tokenizer), tmp_path / "plain")
    tokenizer.chat_template = "{% for m in messages %}w5 {{ m['content'] }}{% endfor %}"
    hub.save(dataclasses.replace(lm, tokenizer=tokenizer), tmp_path / "chat")
    found = {
        (name, chat): hub.load(tmp_path / name, chat=chat).chat for name in ("plain", "chat") for chat in (None, False)
    }
    assert found == {("plain", None): False, ("plain", False): False, ("chat", None): True, ("chat", False): False}
    with pytest.raises(ValueError, match="chat is on, but the tokenizer of .*plain has no chat template"):
        hub.load(tmp_path / "plain", chat=True)


def test_end_of_text_ids_of_the_generation_config_win(folder):
    edit(folder / "generation_config.json", eos_token_id=[5, 6], bos_token_id=4)
    config = hub.load(folder).config
    assert (config.bos_token_id, config.eos_token_ids) == (4, (5, 6))


def test_progress(folder):
    seen = []
    hub.load(folder, progress=lambda done, total: seen.append((done, total)))
    total = 3 + 11  # kinds of weights: those outside the layers, and those that each layer has
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_each_device_reads_its_block_alone(folder):
    """On four devices, in a process of its own: every array lies as asked and holds what an ordinary load gives."""
    code = """
import sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from rr_jax.models import hub, weights
mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), (AxisType.Auto,) * 2)
rules = {"embed": "fsdp", "ffn": "tensor", "heads": "tensor"}
def place(spec):
    return NamedSharding(mesh, P(*(rules.get(axis) for axis in spec.axes)))
whole = hub.load(sys.argv[1]).params
split = hub.load(sys.argv[1], shardings=place).params
assert jax.tree.structure(whole) == jax.tree.structure(split)
for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(split)):
    np.testing.assert_array_equal(a, b)
gate = split["layers"]["gate"]
assert gate.sharding.shard_shape(gate.shape) == (2, 6, 10), gate.sharding
assert len(gate.sharding.device_set) == 4
"""
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, folder], env=os.environ | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_loading_needs_little_more_than_the_model(tmp_path):
    """Host memory peaks at most 1.3 of the largest shard above the model: measured by the kernel, in a new process."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to read the peak of the resident memory")
    big = dataclasses.replace(
        CONFIG, vocab_size=30_000, embed_dim=512, num_layers=8, num_heads=8, num_kv_heads=8, head_dim=64, ffn_dim=2048
    )
    params = jax.tree.map(
        lambda spec: jnp.zeros(spec.shape, jnp.bfloat16),
        param_specs(big),
        is_leaf=lambda leaf: not isinstance(leaf, dict),
    )
    hub.save(hub.LanguageModel(big, params), tmp_path / "big", max_shard_bytes=60_000_000)
    largest = max(path.stat().st_size for path in (tmp_path / "big").glob("*.safetensors"))
    code = """
import sys
import jax, numpy as np
from rr_jax.models import hub
def memory(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024
hub.load(sys.argv[2])  # what libraries allocate once is not the model's
np.asarray(jax.numpy.zeros(3))
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew from here
before = memory("VmRSS")
lm = hub.load(sys.argv[1], "bfloat16")
print(memory("VmHWM") - before, sum(leaf.nbytes for leaf in jax.tree.leaves(lm.params)))
"""
    hub.save(hub.LanguageModel(CONFIG, init_params(jax.random.key(0), CONFIG)), tmp_path / "small")
    command = [sys.executable, "-c", code, tmp_path / "big", tmp_path / "small"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, model = map(int, done.stdout.split())
    assert model > 100_000_000
    assert peak <= model + 1.3 * largest, (peak, model, largest)


def test_works_without_torch(folder):
    """In a process where torch cannot be found, as in an installation without the test extra."""
    script = f"""
import importlib.machinery, sys

class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] == "torch" else super().find_spec(name, path, target)

sys.meta_path = [Without if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
from rr_jax.models import hub
print(hub.load({str(folder)!r}).config.family)
assert "torch" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "qwen3"), done.stderr


# --- saving ----------------------------------------------------------------------------------------------------------


def test_save_into_an_empty_folder_but_not_over_anything(lm, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    hub.save(lm, tmp_path / "empty")
    assert_same(hub.load(tmp_path / "empty").params, lm.params)
    with pytest.raises(ValueError, match=r"model exists and is not an empty folder"):
        hub.save(lm, folder)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match=r"file exists and is not an empty folder"):
        hub.save(lm, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_failed_save_leaves_nothing(lm, tmp_path, monkeypatch):
    import safetensors.numpy

    def full(tensors, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        hub.save(lm, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_save_refuses_parameters_of_another_config(lm, tmp_path):
    with pytest.raises(ValueError, match=r"layers\.down: shape is \(2, 20, 12\), the config expects \(2, 21, 12\)"):
        hub.save(hub.LanguageModel(dataclasses.replace(CONFIG, ffn_dim=21), lm.params), tmp_path / "model")
    with pytest.raises(ValueError, match=r"head: shape is \(12, 37\), the config expects None"):
        hub.save(hub.LanguageModel(dataclasses.replace(CONFIG, tied_embeddings=True), lm.params), tmp_path / "model")
    with pytest.raises(ValueError, match=r"there is no family 'gpt5'; did you mean 'gpt2'\?$"):
        hub.save(hub.LanguageModel(dataclasses.replace(CONFIG, family="gpt5"), lm.params), tmp_path / "model")
    with pytest.raises(ValueError, match=r"qk_norm is 'head', which LlamaForCausalLM cannot express: None"):
        hub.save(hub.LanguageModel(dataclasses.replace(CONFIG, family="llama"), lm.params), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_weights_are_readable_by_whoever_can_read_the_config(folder):
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


# --- the hub ---------------------------------------------------------------------------------------------------------


def test_hub_id_is_downloaded(lm, folder, monkeypatch):
    asked = {}

    def download(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert_same(hub.load("someone/tiny", revision="v1").params, lm.params)
    assert (asked["repo_id"], asked["revision"]) == ("someone/tiny", "v1")
    wanted = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json"]
    wanted += ["merges.txt", "tokenizer.model", "chat_template.jinja"]
    unwanted = ["pytorch_model.bin", "consolidated.safetensors", "modeling_x.py", "README.md", "onnx/model.onnx"]
    chosen = huggingface_hub.utils.filter_repo_objects(wanted + unwanted, allow_patterns=asked["allow_patterns"])
    assert list(chosen) == wanted


@pytest.mark.parametrize("source", ["./no/such/folder", "/no/such/folder", "no/such/folder", "../folder", "folder/"])
def test_what_can_only_be_a_folder_and_is_none(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("the hub was asked"))
    with pytest.raises(ValueError, match=rf"^there is no folder {source}, and it cannot be a hub id"):
        hub.load(source)


@pytest.mark.parametrize("source", ["no-such-owner/no-such-model", "no-such-model"])
def test_neither_folder_nor_hub(source, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=rf"^no folder named {source}, and the hub could not provide it: .+") as caught:
        hub.load(source)
    assert "\n" not in str(caught.value)


# --- bad folders -----------------------------------------------------------------------------------------------------


def test_bad_dtype(folder, lm):
    with pytest.raises(ValueError, match="dtype is 'int8', expected one of float32, bfloat16, float16"):
        hub.load(folder, dtype="int8")
    with pytest.raises(ValueError, match="dtype is 'int8', expected one of"):
        hub.save(lm, folder / "new", dtype="int8")


def test_file_instead_of_a_folder(folder):
    with pytest.raises(ValueError, match=r"model\.safetensors is a file; expected a folder"):
        hub.load(folder / "model.safetensors")


def test_config_missing_or_malformed(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        hub.load(folder)
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        hub.load(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json holds a JSON list, expected an object"):
        hub.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"model has no config\.json"):
        hub.load(folder)


def test_unsupported_architecture(folder):
    edit(folder / "config.json", architectures=["GPTJForCausalLM"])
    with pytest.raises(ValueError, match=r"GPTJForCausalLM, supported: GPT2LMHeadModel, .*Qwen3ForCausalLM"):
        hub.load(folder)


def test_wrong_shape_names_both(folder):
    edit(folder / "config.json", intermediate_size=21)
    with pytest.raises(
        ValueError, match=r"model\.safetensors: .*mlp\.\w+\.weight has shape \[.*20.*\], the config expects \[.*21.*\]"
    ):
        hub.load(folder)


def test_vocabulary_mismatch_names_both_shapes(folder):
    edit(folder / "config.json", vocab_size=40)
    with pytest.raises(ValueError, match=r"weight has shape \[37, 12\], the config expects \[40, 12\]"):
        hub.load(folder)


def test_missing_tensors(folder):
    edit_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    expected = (
        r"lacks 1 of 25 weights of a qwen3 model of this config: model\.layers\.1\.mlp\.up_proj\.weight \[20, 12\]$"
    )
    with pytest.raises(ValueError, match=expected):
        hub.load(folder)


def test_of_many_missing_or_extra_tensors_five_are_named(folder):
    edit_weights(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.1" in name])
    with pytest.raises(
        ValueError, match=r"lacks 11 of 25 weights of .*: (\S+ \[[\d, ]+\], ){4}\S+ \[[\d, ]+\] and 6 more$"
    ):
        hub.load(folder)
    edit(folder / "config.json", num_hidden_layers=1, layer_types=None)
    extra = {f"adapter.{i}": np.ones(2, np.float32) for i in range(7)}
    edit_weights(folder, lambda tensors: tensors.update(extra))
    with pytest.raises(
        ValueError, match=r"holds 7 of 21 weights: (adapter\.\d, ){4}adapter\.\d and 2 more, which a qwen3"
    ):
        hub.load(folder)


def test_files_of_the_bare_base_model_lack_its_prefix(lm, folder):
    def shorten(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    edit_weights(folder, shorten)
    assert_same(hub.load(folder).params, lm.params)


def test_same_weight_with_and_without_the_prefix(folder):
    edit_weights(folder, lambda tensors: tensors.update({"norm.weight": tensors["model.norm.weight"]}))
    with pytest.raises(ValueError, match=r"holds norm\.weight, the same weight as model\.norm\.weight: expected one"):
        hub.load(folder)


def test_untied_without_a_head(folder):
    edit_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(ValueError, match=r"lacks 1 of 25 weights of a qwen3 model .*: lm_head\.weight \[37, 12\]"):
        hub.load(folder)


def test_unexpected_tensor(folder):
    name = "model.layers.0.self_attn.q_proj.bias"
    edit_weights(folder, lambda tensors: tensors.update({name: np.ones(16, np.float32)}))
    with pytest.raises(
        ValueError, match=rf"holds 1 of 26 weights: {re.escape(name)}, which a qwen3 model of this config has not"
    ):
        hub.load(folder)


@pytest.mark.parametrize(("dtype", "said"), [(np.int8, "I8"), (ml_dtypes.float8_e4m3fn, "F8_E4M3")])
def test_quantised_tensor(folder, dtype, said):
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(folder, lambda tensors: tensors.update({name: np.ones((20, 12), dtype)}))
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is {said}, expected unquantised floating point"):
        hub.load(folder)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated_file(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or corrupt: .+"):
        hub.load(folder)


def test_corrupt_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 4000)
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or corrupt: .+"):
        hub.load(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_never_opened(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(
        ValueError, match=rf"has no model\.safetensors .*found {name}; .*convert to safetensors with python -c"
    ):
        hub.load(folder)


def test_no_weights_at_all(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors and no model\.safetensors\.index\.json$"):
        hub.load(folder)


@pytest.fixture
def sharded(lm, tmp_path) -> Path:
    hub.save(lm, tmp_path / "sharded", max_shard_bytes=5000)
    return tmp_path / "sharded"


def test_shard_missing(sharded):
    victim = min(sharded.glob("model-*.safetensors"))
    victim.unlink()
    with pytest.raises(ValueError, match=rf"index\.json lists {victim.name}, which is not a file in"):
        hub.load(sharded)


def test_shard_truncated(sharded):
    victim = max(sharded.glob("model-*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-4])
    with pytest.raises(ValueError, match=rf"{victim.name} is truncated or corrupt"):
        hub.load(sharded)


def test_index_outside_the_folder_or_malformed(sharded):
    shutil.copy(min(sharded.glob("model-*.safetensors")), sharded.parent / "outside.safetensors")
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    with pytest.raises(ValueError, match=r"lists \.\./outside\.safetensors, which is not a file in"):
        hub.load(sharded)
    index.write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json has no weight_map object"):
        hub.load(sharded)


def test_tokenizer_with_too_many_ids(lm, folder):
    make_tokenizer(40).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"the tokenizer in .* has 40 ids, but vocab_size is 37"):
        hub.load(folder)


def test_unreadable_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": ')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(ValueError, match=r"the tokenizer files in .* cannot be read: .+"):
        hub.load(folder)


def test_specs_cover_what_safetensors_holds(lm, folder):
    with safetensors.safe_open(str(folder / "model.safetensors"), framework="numpy") as file:
        elements = sum(int(np.prod(file.get_slice(name).get_shape())) for name in list(file.keys()))
    specs = jax.tree.leaves(param_specs(CONFIG))
    assert elements == sum(int(np.prod(spec.shape)) for spec in specs)
