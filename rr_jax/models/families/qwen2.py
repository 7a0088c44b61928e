"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common

ARCHITECTURE = "Qwen2ForCausalLM"
WINDOW_FIELDS = {"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "Qwen2Config", WINDOW_FIELDS)
    return common.base_config(fields, "qwen2", qkv_bias=True, sliding_window=common.uniform_window(fields))


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json that transformers loads with the same numbers."""
    return common.base_fields(config, ARCHITECTURE, **common.window_fields(config))
