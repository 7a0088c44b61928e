"""Llama 2 and 3, and the many models that use their architecture (TinyLlama, SmolLM, Yi, stories)."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common

ARCHITECTURE = "LlamaForCausalLM"


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "LlamaConfig", {"attention_bias", "mlp_bias"})
    for field in ("attention_bias", "mlp_bias"):
        if fields[field]:
            common.refuse(field, fields[field], "False")
    return common.base_config(fields, "llama")


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json that transformers loads with the same numbers."""
    return common.base_fields(config, ARCHITECTURE, attention_bias=False, mlp_bias=False)
