"""The supported model families: one small file each, translating a Hugging Face config to and from ours.

To add a family, write a file with `ARCHITECTURE`, `config_from_hf` and `config_to_hf`, and list it here.
"""

from types import ModuleType
from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import llama, mistral, qwen2, qwen3
from rr_jax.models.families.common import global_name, layer_name

FAMILIES: dict[str, ModuleType] = {"llama": llama, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3}


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """ModelConfig of a parsed config.json.

    Raises:
      ValueError: the architecture is not supported (listing those that are), or a field is not.
    """
    found = hf.get("architectures") or []
    for family, module in FAMILIES.items():
        if found == [module.ARCHITECTURE] or (not found and hf.get("model_type") == family):
            config: ModelConfig = module.config_from_hf(hf)
            return config
    supported = ", ".join(module.ARCHITECTURE for module in FAMILIES.values())
    named = ", ".join(map(str, found)) or f"none (model_type {hf.get('model_type')!r})"
    raise ValueError(f"config.json: architecture is {named}, supported: {supported}")


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json, as a dict, of a model that transformers can load."""
    if config.family not in FAMILIES:
        raise ValueError(f"family is {config.family!r}, supported: {', '.join(FAMILIES)}")
    fields: dict[str, Any] = FAMILIES[config.family].config_to_hf(config)
    return fields


__all__ = ["FAMILIES", "config_from_hf", "config_to_hf", "global_name", "layer_name"]
