"""OLMo 2: norms behind attention and MLP instead of before them, and RMSNorms of whole queries and keys."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common
from rr_jax.models.families.tensors import ATTENTION, GATED_MLP, OUTSIDE, Tensor

ARCHITECTURE = "Olmo2ForCausalLM"
PREFIX = "model."
TENSORS = (
    *OUTSIDE,
    *ATTENTION,
    *GATED_MLP,
    Tensor("model.layers.{}.post_attention_layernorm.weight", ("attn_post_norm",)),
    Tensor("model.layers.{}.post_feedforward_layernorm.weight", ("mlp_post_norm",)),
)


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "Olmo2Config", {"attention_bias"})
    common.whole_rotary(hf)
    biased = fields["attention_bias"]
    return common.base_config(fields, "olmo2", norm_place="post", qk_norm="full", qkv_bias=biased, out_bias=biased)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    return common.base_fields(config, ARCHITECTURE, attention_bias=config.qkv_bias)
