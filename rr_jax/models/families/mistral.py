"""Mistral: Llama with a sliding window over all layers."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common
from rr_jax.models.families.tensors import LLAMA_TENSORS

ARCHITECTURE = "MistralForCausalLM"
PREFIX = "model."
TENSORS = LLAMA_TENSORS


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "MistralConfig", {"sliding_window"})
    common.whole_rotary(hf)
    return common.base_config(fields, "mistral", sliding_window=common.uniform_window(fields))


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    return common.base_fields(config, ARCHITECTURE, sliding_window=config.sliding_window)
