"""OLMo: Llama with norms that have no parameters, and clipped queries, keys and values in some releases."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import common
from rr_jax.models.families.tensors import LLAMA_TENSORS

ARCHITECTURE = "OlmoForCausalLM"
PREFIX = "model."
TENSORS = LLAMA_TENSORS
NORM_EPS = 1e-5  # fixed in the Hugging Face code


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Translates config.json. Raises ValueError for a field that changes the computation and is not implemented."""
    fields = common.read_fields(hf, "OlmoConfig", {"attention_bias", "clip_qkv"})
    common.whole_rotary(hf)
    biased = fields["attention_bias"]
    return common.base_config(
        fields,
        "olmo",
        norm="plain",
        norm_eps=NORM_EPS,
        qkv_bias=biased,
        out_bias=biased,
        clip_qkv=fields["clip_qkv"],
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json that transformers loads with the same numbers."""
    written = common.base_fields(config, ARCHITECTURE, attention_bias=config.qkv_bias, clip_qkv=config.clip_qkv)
    del written["rms_norm_eps"]
    return written
