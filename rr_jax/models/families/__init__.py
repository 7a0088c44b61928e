"""The supported model families: one small file each, translating a Hugging Face config and weight names to ours.

To add a family, write a file with `ARCHITECTURE`, `PREFIX`, `TENSORS`, `config_from_hf` and `config_to_hf`, list it
here, and give it two variants in the parity tests.
"""

import dataclasses
from types import ModuleType
from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families import gemma2, gemma3, gpt2, gpt_neox, llama, mistral, olmo, olmo2, opt, phi3, qwen2, qwen3
from rr_jax.models.families.tensors import Tensor, present_tensors
from rr_jax.models.spec import param_specs

FAMILIES: dict[str, ModuleType] = {
    "gpt2": gpt2,
    "opt": opt,
    "gpt_neox": gpt_neox,
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "phi3": phi3,
    "olmo": olmo,
    "olmo2": olmo2,
}


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Returns the ModelConfig of a parsed config.json.

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
    """Returns config.json, as a dict, of a model that transformers can load.

    Raises:
      ValueError: the family cannot say all that the config says; whatever is written reads back as the same config.
    """
    fields: dict[str, Any] = _module(config).config_to_hf(config)
    again = dataclasses.asdict(config_from_hf(fields))
    for field, value in dataclasses.asdict(config).items():
        if again[field] != value:
            raise ValueError(
                f"{field} is {value!r}, which {fields['architectures'][0]} cannot express: {again[field]!r}"
            )
    return fields


def model_tensors(config: ModelConfig) -> list[Tensor]:
    """Returns the tensors that a model of this config has: those of its family whose arrays the config has."""
    return present_tensors(_module(config).TENSORS, param_specs(config))


def base_prefix(config: ModelConfig) -> str:
    """Returns what the names of all tensors but the head begin with; files of the bare base model leave it out."""
    prefix: str = _module(config).PREFIX
    return prefix


def _module(config: ModelConfig) -> ModuleType:
    if config.family not in FAMILIES:
        raise ValueError(f"family is {config.family!r}, supported: {', '.join(FAMILIES)}")
    return FAMILIES[config.family]


__all__ = ["FAMILIES", "Tensor", "base_prefix", "config_from_hf", "config_to_hf", "model_tensors"]
