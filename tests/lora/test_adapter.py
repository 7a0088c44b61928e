"""Adapters as data: start, scale, stack, merge; and that the forward pass reads them as PEFT does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.lora.adapter import init_adapter, merge_adapter, scale_adapter, stack_adapters, unstack_adapter
from rr_jax.models import decoder
from rr_jax.models.config import ModelConfig
from rr_jax.models.spec import LINEAR_MODULES, init_params, linear_shapes
from tests.jitted import forward

CONFIG = ModelConfig(
    family="llama",
    vocab_size=37,
    embed_dim=16,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    ffn_dim=20,
    norm_eps=3e-5,
    rope_theta=777.0,
    tied_embeddings=False,
)


@pytest.fixture(scope="module")
def params():
    drawn = jax.jit(init_params)(jax.random.key(1), CONFIG)
    return jax.device_put(jax.tree.map(lambda w: 5 * np.asarray(w) if w.ndim > 2 else w, drawn))


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(2).integers(0, CONFIG.vocab_size, (2, 9), np.int32)


def random_adapter(seed, rank=4, targets=LINEAR_MODULES):
    rng = np.random.default_rng(seed)
    adapter = {}
    for name in targets:
        rows, columns = linear_shapes(CONFIG)[name]
        a = rng.uniform(-(rows**-0.5), rows**-0.5, (CONFIG.num_layers, rows, rank))
        b = 0.3 * rng.normal(size=(CONFIG.num_layers, rank, columns))
        adapter[name] = {"a": np.float32(a), "b": np.float32(b)}
    return jax.device_put(adapter)


def started(rank=4, targets=LINEAR_MODULES):
    return jax.jit(init_adapter, static_argnums=(2, 3))(jax.random.key(0), CONFIG, rank, targets)


def converted(params, dtype):
    """The parameters in another dtype."""
    return jax.device_put(jax.tree.map(lambda w: np.asarray(w).astype(dtype), params))


def test_an_adapter_starts_as_the_identity(params, tokens):
    adapter = started()
    np.testing.assert_array_equal(forward(params, tokens, CONFIG, adapters=adapter), forward(params, tokens, CONFIG))


def test_factors_start_as_in_peft():
    adapter = started(rank=6)
    for name, (rows, columns) in linear_shapes(CONFIG).items():
        a, b = adapter[name]["a"], adapter[name]["b"]
        assert a.shape == (3, rows, 6)
        assert b.shape == (3, 6, columns)
        assert a.dtype == b.dtype == jnp.float32
        assert not np.asarray(b).any()
        bound = rows**-0.5
        assert 0.95 * bound < np.abs(a).max() <= bound
        np.testing.assert_allclose(np.std(np.asarray(a)), bound / 3**0.5, rtol=0.15)


def test_a_module_starts_the_same_whatever_else_is_targeted():
    alone = init_adapter(jax.random.key(0), CONFIG, 2, ("v",))
    among = init_adapter(jax.random.key(0), CONFIG, 2, ("q", "v"))
    np.testing.assert_array_equal(alone["v"]["a"], among["v"]["a"])


@pytest.mark.parametrize(
    ("rank", "targets", "message"),
    [
        (2, ("q", "q_proj"), r"'q_proj'.*q, k, v, o, gate, up, down"),
        (2, (), "targets is empty"),
        (13, ("v",), r"rank 13 does not fit 'v' \[16, 12\], expected 1 to 12"),
        (0, ("v",), "rank 0"),
    ],
)
def test_init_refuses_what_cannot_be(rank, targets, message):
    with pytest.raises(ValueError, match=message):
        init_adapter(jax.random.key(0), CONFIG, rank, targets)


def test_merged_weights_compute_what_the_adapter_did(params, tokens):
    adapter = random_adapter(3)
    merged = merge_adapter(params, adapter)
    apart = forward(params, tokens, CONFIG, adapters=adapter)
    np.testing.assert_allclose(forward(merged, tokens, CONFIG), apart, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(apart) - np.asarray(forward(params, tokens, CONFIG))).max() > 0.1
    assert merged["embed"] is params["embed"]


def test_a_merge_is_formed_in_float32_and_rounded_once(params):
    adapter = random_adapter(4)
    half = converted(params, jnp.bfloat16)
    merged = jax.jit(merge_adapter)(half, adapter)
    for name, module in adapter.items():
        w = np.asarray(half["layers"][name], np.float64)
        exact = w + np.asarray(module["a"], np.float64) @ np.asarray(module["b"], np.float64)
        found = merged["layers"][name]
        assert found.dtype == jnp.bfloat16
        # half a unit in the last of 8 bits, and nothing on top of it but float32 rounding
        assert np.all(np.abs(np.asarray(found, np.float64) - exact) <= np.abs(exact) * 2.0**-8 + 1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_merging_nothing_keeps_every_bit(params, dtype):
    bits = np.uint32 if dtype == jnp.float32 else np.uint16
    weights = converted(params, dtype)
    q = np.array(weights["layers"]["q"])
    q[0, 0, :5] = np.array([-0.0, 0.0, 1e-40, -1e-40, 3e38], dtype)
    weights["layers"]["q"] = jax.device_put(q)
    for nothing in (started(), scale_adapter(random_adapter(5), -0.0)):
        merged = merge_adapter(weights, nothing)
        for name, w in weights["layers"].items():
            found = np.asarray(merged["layers"][name])
            np.testing.assert_array_equal(found.view(bits), np.asarray(w).view(bits), err_msg=name)


def test_a_merge_is_differentiable_where_an_adapter_starts(params):
    adapter = {"q": started()["q"]}

    @jax.jit
    @jax.grad
    def through_merge(adapter):
        return jnp.sum(merge_adapter(params, adapter)["layers"]["q"] ** 2)

    @jax.jit
    @jax.grad
    def directly(adapter):
        return jnp.sum((params["layers"]["q"] + adapter["q"]["a"] @ adapter["q"]["b"]) ** 2)

    direct = directly(adapter)
    assert np.abs(direct["q"]["b"]).max() > 0.1
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), through_merge(adapter), direct)


def test_merge_refuses_what_does_not_fit(params):
    adapter = random_adapter(6, targets=("q", "v"))
    with pytest.raises(ValueError, match="no module 'query'"):
        merge_adapter(params, {"query": adapter["q"]})
    with pytest.raises(ValueError, match=r"adapter of 'v' has .* weight \(3, 16, 12\)"):
        merge_adapter(params, {"v": adapter["q"]})


def test_the_model_refuses_an_adapter_it_would_look_past_and_tokens_without_rows(params, tokens):
    pair = {"a": np.zeros((3, 1, 1), np.float32), "b": np.zeros((3, 1, 1), np.float32)}
    read_inputs = partial(decoder.read_inputs, read=lambda name, layer, x: None)
    for call in (decoder.forward, decoder.hidden_states, read_inputs):
        with pytest.raises(ValueError, match="adapters: the model has no module 'q_proj', expected some of q, k, v"):
            call(params, tokens, CONFIG, adapters={"q_proj": pair})
        with pytest.raises(ValueError, match=r"tokens have shape \(7,\), expected \[B, S\]"):
            call(params, np.zeros(7, np.int32), CONFIG)
    ones, mask = np.ones((1, 4), np.int32), np.ones((1, 4), bool)
    with pytest.raises(ValueError, match=r"tokens have shape \(4,\), expected \[B, S\]"):
        decoder.prefill(params, ones[0], mask, CONFIG, cache_size=8)
    _, cache = jax.jit(partial(decoder.prefill, cache_size=8))(params, ones, mask, CONFIG)
    with pytest.raises(ValueError, match=r"tokens have shape \(1, 1\), expected \[B\]"):
        decoder.decode_step(params, ones[:, :1], cache, CONFIG)
    with pytest.raises(ValueError, match="no module 'q_proj'"):
        decoder.decode_step(params, ones[:, 0], cache, CONFIG, adapters={"q_proj": pair})


def test_the_scale_may_be_traced_and_mapped(params, tokens):
    adapter = random_adapter(7)
    scales = np.array([0.0, -0.5, 2.0], np.float32)
    many = jax.jit(jax.vmap(lambda s: forward(params, tokens, CONFIG, adapters=scale_adapter(adapter, s))))(scales)
    for logits, scale in zip(np.asarray(many), scales, strict=True):
        one = forward(merge_adapter(params, scale_adapter(adapter, float(scale))), tokens, CONFIG)
        np.testing.assert_allclose(logits, one, rtol=1e-4, atol=1e-4)


def test_a_stack_under_vmap_is_its_members(params, tokens):
    members = [random_adapter(8), random_adapter(9)]
    stacked = jax.jit(stack_adapters)(members)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(unstack_adapter)(stacked), members)
    both = jax.jit(jax.vmap(lambda adapter: forward(params, tokens, CONFIG, adapters=adapter)))(stacked)
    for logits, member in zip(np.asarray(both), members, strict=True):
        alone = forward(params, tokens, CONFIG, adapters=member)
        np.testing.assert_allclose(logits, alone, rtol=1e-5, atol=1e-5)


def test_only_equal_adapters_stack():
    with pytest.raises(ValueError, match=r"adapter 1 has shapes .*expected those of adapter 0"):
        stack_adapters([random_adapter(1, rank=2), random_adapter(2, rank=3)])
    with pytest.raises(ValueError, match="no adapter"):
        stack_adapters([])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads it
def test_forward_and_gradients_are_those_of_peft():
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    hf_names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "gate": "gate_proj", "up": "up_proj"}
    hf_names["down"] = "down_proj"
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.embed_dim,
            intermediate_size=CONFIG.ffn_dim,
            num_hidden_layers=CONFIG.num_layers,
            num_attention_heads=CONFIG.num_heads,
            num_key_value_heads=CONFIG.num_kv_heads,
            head_dim=CONFIG.head_dim,
            rms_norm_eps=CONFIG.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": CONFIG.rope_theta},
            tie_word_embeddings=False,
            initializer_range=0.2,
            attn_implementation="eager",
        )
    )
    rank, alpha = 4, 6  # a scale of 1.5
    lora = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(hf_names.values()), lora_dropout=0.0)
    model = peft.get_peft_model(model, lora).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    inner = model.base_model.model.model

    def array(tensor):
        return tensor.detach().numpy().copy()

    def stacked(take):
        return np.stack([array(take(layer)) for layer in inner.layers])

    def module(layer, name):
        return getattr(layer.mlp if name in ("gate", "up", "down") else layer.self_attn, hf_names[name])

    params = {
        "embed": array(inner.embed_tokens.weight),
        "layers": {
            "attn_norm": stacked(lambda layer: layer.input_layernorm.weight),
            "mlp_norm": stacked(lambda layer: layer.post_attention_layernorm.weight),
            **{name: stacked(lambda layer, n=name: module(layer, n).base_layer.weight.T) for name in hf_names},
        },
        "final_norm": array(inner.norm.weight),
        "head": array(model.base_model.model.lm_head.weight.T),
    }
    adapter = {
        name: {
            "a": stacked(lambda layer, n=name: module(layer, n).lora_A["default"].weight.T),
            "b": stacked(lambda layer, n=name: module(layer, n).lora_B["default"].weight.T),
        }
        for name in hf_names
    }
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 9))
    target = np.random.default_rng(1).normal(size=(2, 9, CONFIG.vocab_size)).astype(np.float32)
    reference = model(torch.tensor(tokens)).logits
    ((reference * torch.tensor(target)).sum()).backward()

    def weighted_logits(adapter):
        logits = forward(params, tokens, CONFIG, adapters=scale_adapter(adapter, alpha / rank))
        return jnp.sum(logits * target), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(weighted_logits, has_aux=True))(adapter)
    np.testing.assert_allclose(logits, reference.detach().numpy(), rtol=1e-4, atol=1e-4)
    for name in hf_names:
        for ours, theirs in (("a", "lora_A"), ("b", "lora_B")):
            expected = stacked(lambda layer, n=name, f=theirs: getattr(module(layer, n), f)["default"].weight.grad.T)
            size = float(np.abs(expected).max())
            np.testing.assert_allclose(
                np.asarray(gradient[name][ours]) / size, expected / size, atol=1e-4, err_msg=f"{name} {ours}"
            )
