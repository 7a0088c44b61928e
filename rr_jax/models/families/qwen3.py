"""Qwen3: Llama with an RMSNorm on each head of queries and keys."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common
from rr_jax.models.families.qwen2 import WINDOW_FIELDS

ARCHITECTURE = "Qwen3ForCausalLM"


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "Qwen3Config", {"attention_bias", *WINDOW_FIELDS})
    if fields["attention_bias"]:
        common.refuse("attention_bias", True, "False")
    return common.base_config(fields, "qwen3", qk_norm=True, sliding_window=common.uniform_window(fields))


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json that transformers loads with the same numbers."""
    return common.base_fields(config, ARCHITECTURE, attention_bias=False, **common.window_fields(config))
