"""Gemma 2: norms around attention and MLP, capped scores and logits, every other layer with a window."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common
from rr_jax.models.families.tensors import ATTENTION, GATED_MLP, OUTSIDE, Tensor

ARCHITECTURE = "Gemma2ForCausalLM"
PREFIX = "model."
TENSORS = (
    *OUTSIDE,
    *ATTENTION,
    *GATED_MLP,
    Tensor("model.layers.{}.input_layernorm.weight", ("attn_norm",)),
    Tensor("model.layers.{}.post_attention_layernorm.weight", ("attn_post_norm",)),
    Tensor("model.layers.{}.pre_feedforward_layernorm.weight", ("mlp_norm",)),
    Tensor("model.layers.{}.post_feedforward_layernorm.weight", ("mlp_post_norm",)),
)
OWN_FIELDS = {
    "hidden_activation",
    "attention_bias",
    "query_pre_attn_scalar",
    "sliding_window",
    "layer_types",
    "final_logit_softcapping",
    "attn_logit_softcapping",
}


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "Gemma2Config", OWN_FIELDS)
    common.whole_rotary(hf)
    return common.base_config(fields, "gemma2", **gemma(fields))


def gemma(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns what Gemma 2 and 3 have in common beyond what all families have. `hidden_act` is there and not looked at."""
    return {
        "norm_place": "both",
        "norm_offset": 1.0,
        "embed_scale": fields["hidden_size"] ** 0.5,
        "activation": common.activation(fields, "hidden_activation"),
        "qkv_bias": fields["attention_bias"],
        "out_bias": fields["attention_bias"],
        "attention_scale": fields["query_pre_attn_scalar"] ** -0.5,
        "attention_softcap": fields["attn_logit_softcapping"],
        "logit_softcap": fields["final_logit_softcapping"],
        **common.windows(fields),
    }


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    return common.base_fields(config, ARCHITECTURE, **gemma_fields(config))


def gemma_fields(config: ModelConfig) -> dict[str, Any]:
    """Returns the fields that `gemma` reads back."""
    scale = config.attention_scale
    return {
        "hidden_activation": common.written_activation(config),
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": round(scale**-2) if scale is not None else config.head_dim,
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        **common.window_fields(config),
        # transformers asks for a window even where no layer slides
        "sliding_window": config.sliding_window or config.max_positions,
    }
