"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common
from rr_jax.models.families.tensors import LLAMA_TENSORS

ARCHITECTURE = "Qwen2ForCausalLM"
PREFIX = "model."
TENSORS = LLAMA_TENSORS
WINDOW_FIELDS = {"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "Qwen2Config", WINDOW_FIELDS)
    common.whole_rotary(hf)
    return common.base_config(fields, "qwen2", qkv_bias=True, **common.windows(fields))


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    return common.base_fields(config, ARCHITECTURE, **window_fields(config))


def window_fields(config: ModelConfig) -> dict[str, Any]:
    """Returns the window as both Qwen configs spell it; `layer_types` says it all, the others serve older readers."""
    slides = config.sliding_window is not None
    layers = config.sliding_layers.index(True) if config.sliding_layers else 0 if slides else config.num_layers
    return {"use_sliding_window": slides, "max_window_layers": layers, **common.window_fields(config)}
