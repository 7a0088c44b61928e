"""Strings to probabilities and embeddings: one text at a time in transformers gives the same."""

import dataclasses

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rr_jax.evaluate import classifier
from rr_jax.evaluate.classifier import classify_texts, embed_texts
from rr_jax.models.encoders.hub import Encoder, load_encoder
from tests import tiny_encoders

TEXTS = [
    "The cat sat on a mat",
    "",
    "you are a very very bad old man",
    "dog",
    "now the dog ran home and the old man ran far so the cat sat on the hat of a very nice man and you",
    "zebra quilt? é [PAD] </s>",
    "a b c " * 40,
]
MODELS = {  # variant, its tokenizer, and how its labels share probability
    "bert": (tiny_encoders.wordpiece, "multi_label_classification"),
    "roberta": (tiny_encoders.byte_pairs, "single_label_classification"),
    "distilbert": (tiny_encoders.wordpiece, None),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    """name -> (torch classifier, tokenizer, the same loaded)."""
    made = {}
    for name, (tokenizer, problem) in MODELS.items():
        model, words = tiny_encoders.build(name, problem_type=problem), tokenizer()
        folder = tiny_encoders.save(model, tmp_path_factory.mktemp(name), words)
        made[name] = (model, words, load_encoder(folder))
    return made


@pytest.fixture(scope="module")
def bert(models) -> Encoder:
    return models["bert"][2]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory):
    model, words = tiny_encoders.build("bert", "Model"), tiny_encoders.wordpiece()
    return model, words, load_encoder(tiny_encoders.save(model, tmp_path_factory.mktemp("minilm"), words))


def alone(model, tokenizer, text, max_length):
    """Outputs of transformers for one text without padding."""
    ids = tokenizer([text], truncation=True, max_length=max_length, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(ids)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("max_length", [512, 9])
def test_probabilities_are_those_of_each_text_alone(name, max_length, models):
    model, tokenizer, encoder = models[name]
    found = classify_texts(encoder, TEXTS, max_length=max_length)
    assert list(found) == list(tiny_encoders.LABELS)
    assert all(column.shape == (len(TEXTS),) and column.dtype == np.float32 for column in found.values())
    columns = np.stack(list(found.values()), axis=1)
    reach = min(max_length, encoder.config.max_tokens)
    for row, text in enumerate(TEXTS):
        logits = alone(model, tokenizer, text, reach).logits[0]
        expected = logits.sigmoid() if name == "bert" else logits.softmax(-1)
        np.testing.assert_allclose(columns[row], expected.numpy(), atol=1e-4)
    assert columns.std(axis=0).max() > 0.05


def test_embeddings_are_those_of_each_text_alone(minilm):
    model, tokenizer, encoder = minilm
    found = embed_texts(encoder, TEXTS, normalize=False)
    assert (found.shape, found.dtype) == ((len(TEXTS), 15), np.float32)
    for row, text in enumerate(TEXTS):
        expected = alone(model, tokenizer, text, 47).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(found[row], expected.numpy(), atol=1e-4)
    short = [0, 1, 3]
    unit = found[short] / np.linalg.norm(found[short], axis=1, keepdims=True)
    assert np.abs(unit - found[short]).max() > 0.1
    np.testing.assert_allclose(embed_texts(encoder, [TEXTS[row] for row in short]), unit, atol=1e-5)


def test_a_classifier_embeds_too(models, minilm):
    """Its head is left aside."""
    encoder, (model, tokenizer, _) = models["bert"][2], minilm
    assert embed_texts(encoder, TEXTS).shape == (len(TEXTS), 15)
    model = models["bert"][0].bert
    expected = alone(model, tokenizer, TEXTS[0], 47).last_hidden_state[0].mean(dim=0)
    np.testing.assert_allclose(embed_texts(encoder, TEXTS[:1], normalize=False)[0], expected.numpy(), atol=1e-4)


def test_a_text_does_not_depend_on_those_around_it(bert):
    """Bit for bit where the batch has the same shape, and to rounding where it is another size."""
    many = [f"{text} {'cat ' * (n % 5)}" for n, text in enumerate(TEXTS * 4)]
    together = np.stack(list(classify_texts(bert, many, batch_size=8).values()), axis=1)
    backwards = np.stack(list(classify_texts(bert, many[::-1], batch_size=8).values()), axis=1)
    np.testing.assert_array_equal(together, backwards[::-1])
    for row in (0, 9, 27):
        single = np.stack(list(classify_texts(bert, [many[row]]).values()), axis=1)
        np.testing.assert_array_equal(together[row], single[0])
    large = np.stack(list(classify_texts(bert, many, batch_size=64).values()), axis=1)
    np.testing.assert_allclose(large, together, atol=1e-5)


def test_few_shapes_are_compiled(bert, monkeypatch):
    shapes = set()

    def spy(params, tokens, config, mask):
        shapes.add(tokens.shape)
        return classifier.probabilities(classifier.classify(params, tokens, config, mask), config)

    fresh = jax.jit(spy)
    monkeypatch.setattr(classifier, "_probabilities", fresh)
    for size in (3, 30):
        classify_texts(bert, ["cat " * n for n in range(size)], batch_size=8)
    assert shapes == {(8, 16), (8, 32)}
    assert fresh._cache_size() == 2
    classify_texts(bert, ["cat " * 40])  # 42 tokens: the bucket of 64 is cut to the 47 positions there are
    assert shapes == {(8, 16), (8, 32), (8, 47)}


def test_no_texts(bert, minilm):
    found = classify_texts(bert, [])
    assert {label: column.shape for label, column in found.items()} == dict.fromkeys(tiny_encoders.LABELS, (0,))
    assert embed_texts(minilm[2], []).shape == (0, 15)


def test_bad_inputs(bert, minilm):
    with pytest.raises(ValueError, match="this bert encoder has no classification head"):
        classify_texts(minilm[2], TEXTS)
    with pytest.raises(ValueError, match="the encoder has no tokenizer"):
        embed_texts(dataclasses.replace(bert, tokenizer=None), TEXTS)
    with pytest.raises(ValueError, match="texts is the one string 'you', expected a list of strings"):
        classify_texts(bert, "you")
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        classify_texts(bert, TEXTS, batch_size=0)
    with pytest.raises(ValueError, match="max_length is 2, expected at least 3"):
        classify_texts(bert, TEXTS, max_length=2)


def test_tokenizer_that_adds_nothing(bert):
    bare = tiny_encoders.wordpiece()
    bare.backend_tokenizer.post_processor = tiny_encoders.tokenizers.processors.Sequence([])
    encoder = dataclasses.replace(bert, tokenizer=bare)
    assert embed_texts(encoder, ["cat"], max_length=1).shape == (1, 15)
    with pytest.raises(ValueError, match=r"text 1 \(''\) has no tokens and the tokenizer adds none"):
        embed_texts(encoder, ["cat", ""])
