"""Encoders give the numbers of transformers: logits, the states of every layer, pooled sentences."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rr_jax.models.encoders import encoder as core
from rr_jax.models.encoders.hub import Encoder, load_encoder
from tests import tiny_encoders
from tests.tiny_encoders import LABELS, PAD, VARIANTS

LENGTHS = (11, 1, 6, 13)
WIDTH = 13
NAMES = sorted(VARIANTS)
classify = jax.jit(core.classify)
encode = jax.jit(core.encode)
sentence_embedding = jax.jit(core.sentence_embedding, static_argnames="normalize")
mean_pool = jax.jit(core.mean_pool)
probabilities = jax.jit(core.probabilities)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Encoder]]:
    """name of a variant -> (torch classifier, the same one loaded), each made once."""
    made: dict[str, tuple[Any, Encoder]] = {}

    def get(name: str) -> tuple[Any, Encoder]:
        if name not in made:
            model = tiny_encoders.build(name)
            made[name] = (model, load_encoder(tiny_encoders.save(model, tmp_path_factory.mktemp(name))))
        return made[name]

    return get


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Encoder]:
    """A BertModel, whose weight names have no prefix and which has no head."""
    model = tiny_encoders.build("bert", "Model")
    return model, load_encoder(tiny_encoders.save(model, tmp_path_factory.mktemp("minilm")))


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask [4, 13], padded on the right."""
    random = np.random.default_rng(5)
    mask = np.arange(WIDTH) < np.asarray(LENGTHS)[:, None]
    return np.where(mask, random.integers(PAD + 1, 300, mask.shape), PAD).astype(np.int32), mask


def in_torch(model: Any, tokens: np.ndarray, mask: np.ndarray, **more: Any) -> Any:
    with torch.no_grad():
        return model(torch.tensor(tokens).long(), attention_mask=torch.tensor(mask).long(), **more)


@pytest.mark.parametrize("name", NAMES)
def test_logits(name, models):
    model, encoder = models(name)
    tokens, mask = batch()
    ours = classify(encoder.params, tokens, encoder.config, mask)
    assert ours.dtype == jnp.float32
    ours = np.asarray(ours)
    assert encoder.config.labels == LABELS
    expected = in_torch(model, tokens, mask).logits.numpy()
    assert expected.std(axis=0).mean() > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    for row, length in enumerate(LENGTHS):  # padding changes nothing
        alone = in_torch(model, tokens[row : row + 1, :length], mask[row : row + 1, :length]).logits.numpy()
        np.testing.assert_allclose(ours[row], alone[0], atol=1e-4)


