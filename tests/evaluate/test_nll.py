"""Mean NLL of packed rows against Hugging Face, one unpacked sample at a time, and float64 arithmetic."""

import math

import jax
import numpy as np
import pytest

from rr_jax.data.packing import Packed
from rr_jax.evaluate import nll as module
from rr_jax.evaluate.nll import mean_nll, nll_metric, perplexity
from rr_jax.models.config import ModelConfig

torch = pytest.importorskip("torch")
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = ModelConfig(
    family="llama",
    vocab_size=61,
    embed_dim=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    ffn_dim=40,
    norm_eps=3e-4,
    rope_theta=700.0,
    tied_embeddings=False,
)
LENGTHS = [[5, 9], [16], [2, 3, 4], [7], [12, 1]]  # of the samples in each row of 16 tokens


@pytest.fixture(scope="module")
def reference() -> LlamaForCausalLM:
    torch.manual_seed(0)
    hf = LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        rms_norm_eps=3e-4,
        rope_parameters={"rope_type": "default", "rope_theta": 700.0},
        initializer_range=0.4,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(hf).eval()


def _params(model: LlamaForCausalLM) -> dict:
    """Our pytree from the module, by hand."""
    names = {
        **{ours: f"self_attn.{ours}_proj.weight" for ours in "qkvo"},
        **{ours: f"mlp.{ours}_proj.weight" for ours in ("gate", "up", "down")},
        "attn_norm": "input_layernorm.weight",
        "mlp_norm": "post_attention_layernorm.weight",
    }
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    layers = {o: np.stack([state[f"model.layers.{i}.{t}"].T for i in range(2)]) for o, t in names.items()}
    return {
        "embed": state["model.embed_tokens.weight"],
        "layers": layers,
        "final_norm": state["model.norm.weight"],
        "head": state["lm_head.weight"].T,
    }


def _packed() -> Packed:
    rng = np.random.default_rng(1)
    packed = Packed(*(np.zeros((len(LENGTHS), 16), kind) for kind in (np.int32, np.int32, np.float32)))
    for row, lengths in enumerate(LENGTHS):
        stop = sum(lengths)
        packed.segment_ids[row, :stop] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        packed.tokens[row, :stop] = rng.integers(0, 61, stop)
        packed.weights[row, :stop] = rng.choice([0.0, 0.25, 1.0], stop)
    return packed


def _expected(model: LlamaForCausalLM, packed: Packed) -> float:
    total, weight = 0.0, 0.0
    for row, lengths in enumerate(LENGTHS):
        for start, stop in zip(np.cumsum([0, *lengths]), np.cumsum(lengths), strict=False):
            tokens, weights = packed.tokens[row, start:stop], packed.weights[row, start:stop].astype(np.float64)
            with torch.no_grad():
                logits = model(torch.tensor(tokens[None].astype(np.int64))).logits[0].double().numpy()
            log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            total -= (log_probs[np.arange(stop - start - 1), tokens[1:]] * weights[1:]).sum()
            weight += weights[1:].sum()
    return total / weight


def test_mean_nll_is_that_of_each_sample_alone(reference: LlamaForCausalLM):
    packed = _packed()
    expected = _expected(reference, packed)
    assert expected > 1.0
    for batch_size in (1, 2, 5, 8):  # with and without a last batch that is not full
        found = mean_nll(_params(reference), packed, CONFIG, batch_size=batch_size)
        assert found == pytest.approx(expected, rel=1e-4)


def test_the_standard_error_is_over_the_samples(reference: LlamaForCausalLM):
    packed, params = _packed(), _params(reference)
    single = []  # (sum, weight) of each sample alone
    for row, segment in ((r, k) for r, lengths in enumerate(LENGTHS) for k in range(1, len(lengths) + 1)):
        kept = packed.segment_ids[row] == segment
        weight = float(packed.weights[row][kept][1:].sum())
        if weight:
            alone = Packed(*(np.where(kept, array[row], 0)[None] for array in packed))
            single.append((mean_nll(params, alone, CONFIG) * weight, weight))
    tops, bottoms = np.array(single).T
    mean, n = tops.sum() / bottoms.sum(), len(tops)
    expected = np.std(tops - mean * bottoms, ddof=1) * n**0.5 / bottoms.sum()  # the residuals have mean 0
    for batch_size in (1, 2, 8):
        found = nll_metric(params, packed, CONFIG, batch_size=batch_size)
        assert found.value == mean_nll(params, packed, CONFIG, batch_size=batch_size)  # to the bit
        assert found.n == n and found.stderr == pytest.approx(expected, rel=1e-4)


def test_all_batches_share_one_compilation(reference: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch):
    fresh = jax.jit(lambda *args, **names: module.token_nll(*args, **names))
    monkeypatch.setattr(module, "_batch_nll", fresh)
    for _ in range(2):
        mean_nll(_params(reference), _packed(), CONFIG, batch_size=2)
    assert fresh._cache_size() == 1


def test_an_adapter_changes_the_model_that_is_measured(reference: LlamaForCausalLM):
    rng = np.random.default_rng(2)
    a, b = (rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((2, 24, 3), (2, 3, 40)))
    params, packed = _params(reference), _packed()
    found = mean_nll(params, packed, CONFIG, adapters={"gate": {"a": a, "b": b}})
    params["layers"]["gate"] = params["layers"]["gate"] + a @ b
    assert found == pytest.approx(mean_nll(params, packed, CONFIG), rel=1e-4)


def test_rows_without_weight_are_refused(reference: LlamaForCausalLM):
    packed = _packed()
    with pytest.raises(ValueError, match="5 rows have no weighted token"):
        mean_nll(_params(reference), packed._replace(weights=np.zeros_like(packed.weights)), CONFIG)


def test_perplexity():
    assert perplexity(0.0) == 1.0
    assert perplexity(2.0) == pytest.approx(math.e**2)
    assert perplexity(1e6) == math.inf
    assert math.isnan(perplexity(math.nan))
