"""Gemma 3, text only: Gemma 2 with normed queries and keys, and another rotary base in the layers with a window."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common, gemma2

ARCHITECTURE = "Gemma3ForCausalLM"
PREFIX = "model."
TENSORS = gemma2.TENSORS
OWN_FIELDS = gemma2.OWN_FIELDS | {"rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern"}


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "Gemma3TextConfig", OWN_FIELDS)
    common.whole_rotary(hf)
    rope = fields["rope_parameters"]
    local, whole = rope["sliding_attention"], rope["full_attention"]
    if local["rope_type"] != "default":
        common.refuse("rope_parameters.sliding_attention.rope_type", local["rope_type"], "'default'")
    return common.base_config(
        fields,
        "gemma3_text",
        qk_norm="head",
        local_rope_theta=float(local["rope_theta"]),
        **common.rope_config(whole, fields["head_dim"]),
        **gemma2.gemma(fields),
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    local = {"rope_type": "default", "rope_theta": config.local_rope_theta}
    return common.base_fields(
        config,
        ARCHITECTURE,
        rope_parameters={"full_attention": common.rope_fields(config), "sliding_attention": local},
        rope_local_base_freq=config.local_rope_theta,
        **gemma2.gemma_fields(config),
    )
