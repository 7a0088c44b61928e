"""Mistral: Llama with a sliding window over all layers."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common

ARCHITECTURE = "MistralForCausalLM"


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "MistralConfig", {"sliding_window"})
    window = fields["sliding_window"]
    if window is not None and window < 1:
        common.refuse("sliding_window", window, "null or a positive integer")
    return common.base_config(fields, "mistral", sliding_window=window)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json that transformers loads with the same numbers."""
    return common.base_fields(config, ARCHITECTURE, sliding_window=config.sliding_window)