@pytest.mark.parametrize("name", ["bert-gelu_new", "roberta", "distilbert"])
def test_states_of_every_layer(name, models):
    model, encoder = models(name)
    tokens, mask = batch()
    expected = in_torch(model, tokens, mask, output_hidden_states=True).hidden_states
    assert len(expected) == encoder.config.num_layers + 1 == 4
    for depth, states in enumerate(expected):
        params = {**encoder.params, "layers": {k: np.asarray(v)[:depth] for k, v in encoder.params["layers"].items()}}
        config = dataclasses.replace(encoder.config, num_layers=depth)
        ours = np.asarray(encode(params, jnp.asarray(tokens), config, jnp.asarray(mask)))
        np.testing.assert_allclose(ours[mask], states.numpy()[mask], atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_token_types(name, models):
    model, encoder = models(name)
    tokens, mask = batch()
    types = np.random.default_rng(1).integers(0, 3, tokens.shape)
    expected = in_torch(model, tokens, mask, token_type_ids=torch.tensor(types)).logits.numpy()
    ours = classify(encoder.params, jnp.asarray(tokens), encoder.config, jnp.asarray(mask), jnp.asarray(types))
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert np.abs(expected - in_torch(model, tokens, mask).logits.numpy()).max() > 0.1


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_padding_id_within_a_text(name, models):
    """A text may spell the padding token; RoBERTa does not count it when it numbers positions."""
    model, encoder = models(name)
    tokens = np.array([[7, PAD, 9, 11, PAD, PAD, 20]], np.int32)
    mask = np.ones(tokens.shape, bool)
    ours = classify(encoder.params, jnp.asarray(tokens), encoder.config)  # without a mask all tokens are real
    np.testing.assert_allclose(ours, in_torch(model, tokens, mask).logits.numpy(), atol=1e-4)


@pytest.mark.parametrize(("name", "reach"), [("bert", 47), ("roberta", 43), ("distilbert", 47)])
def test_longest_text(name, reach, models):
    model, encoder = models(name)
    assert encoder.config.max_tokens == reach
    tokens = np.random.default_rng(2).integers(PAD + 1, 300, (1, reach)).astype(np.int32)
    ours = classify(encoder.params, jnp.asarray(tokens), encoder.config)
    np.testing.assert_allclose(ours, in_torch(model, tokens, np.ones(tokens.shape)).logits.numpy(), atol=1e-4)
    longer = np.zeros((1, reach + 1), np.int32)
    with pytest.raises(ValueError, match=f"tokens have {reach + 1} columns, expected at most {reach}"):
        encode(encoder.params, longer, encoder.config)


@pytest.mark.parametrize("normalize", [True, False])
def test_sentence_embedding(normalize, minilm):
    model, encoder = minilm
    tokens, mask = batch()
    states = in_torch(model, tokens, mask).last_hidden_state
    weights = torch.tensor(mask)[:, :, None].float()
    expected = (states * weights).sum(1) / weights.sum(1)
    if normalize:
        expected = torch.nn.functional.normalize(expected, dim=1)
    ours = sentence_embedding(
        encoder.params, jnp.asarray(tokens), encoder.config, jnp.asarray(mask), normalize=normalize
    )
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-4)


def test_mean_pool_in_float64():
    random = np.random.default_rng(0)
    states, mask = random.normal(size=(3, 5, 4)).astype(np.float32), random.random((3, 5)) < 0.6
    mask[2] = False  # a row of padding alone
    ours = np.asarray(mean_pool(states, mask))
    for row in range(2):
        np.testing.assert_allclose(ours[row], states[row, mask[row]].astype(np.float64).mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(ours[2], 0.0)


def test_probabilities(models):
    config = models("bert")[1].config
    logits = np.array([[1.0, -2.0, 0.5, 3.0], [0.0, 0.0, -1.0, 2.0]])
    ours = probabilities(jnp.asarray(logits, jnp.float32), dataclasses.replace(config, multi_label=True))
    np.testing.assert_allclose(ours, 1 / (1 + np.exp(-logits)), atol=1e-5)
    ours = probabilities(jnp.asarray(logits, jnp.float32), dataclasses.replace(config, multi_label=False))
    np.testing.assert_allclose(ours, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-5)


def test_gradient_of_a_logit(models):
    """Differentiable like everything in the core: against torch, for the word embeddings."""
    model, encoder = models("roberta")
    tokens, mask = batch()

    def logit(params):
        return jnp.sum(classify(params, jnp.asarray(tokens), encoder.config, jnp.asarray(mask))[:, 1])

    model.zero_grad()
    model(torch.tensor(tokens).long(), attention_mask=torch.tensor(mask).long()).logits[:, 1].sum().backward()
    expected = model.roberta.embeddings.word_embeddings.weight.grad.numpy()
    ours = np.array(jax.jit(jax.grad(logit))(encoder.params)["embed"])
    ours[PAD] = expected[PAD] = 0.0  # torch leaves the padding row out
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_what_a_model_does_not_have(models, minilm):
    tokens = np.ones((1, 4), np.int32)
    encoder = models("distilbert")[1]
    with pytest.raises(ValueError, match="type_ids are given, but a distilbert encoder has no token types"):
        encode(encoder.params, tokens, encoder.config, type_ids=tokens)
    with pytest.raises(ValueError, match="this bert encoder has no classification head"):
        classify(minilm[1].params, tokens, minilm[1].config)
    with pytest.raises(ValueError, match="multiple of num_heads, found 15 and 4"):
        dataclasses.replace(encoder.config, num_heads=4)
