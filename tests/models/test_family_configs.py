"""config.json is translated or refused, never guessed."""

import pytest

from rr_jax.models import families
from rr_jax.models.config import RopeScaling
from tests.models.tiny_models import LLAMA3, SHAPE, VARIANTS


def hf(name="llama", **changes):
    """A config.json of a family that is shaped like Llama, without any rotary parameters unless given."""
    return {"architectures": [families.FAMILIES.get(name).ARCHITECTURE], "model_type": name, **SHAPE, **changes}


def variant(name):
    """A config.json of one of the variants."""
    family, (_, fields) = name.split("-")[0], VARIANTS[name]
    return {"architectures": [families.FAMILIES.get(family).ARCHITECTURE], "model_type": family, **fields}


def test_every_field_is_translated():
    config = families.config_from_hf(hf("llama", head_dim=10, rope_parameters=LLAMA3, tie_word_embeddings=True))
    assert config.family == "llama"
    assert (config.vocab_size, config.embed_dim, config.num_layers, config.ffn_dim) == (61, 24, 3, 38)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 10)
    assert (config.norm_eps, config.rope_theta, config.max_positions) == (1e-3, 500.0, 64)
    assert config.rope_scaling == RopeScaling(
        kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=64
    )
    assert config.tied_embeddings
    assert (config.bos_token_id, config.eos_token_ids) == (1, (2, 7))
    assert not config.qkv_bias
    assert not config.qk_norm
    assert config.sliding_window is None


def test_both_spellings_of_rotary_parameters():
    old = {key: value for key, value in LLAMA3.items() if key not in ("rope_type", "rope_theta")} | {"type": "llama3"}
    assert families.config_from_hf(hf(rope_theta=500.0, rope_scaling=old)) == families.config_from_hf(
        hf(rope_parameters=LLAMA3)
    )
    assert families.config_from_hf(hf(rope_theta=70.0)).rope_theta == 70.0
    assert families.config_from_hf(hf(rope_theta=70.0, rope_scaling=None)).rope_scaling is None


def test_missing_fields_take_the_defaults_of_the_family():
    fields = {"architectures": ["MistralForCausalLM"], "vocab_size": 61}
    config = families.config_from_hf(fields)
    assert (config.ffn_dim, config.num_kv_heads, config.head_dim) == (14336, 8, 128)
    assert (config.sliding_window, config.norm_eps, config.rope_theta) == (4096, 1e-6, 10_000.0)
    assert families.config_from_hf(hf("qwen3")).head_dim == 128
    assert families.config_from_hf(hf("qwen2")).head_dim == 6


def test_specifics_of_the_families():
    assert families.config_from_hf(hf("mistral", sliding_window=None)).sliding_window is None
    assert families.config_from_hf(hf("mistral", sliding_window=9)).sliding_window == 9
    assert families.config_from_hf(hf("qwen2")).qkv_bias
    assert families.config_from_hf(hf("qwen3")).qk_norm == "head"
    # Qwen releases name a window and leave it switched off
    off = hf("qwen2", use_sliding_window=False, sliding_window=4096, max_window_layers=2)
    assert families.config_from_hf(off).sliding_window is None
    on = hf("qwen3", use_sliding_window=True, sliding_window=9, max_window_layers=0)
    assert families.config_from_hf(on).sliding_window == 9
    some = hf("qwen2", use_sliding_window=True, sliding_window=9, max_window_layers=2)
    assert families.config_from_hf(some).sliding_layers == (False, False, True)
    beyond = hf("qwen3", use_sliding_window=True, sliding_window=9, max_window_layers=3)
    assert families.config_from_hf(beyond).sliding_window is None


def test_the_given_fields_are_not_changed():
    fields = hf(rope_scaling={"type": "linear", "factor": 2.0}, rope_theta=70.0)
    before = repr(fields)
    families.config_from_hf(fields)
    assert repr(fields) == before


def test_model_type_stands_in_for_missing_architectures():
    assert families.config_from_hf({**hf("qwen3"), "architectures": None}).family == "qwen3"


def test_stray_metadata_is_harmless():
    fields = hf(unsloth_fixed=True, attention_dropout=0.1, use_cache=False, rope_interleaved=False, pretraining_tp=2)
    assert families.config_from_hf({**fields, "transformers.js_config": {"x": 1}}) == families.config_from_hf(hf())


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_written_config_reads_back_the_same(name):
    config = families.config_from_hf(variant(name))
    assert families.config_from_hf(families.config_to_hf(config)) == config


