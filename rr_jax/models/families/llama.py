"""Llama 2 and 3, and the many models that use their architecture (TinyLlama, SmolLM, Yi, stories)."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common
from rr_jax.models.families.tensors import LLAMA_TENSORS

ARCHITECTURE = "LlamaForCausalLM"
PREFIX = "model."
TENSORS = LLAMA_TENSORS


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "LlamaConfig", {"attention_bias", "mlp_bias"})
    common.whole_rotary(hf)
    biased = fields["attention_bias"]
    return common.base_config(fields, "llama", qkv_bias=biased, out_bias=biased, mlp_bias=fields["mlp_bias"])


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    return common.base_fields(config, ARCHITECTURE, attention_bias=config.qkv_bias, mlp_bias=config.mlp_bias)
