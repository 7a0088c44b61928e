"""A model that was really trained: text, loss and export of the shared stories260K."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.models import hub
from rr_jax.models.decoder import decode_step, prefill
from rr_jax.models.loss import token_nll
from tests.jitted import forward

pytestmark = pytest.mark.shared

# The greedy sample in the documentation of llama2.c, and in the README beside the model.
GREEDY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high."
)


@pytest.fixture(scope="module")
def folder(shared):
    path = shared / "models" / "stories260K"
    if not path.is_dir():
        pytest.skip(f"no model at {path}")
    return path


@pytest.fixture(scope="module")
def lm(folder):
    return hub.load(folder)


@pytest.fixture(scope="module")
def stories(shared):
    path = shared / "data" / "tinystories" / "stories.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"][:900] for line, _ in zip(lines, range(200), strict=False)]
    return texts[::4]


def test_greedy_text(lm):
    assert lm.tokenizer.decode(lm.tokenizer(GREEDY).input_ids, skip_special_tokens=True).strip() == GREEDY
    tokens = np.array([[lm.config.bos_token_id]], np.int32)
    length = 64

    @jax.jit
    def write(params, tokens):
        def one(carry, _):
            logits, cache = carry
            token = jnp.argmax(logits, axis=-1)
            return decode_step(params, token, cache, lm.config), token[0]

        start = prefill(params, tokens, tokens == tokens, lm.config, cache_size=1 + length)
        return jax.lax.scan(one, start, length=length)[1]

    text = lm.tokenizer.decode(np.asarray(write(lm.params, tokens)), skip_special_tokens=True).strip()
    assert text.startswith(GREEDY) or GREEDY.startswith(text)
    assert len(text) > 0.8 * len(GREEDY)


def test_loss_on_stories(lm, stories):
    width = 512
    tokens, segments = np.zeros((len(stories), width), np.int32), np.zeros((len(stories), width), np.int32)
    for row, story in enumerate(stories):
        ids = lm.tokenizer(story).input_ids[:width]
        assert ids[0] == lm.config.bos_token_id
        tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
    nll = jax.jit(lambda params, batch: token_nll(params, batch, lm.config))
    total = weight = 0.0
    for start in range(0, len(stories), 10):
        part = slice(start, start + 10)
        batch = {"tokens": tokens[part], "segment_ids": segments[part], "weights": segments[part].astype(np.float32)}
        added = nll(lm.params, batch)
        total, weight = total + float(added[0]), weight + float(added[1])
    assert weight == segments.sum() - len(stories)
    # The README beside the model gives 1.456 nats a token for 200 stories.
    assert abs(total / weight - 1.456) < 0.05


def test_logits_and_export(lm, folder, stories, tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    ids = lm.tokenizer(stories[0]).input_ids
    tokens = np.array([ids], np.int32)
    ours = np.asarray(forward(lm.params, tokens, lm.config))
    batch = {"tokens": tokens, "segment_ids": np.ones_like(tokens), "weights": np.ones(tokens.shape, np.float32)}
    total, weight = jax.device_get(jax.jit(token_nll)(lm.params, batch, lm.config))
    hub.save(lm, tmp_path / "stories")
    for source in (folder, tmp_path / "stories"):
        model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
        with torch.no_grad():
            found = model(torch.tensor([ids]), labels=torch.tensor([ids]))
        np.testing.assert_allclose(ours[0], found.logits[0].numpy(), atol=1e-4)
        np.testing.assert_allclose(total / weight, found.loss.item(), atol=1e-5)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "stories")
    assert again(stories[0]).input_ids == ids
