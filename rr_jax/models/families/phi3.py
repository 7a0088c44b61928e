"""Phi-3 and Phi-4-mini: Llama with fused projections, a window over all layers and, in Phi-4, partly rotated heads."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common
from rr_jax.models.families.tensors import OUTSIDE, PRE_NORMS, linear

ARCHITECTURE = "Phi3ForCausalLM"
PREFIX = "model."
TENSORS = (
    *OUTSIDE,
    *PRE_NORMS,
    *linear("model.layers.{}.self_attn.qkv_proj", "q", "k", "v"),
    *linear("model.layers.{}.self_attn.o_proj", "o"),
    *linear("model.layers.{}.mlp.gate_up_proj", "gate", "up"),
    *linear("model.layers.{}.mlp.down_proj", "down"),
)


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "Phi3Config", {"sliding_window", "original_max_position_embeddings"})
    return common.base_config(fields, "phi3", sliding_window=common.uniform_window(fields))


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    share = config.rotated / config.head_dim
    return common.base_fields(
        config,
        ARCHITECTURE,
        sliding_window=config.sliding_window,
        original_max_position_embeddings=config.max_positions,
        partial_rotary_factor=share,
        rope_parameters={**common.rope_fields(config), "partial_rotary_factor": share},
    )
