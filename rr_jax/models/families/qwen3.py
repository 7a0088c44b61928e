"""Qwen3: Llama with an RMSNorm on each head of queries and keys."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common, qwen2
from rr_jax.models.families.tensors import LLAMA_TENSORS

ARCHITECTURE = "Qwen3ForCausalLM"
PREFIX = "model."
TENSORS = LLAMA_TENSORS


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "Qwen3Config", {"attention_bias", *qwen2.WINDOW_FIELDS})
    common.whole_rotary(hf)
    biased = fields["attention_bias"]
    return common.base_config(
        fields, "qwen3", qk_norm="head", qkv_bias=biased, out_bias=biased, **common.windows(fields)
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    return common.base_fields(config, ARCHITECTURE, attention_bias=config.qkv_bias, **qwen2.window_fields(config))
