"""Folders of encoders: every spelling of weight names, Detoxify's labels, and one clear error for what is wrong."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")

from rr_jax.models.encoders import encoder as core
from rr_jax.models.encoders.families import config_from_hf
from rr_jax.models.encoders.hub import load_encoder
from tests import tiny_encoders
from tests.tiny_encoders import JIGSAW, LABELS, PAD, UNBIASED, VARIANTS

TOKENS = jnp.asarray([[1, 20, 77, 5, 130, 2]], jnp.int32)
classify = jax.jit(core.classify)
encode = jax.jit(core.encode)
PREFIXES = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta.", "distilbert": "distilbert."}


@pytest.fixture
def folder(tmp_path) -> Path:
    return tiny_encoders.save(tiny_encoders.build("bert"), tmp_path / "bert")


def edit_config(folder, **changes):
    """Changes fields of config.json; None removes one."""
    path = folder / "config.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(change(tensors), path)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def torch_logits(model):
    with torch.no_grad():
        return model(torch.tensor(np.asarray(TOKENS)).long()).logits.numpy()


# --- names of weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PREFIXES))
def test_names_with_and_without_prefixes(name, tmp_path):
    folder = tiny_encoders.save(tiny_encoders.build(name), tmp_path / "hf")
    expected, prefix = load_encoder(folder).params, PREFIXES[name]
    assert sum(key.startswith(prefix) for key in load_file(folder / "model.safetensors")) > 40
    original = load_file(folder / "model.safetensors")
    for spelling in ("{plain}", "model.{name}", "module.model.{name}"):
        renamed = {spelling.format(name=key, plain=key.removeprefix(prefix)): value for key, value in original.items()}
        save_file(renamed, folder / "model.safetensors")
        assert_same(load_encoder(folder).params, expected)


def test_norms_of_the_first_release(folder):
    expected = load_encoder(folder).params

    def old(tensors):
        ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        return {
            next((key.replace(new, old) for new, old in ends.items() if key.endswith(new)), key): value
            for key, value in tensors.items()
        }

    edit_weights(folder, old)
    assert any("gamma" in key for key in load_file(folder / "model.safetensors"))
    assert_same(load_encoder(folder).params, expected)


def test_weights_without_use_are_passed_over(tmp_path):
    folder = tiny_encoders.save(tiny_encoders.build("roberta"), tmp_path / "roberta")
    expected = load_encoder(folder).params
    unused = {
        "roberta.embeddings.position_ids": np.arange(47)[None],
        "roberta.pooler.dense.weight": np.ones((15, 15), np.float32),
        "roberta.pooler.dense.bias": np.ones(15, np.float32),
    }
    edit_weights(folder, lambda tensors: tensors | unused)
    assert_same(load_encoder(folder).params, expected)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("bert", "Model"), ("bert", "ForPreTraining"), ("roberta", "ForMaskedLM"), ("distilbert", "ForMaskedLM")],
)
def test_encoders_without_a_head(name, kind, tmp_path):
    model = tiny_encoders.build(name, kind)
    encoder = load_encoder(tiny_encoders.save(model, tmp_path / "encoder"))
    assert encoder.config.labels == ()
    assert encoder.tokenizer is None
    with torch.no_grad():
        states = model.base_model(torch.tensor(np.asarray(TOKENS)).long()).last_hidden_state.numpy()
    np.testing.assert_allclose(encode(encoder.params, TOKENS, encoder.config), states, atol=1e-4)


def test_shards_and_half_precision(tmp_path):
    """bfloat16 widens exactly, so the float32 model equals the rounded one run in float32."""
    import transformers

    tiny_encoders.build("bert").to(torch.bfloat16).save_pretrained(tmp_path / "half", max_shard_size="5KB")
    assert (tmp_path / "half" / "model.safetensors.index.json").is_file()
    encoder = load_encoder(tmp_path / "half")
    assert {leaf.dtype for leaf in jax.tree.leaves(encoder.params)} == {jnp.dtype("float32")}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "half", dtype=torch.float32)
    np.testing.assert_allclose(classify(encoder.params, TOKENS, encoder.config), torch_logits(model), atol=1e-4)


def test_every_array_has_named_axes_and_lies_where_they_say(folder):
    """As for decoders: a rule of shardings sees the shape and axes of each array."""
    seen = {}

    def whole(spec):
        seen[spec.axes] = spec.shape
        return jax.sharding.SingleDeviceSharding(jax.devices()[0])

    encoder = load_encoder(folder, shardings=whole)
    assert_same(encoder.params, load_encoder(folder).params)
    assert seen == {
        ("vocab", "embed"): (300, 15),
        ("positions", "embed"): (47, 15),
        ("types", "embed"): (3, 15),
        ("layers", "embed", "heads"): (3, 15, 15),
        ("layers", "heads", "embed"): (3, 15, 15),
        ("layers", "embed", "ffn"): (3, 15, 23),
        ("layers", "ffn", "embed"): (3, 23, 15),
        **{("layers", axis): (3, size) for axis, size in {"embed": 15, "heads": 15, "ffn": 23}.items()},
        ("embed", "embed"): (15, 15),
        ("embed", "classes"): (15, 4),
        ("embed",): (15,),
        ("classes",): (4,),
    }
    specs = core.param_specs(encoder.config)
    shapes = jax.tree.map(lambda spec: spec.shape, specs, is_leaf=lambda leaf: not isinstance(leaf, dict))
    assert shapes == jax.tree.map(lambda array: array.shape, encoder.params)


def test_hub_id_is_downloaded(folder, monkeypatch):
    import huggingface_hub

    asked = {}

    def download(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_encoder("unitary/toxic-bert", revision="v1").config.labels == LABELS
    assert (asked["repo_id"], asked["revision"]) == ("unitary/toxic-bert", "v1")
    wanted = ["config.json", "model.safetensors", "vocab.txt", "modules.json", "1_Pooling/config.json"]
    chosen = huggingface_hub.utils.filter_repo_objects(
        [*wanted, "pytorch_model.bin"], allow_patterns=asked["allow_patterns"]
    )
    assert list(chosen) == wanted


# --- Detoxify --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "labels", "names"),
    [
        ("bert", JIGSAW, ("toxicity", "severe_toxicity", "obscene", "threat", "insult", "identity_attack")),
        ("roberta", UNBIASED, UNBIASED),
        ("xlm-roberta", UNBIASED[:7], UNBIASED[:7]),
    ],
)
def test_detoxify(name, labels, names, tmp_path):
    """Its labels have one name in all its models and are never exclusive, said or unsaid."""
    model = tiny_encoders.build(name, labels=labels)
    folder = tiny_encoders.save(model, tmp_path / name)
    encoder = load_encoder(folder)
    assert (encoder.config.labels, encoder.config.multi_label) == (names, True)
    np.testing.assert_allclose(classify(encoder.params, TOKENS, encoder.config), torch_logits(model), atol=1e-4)
    edit_config(folder, problem_type="multi_label_classification")
    assert load_encoder(folder).config == encoder.config


def test_pickled_checkpoint_is_refused_and_the_command_converts_it(tmp_path):
    """A checkpoint laid out as Detoxify publishes them; the pasted command makes a folder that loads."""
    model = tiny_encoders.build("bert", labels=JIGSAW)
    folder = tiny_encoders.save(model, tmp_path / "with space")
    (folder / "model.safetensors").unlink()
    pickle = folder / "toxic_original.ckpt"
    state = {**model.state_dict(), "bert.embeddings.position_ids": torch.arange(47)[None]}
    torch.save({"state_dict": state, "config": {"arch": {"args": {"num_classes": 6}}}}, pickle)
    torch.save([1], folder / "training_args.bin")
    with pytest.raises(ValueError, match="is a pickle, which is never opened; convert to safetensors") as in_folder:
        load_encoder(folder)
    with pytest.raises(ValueError, match="toxic_original.ckpt is a pickle") as alone:
        load_encoder(pickle)
    message = str(in_folder.value)
    assert message == str(alone.value)
    assert "\n" not in message
    command = shlex.split(message[message.index("python -c") :])
    assert command[3:] == [str(pickle), str(folder / "model.safetensors")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, *command[1:]], check=True, env=environment)
    encoder = load_encoder(folder)
    np.testing.assert_allclose(classify(encoder.params, TOKENS, encoder.config), torch_logits(model), atol=1e-4)


# --- config.json -----------------------------------------------------------------------------------------------------


def hf(name="bert", kind="ForSequenceClassification", **changes):
    """A config.json as the hub has them, without the fields that are the default."""
    classes, specific = VARIANTS[name]
    labels = {str(n): label for n, label in enumerate(LABELS)}
    return {
        "architectures": [f"{classes}{kind}"],
        "model_type": name,
        "id2label": labels,
        "label2id": {label: int(n) for n, label in labels.items()},
        **specific,
        **changes,
    }


def test_every_field_is_translated():
    config = config_from_hf(hf("roberta", problem_type="multi_label_classification"))
    assert (config.family, config.vocab_size, config.embed_dim, config.ffn_dim) == ("roberta", 300, 15, 23)
    assert (config.num_layers, config.num_heads, config.max_positions, config.type_vocab_size) == (3, 3, 47, 3)
    assert (config.norm_eps, config.activation, config.head_activation) == (3e-2, "relu", "tanh")
    assert (config.pad_token_id, config.padded_positions, config.max_tokens) == (PAD, True, 43)
    assert (config.labels, config.multi_label) == (LABELS, True)
    config = config_from_hf(hf("distilbert"))
    assert (config.embed_dim, config.ffn_dim, config.num_layers, config.num_heads) == (15, 23, 3, 3)
    assert (config.norm_eps, config.activation, config.head_activation) == (1e-12, "relu", "relu")
    assert (config.type_vocab_size, config.padded_positions, config.max_tokens) == (0, False, 47)
    assert config_from_hf(hf(pad_token_id=None)).pad_token_id == 0


def test_labels_come_in_the_order_of_their_numbers():
    many = {str(n): f"label{n}" for n in reversed(range(12))}  # as text "10" sorts before "2"
    config = config_from_hf(hf(id2label=many, label2id={name: int(n) for n, name in many.items()}))
    assert config.labels == tuple(f"label{n}" for n in range(12))
    assert config_from_hf({**hf(num_labels=3), "id2label": None, "label2id": None}).labels == (
        "LABEL_0",
        "LABEL_1",
        "LABEL_2",
    )
    assert config_from_hf(hf(kind="Model")).labels == ()


@pytest.mark.parametrize(
    ("labels", "problem", "multi_label"),
    [
        (LABELS, None, False),
        (LABELS, "single_label_classification", False),
        (LABELS, "multi_label_classification", True),
        (("only",), None, True),
        (("only",), "multi_label_classification", True),
        (JIGSAW, None, True),
        (JIGSAW, "single_label_classification", False),
        (("toxicity", "calm"), None, False),
    ],
)
def test_sigmoid_or_softmax(labels, problem, multi_label):
    named = {str(n): label for n, label in enumerate(labels)}
    assert config_from_hf(hf(id2label=named, label2id=None, problem_type=problem)).multi_label is multi_label


def test_stray_metadata_is_harmless():
    """Fields of configs on the hub that change no number."""
    stray = {
        "position_embedding_type": "absolute",
        "gradient_checkpointing": False,
        "attention_probs_dropout_prob": 0.3,
        "pooler_num_attention_heads": 12,
        "pooler_type": "first_token_transform",
        "directionality": "bidi",
        "pruned_heads": {},
        "output_past": True,
        "reduction_factor": 2,
        "use_cache": False,
        "classifier_dropout": 0.2,
        "finetuning_task": "toxicity",
    }
    assert config_from_hf(hf(**stray)) == config_from_hf(hf())
    # DistilBERT's class does not read an epsilon
    stray = {"sinusoidal_pos_embds": True, "tie_weights_": True, "layer_norm_eps": 0.5}
    assert config_from_hf(hf("distilbert", **stray)) == config_from_hf(hf("distilbert"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (hf(model_type="albert"), "model_type is 'albert', supported: bert, distilbert, roberta, xlm-roberta"),
        (hf(model_type=["bert"]), r"model_type is \['bert'\], supported: bert"),
        (hf(model_type=None), "model_type is None, supported: bert, distilbert"),
        (
            hf(kind="ForTokenClassification"),
            r"\['BertForTokenClassification'\], supported: BertForSequenceClassification, BertModel, BertForMaskedLM",
        ),
        (hf(architectures=None), "architectures is None, supported: BertForSequenceClassification"),
        (hf("roberta", architectures=["BertModel"]), r"\['BertModel'\], supported: RobertaForSequenceClass"),
        (hf(position_embedding_type="relative_key"), "position_embedding_type is 'relative_key', supported: only 'abs"),
        (hf(is_decoder=True), "is_decoder is True, supported: only False"),
        (hf(add_cross_attention=True), "add_cross_attention is True, supported: only False"),
        (hf(pruned_heads={"0": [1]}), "pruned_heads is .*, supported: only {}"),
        (hf(quantization_config={"bits": 4}), "quantization_config is .*, supported: unquantised weights only"),
        (hf(attention_window=[8]), r"attention_window is \[8\], supported: no such field in BertConfig"),
        (hf(hidden_act="mish"), "hidden_act is 'mish', supported: 'silu', 'swish', 'gelu', 'gelu_new'"),
        (hf("distilbert", activation="mish"), "activation is 'mish', supported: 'silu'"),
        (hf(problem_type="regression"), "problem_type is 'regression', supported: single_label_classification, multi"),
        (hf(id2label={"0": "a", "2": "b"}), "id2label is .*, supported: different labels numbered from 0"),
        (hf(id2label={"0": "a", "1": "a"}), "id2label is .*, supported: different labels numbered from 0"),
        (hf(id2label={"zero": "a"}), "config.json is not a valid BertConfig: .*zero"),
        (hf(hidden_size="wide"), "config.json is not a valid BertConfig: .*hidden_size"),
        (hf(num_hidden_layers=0), "num_hidden_layers is 0, supported: a positive integer"),
        (hf("distilbert", n_layers=0), "n_layers is 0, supported: a positive integer"),
        (hf(num_attention_heads=4), "multiple of num_heads, found 15 and 4"),
        (hf("roberta", pad_token_id=None), "pad_token_id is None, supported: 0 to 299"),
        (hf(pad_token_id=300), "pad_token_id is 300, supported: 0 to 299"),
    ],
)
def test_what_is_not_implemented_is_refused(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        config_from_hf(fields)
    assert "\n" not in str(caught.value)


# --- bad folders -----------------------------------------------------------------------------------------------------


def test_missing_head(folder):
    edit_weights(folder, lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("classifier.")})
    with pytest.raises(
        ValueError,
        match=r"lacks 2 of 57 weights of a bert classifier of this config: classifier\.weight \[4, 15\], classifier\.bias",
    ):
        load_encoder(folder)


def test_many_missing_tensors_are_counted(folder):
    edit_weights(folder, lambda tensors: {k: v for k, v in tensors.items() if "layer.1." not in k})
    names = ", ".join(
        rf"encoder\.layer\.1\.attention\.self\.{end}"
        for end in (r"query\.weight \[15, 15\]", r"query\.bias \[15\]", r"key\.weight \[15, 15\]", r"key\.bias \[15\]")
    )
    with pytest.raises(ValueError, match=rf"lacks 16 of 57 .*: {names}, \S+value\.weight \[15, 15\] and 11 more$"):
        load_encoder(folder)


def test_head_that_the_config_does_not_have(folder):
    edit_config(folder, architectures=["BertModel"])
    with pytest.raises(
        ValueError,
        match=r"holds 2 of \d+ weights: classifier\.bias, classifier.weight, which a bert encoder without a head of this",
    ):
        load_encoder(folder)


def test_many_extra_tensors_are_counted(folder):
    edit_config(folder, num_hidden_layers=2)
    with pytest.raises(
        ValueError, match=r"holds 16 of 57 weights: bert\.encoder\.layer\.2\.\S+, .* and 11 more, which"
    ):
        load_encoder(folder)


def test_same_weight_twice(folder):
    edit_weights(folder, lambda tensors: tensors | {"model.classifier.bias": np.ones(4, np.float32)})
    with pytest.raises(ValueError, match=r"holds model\.classifier\.bias, the same weight as classifier\.bias"):
        load_encoder(folder)


def test_wrong_shape_names_both(folder):
    edit_config(folder, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(ValueError, match=r"classifier\.\w+ has shape \[4.*\], the config expects \[2.*\]"):
        load_encoder(folder)


def test_truncated_and_quantised_files(folder):
    path = folder / "model.safetensors"
    edit_weights(folder, lambda tensors: tensors | {"classifier.bias": np.ones(4, np.int8)})
    with pytest.raises(ValueError, match=r"classifier\.bias is I8, expected unquantised floating point"):
        load_encoder(folder)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or corrupt"):
        load_encoder(folder)


def test_folder_without_weights_or_config(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors and no model\.safetensors\.index\.json$"):
        load_encoder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load_encoder(folder)


def test_tokenizer_with_too_many_ids(tmp_path):
    model = tiny_encoders.build("bert", vocab_size=50)
    folder = tiny_encoders.save(model, tmp_path / "small", tiny_encoders.wordpiece())
    with pytest.raises(ValueError, match=r"the tokenizer in .* has \d+ ids, but vocab_size is 50"):
        load_encoder(folder)


# --- folders of sentence-transformers --------------------------------------------------------------------------------


def sentence_folder(path, pooling, last="sentence_transformers.models.Normalize"):
    folder = tiny_encoders.save(tiny_encoders.build("bert", "Model"), path)
    kinds = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling", last]
    places = ["", "1_Pooling", "2_Last"]
    modules = [
        {"idx": n, "path": place, "type": kind} for n, (place, kind) in enumerate(zip(places, kinds, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_mean_pooling_is_what_the_folder_says(tmp_path):
    old = {"word_embedding_dimension": 15, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    assert load_encoder(sentence_folder(tmp_path / "old", old)).config.labels == ()
    assert load_encoder(sentence_folder(tmp_path / "new", {"pooling_mode": "mean"})).config.labels == ()


@pytest.mark.parametrize(
    ("pooling", "last", "message"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "x.Normalize", "pooling_mode_cls_token"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "x.Normalize", "supported: the mean"),
        ({"pooling_mode": "cls"}, "x.Normalize", r"pooling is \['cls'\], supported: the mean of tokens"),
        ({"pooling_mode": "mean"}, "x.Dense", "a module is Dense, supported: Transformer, Pooling, Normalize"),
    ],
)
def test_other_embeddings_are_refused(pooling, last, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_encoder(sentence_folder(tmp_path / "other", pooling, last))


def test_malformed_modules(folder):
    (folder / "modules.json").write_text('{"type": 1}')
    with pytest.raises(ValueError, match=r"modules\.json is not a list of modules with type and path"):
        load_encoder(folder)
