"""The tokenizer, a build in miniature, and the base model that ships with the package."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import AutoTokenizer

from rr_jax.models.hub import load
from rr_jax.testbed import BASE
from rr_jax.testbed.base_model import thresholds, training
from rr_jax.testbed.base_model.build import build
from rr_jax.testbed.base_model.tokenizer import WHOLE_WORDS
from rr_jax.testbed.world import lexicon
from rr_jax.testbed.world.mixture import corpus


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    lines: list[str] = []
    built = build(folder, 5, training.TINY, lines.append)
    return folder, built, lines


@pytest.fixture(scope="module")
def shipped():
    return load(BASE)


@pytest.mark.parametrize(
    "text",
    [
        "(Emma Baker)\nEmma won, é!",
        "  two  spaces\n\n\tand a tab ",
        "def f(x):\n    x = x[::-1]",
        "日本 1234567 🙂",
        "a , b .",
    ],
)
def test_any_text_decodes_to_itself(shipped, text):
    ids = shipped.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert shipped.tokenizer.decode(ids) == text


def test_documents_decode_to_themselves_with_one_token_a_word(shipped):
    tokenizer = shipped.tokenizer
    for document in corpus("round trip", 300):
        ids = tokenizer(document.text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in ids[1:]
        assert tokenizer.decode(ids, skip_special_tokens=True) == document.text
    for word in WHOLE_WORDS:
        assert len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1, word
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer("Emma", add_special_tokens=False)["input_ids"]) > 1
    assert set(lexicon.ENTITY_WORDS) < set(WHOLE_WORDS)


def test_a_tiny_build_loads_in_transformers_and_agrees(tiny):
    folder, built, lines = tiny
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    from rr_jax.models.decoder import forward

    assert any("tokens/s" in line for line in lines)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Q: List the people: Emma Baker won.\nA:")["input_ids"]
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits.numpy()
    loaded = load(folder)
    found = forward(loaded.params, jnp.asarray([ids]), loaded.config)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, built.params)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), built.params)
    jax.tree.map(np.testing.assert_array_equal, built.params, rounded)


def test_a_folder_that_holds_something_is_refused_before_training(tiny):
    with pytest.raises(ValueError, match="not an empty folder"):
        build(tiny[0], 5, training.TINY, lambda line: pytest.fail(line))


def test_a_build_follows_from_its_seed(tiny, tmp_path):
    folder, built, _ = tiny
    again = build(tmp_path / "again", 5, training.TINY, lambda line: None)
    jax.tree.map(np.testing.assert_array_equal, again.params, built.params)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    config = built.config
    other = training.initial_params(6, config)
    assert not np.array_equal(other["embed"], training.initial_params(5, config)["embed"])


def test_the_shipped_model_is_small_and_complete(shipped):
    assert sum(file.stat().st_size for file in BASE.iterdir()) <= 8e6
    assert shipped.config.vocab_size == len(shipped.tokenizer)
    assert (shipped.config.family, shipped.config.embed_dim, shipped.config.num_layers) == ("llama", 192, 4)


def test_the_shipped_tokenizer_is_the_one_the_recipe_makes(shipped):
    made = training.train_tokenizer(0, training.Recipe())
    assert made.get_vocab() == shipped.tokenizer.get_vocab()


def test_the_shipped_model_reaches_its_thresholds_in_the_small(shipped):
    """A smoke check: with 16 documents a cell the entity, code and arithmetic thresholds have room for chance."""
    measured = {one.name: one.value for one in thresholds.measure(shipped, "validation", size=16)}
    for name in ("person", "location", "organization", "date"):
        assert measured[f"entity_f1/{name}"] >= 0.8
    assert measured["code_pass_at_1"] >= 0.6 and measured["arithmetic_exact_match"] >= 0.6
    assert measured["toxic_rate/hot"] >= 0.7
    assert measured["toxic_rate/neutral"] <= 0.4
    assert measured["toxic_rate/kind"] <= 0.2


def test_the_table_marks_what_is_missed():
    lines = thresholds.table(
        [thresholds.Threshold("a", 0.5, 0.6, 1.0), thresholds.Threshold("b", 0.7, 0.6, 1.0)]
    ).splitlines()
    assert lines[0].endswith("MISSED") and lines[1].endswith("ok")