def rope(kind, **more):
    return {"rope_type": kind, "rope_theta": 10_000.0, **more}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            hf(architectures=["GPTJForCausalLM"]),
            "GPTJForCausalLM, supported: GPT2LMHeadModel, GPTNeoXForCausalLM, Gemma2",
        ),
        (hf(architectures=["LlamaModel"]), "architecture is LlamaModel, supported"),
        ({"model_type": "gptj"}, "architecture is none .*'gptj'.*, supported"),
        (hf(hidden_act="quick_gelu"), "hidden_act is 'quick_gelu', supported: 'silu', 'swish', 'gelu'"),
        ({**variant("gpt2"), "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, supp"),
        ({**variant("gpt2"), "add_cross_attention": True}, "add_cross_attention is True, supported: only False"),
        ({**variant("opt"), "do_layer_norm_before": False}, "do_layer_norm_before is False, supported: only True"),
        ({**variant("opt"), "word_embed_proj_dim": 12}, "word_embed_proj_dim is 12, supported: hidden_size, 24"),
        ({**variant("opt"), "_remove_final_layer_norm": True}, "_remove_final_layer_norm is True, supported: False"),
        ({**variant("gemma3_text"), "use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        (
            {**variant("gemma3_text"), "rope_parameters": {"full_attention": rope("yarn", factor=2.0)}},
            "rope_parameters.full_attention.rope_type is 'yarn', supported",
        ),
        (
            {**variant("gemma3_text"), "rope_parameters": {"sliding_attention": rope("linear", factor=2.0)}},
            "rope_parameters.sliding_attention.rope_type is 'linear', supported: 'default'",
        ),
        ({**variant("phi3"), "rope_parameters": rope("longrope")}, "rope_parameters.rope_type is 'longrope', suppo"),
        ({**variant("gemma2"), "layer_types": ["chunked_attention"] * 3}, "layer_types is .*chunked.*, supported: 'f"),
        (hf(quantization_config={"bits": 4}), "quantization_config is {'bits': 4}, supported: unquantised"),
        (
            hf(rope_scaling={"type": "yarn", "factor": 2.0}),
            "rope_scaling.rope_type is 'yarn', supported: 'default'",
        ),
        (hf(rope_parameters=rope("dynamic", factor=2.0)), "rope_parameters.rope_type is 'dynamic', supported"),
        (hf(rope_parameters=rope("longrope")), "rope_parameters.rope_type is 'longrope', supported"),
        (hf(rope_parameters=rope("linear")), "rope_parameters.factor is None, supported: a number"),
        (hf(rope_parameters=rope("linear", factor=2.0, mscale=3.0)), "rope_parameters.mscale is 3.0, supported: not"),
        (hf(rope_parameters=rope("default", partial_rotary_factor=0.5)), "partial_rotary_factor is 0.5, supported"),
        (
            hf(rope_parameters={"full_attention": rope("default")}),
            "rope_parameters is .*, supported: one object for all layers",
        ),
        (hf(partial_rotary_factor=0.25), "partial_rotary_factor is 0.25, supported: 1.0"),
        (hf("mistral", sliding_window=0), "sliding_window is 0, supported: null or a positive"),
        (
            hf("qwen3", layer_types=["full_attention", "chunked_attention", "full_attention"]),
            "layer_types .*chunked",
        ),
        (hf(sliding_window=5), "sliding_window is 5, supported: no such field in LlamaConfig"),
        (hf(attn_logit_softcapping=50.0), "attn_logit_softcapping is 50.0, supported: no such field"),
        (hf("mistral", num_local_experts=8), "num_local_experts is 8, supported: no such field"),
        (hf(residual_multiplier=0.5), "residual_multiplier is 0.5, supported: no such field"),
        (hf(is_encoder_decoder=True), "is_encoder_decoder is True, supported: only False"),
        (hf(num_hidden_layers="three"), "config.json is not a valid LlamaConfig: .*num_hidden_layers"),
        (hf(num_hidden_layers=0), "num_hidden_layers is 0, supported: a positive integer"),
        (hf(rms_norm_eps=float("nan")), "rms_norm_eps is nan, supported: finite numbers"),
        (hf(rms_norm_eps=-1e-5), "rms_norm_eps is -1e-05, supported: a number of at least 0"),
        (
            {**variant("gpt2"), "layer_norm_epsilon": float("inf")},
            "layer_norm_epsilon is inf, supported: finite numbers",
        ),
        ({**variant("gpt_neox"), "rotary_emb_base": 0}, "rotary_emb_base is 0, supported: a positive number"),
        (hf(rope_theta=0.0), "rope_theta is 0.0, supported: a positive number"),
        (hf(rope_parameters=rope("linear", factor=0.0)), "rope_parameters.factor is 0.0, supported: a positive number"),
        (hf(rope_parameters={"rope_type": "default", "rope_theta": -1.0}), "rope_parameters.rope_theta is -1.0, supp"),
        (hf(head_dim=7), "even rotary dimension.*head_dim`=7"),
        (hf(num_key_value_heads=3), "multiple of num_kv_heads, found 4 and 3"),
    ],
)
def test_what_is_not_implemented_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        families.config_from_hf(fields)


def test_old_spellings_of_rotary_parameters():
    """As the releases on the hub have them."""
    pythia = {key: value for key, value in variant("gpt_neox").items() if key != "rope_parameters"}
    config = families.config_from_hf({**pythia, "rotary_pct": 0.25, "rotary_emb_base": 700})
    assert (config.rotary_dim, config.rope_theta) == (2, 700.0)
    gemma = {key: value for key, value in variant("gemma3_text").items() if key != "rope_parameters"}
    scaling = {"rope_type": "linear", "factor": 8.0}
    config = families.config_from_hf(
        {**gemma, "rope_theta": 5e5, "rope_local_base_freq": 900.0, "rope_scaling": scaling}
    )
    assert (config.rope_theta, config.local_rope_theta) == (5e5, 900.0)
    assert config.rope_scaling == RopeScaling(kind="linear", factor=8.0)


def test_gemma_windows_follow_the_pattern():
    config = families.config_from_hf(variant("gemma3_text-pattern"))
    assert config.sliding_layers == (True, False, True)
    assert families.config_from_hf(variant("gemma2-uncapped")).sliding_window is None


def test_no_family_takes_a_field_it_does_not_know_that_computes():
    """A config of tomorrow, with a switch of tomorrow, in every family."""
    for name in families.FAMILIES.names():
        for field, value in (("attention_temperature_scale", 1.5), ("rope_interleaving", True), ("moe_top_k", 2)):
            with pytest.raises(ValueError, match=f"{field} is .*, supported: no such field"):
                families.config_from_hf({**variant(name), field: value})
