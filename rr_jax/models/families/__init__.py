"""Finds the family of a model by what config.json says: one small module each, which translates a Hugging Face config and
weight names to ours.

To add a family, write a module with `MEMBERS`, and list it here, or let others find it: `FAMILIES.register(model_type,
module)`, or an entry point `family.MODEL_TYPE`. A family of this package has two variants in the parity tests. Only names
that someone installed or registered are looked up: a model's own files name no code.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.families.tensors import Tensor, present_tensors
from rr_jax.models.spec import param_specs
from rr_jax.registry import Registry

MEMBERS = ("ARCHITECTURE", "PREFIX", "TENSORS", "config_from_hf", "config_to_hf")
FAMILIES: Registry[Any] = Registry(  # by model_type, which is `ModelConfig.family` too
    "family",
    {
        "gpt2": f"{__name__}.gpt2",
        "opt": f"{__name__}.opt",
        "gpt_neox": f"{__name__}.gpt_neox",
        "llama": f"{__name__}.llama",
        "mistral": f"{__name__}.mistral",
        "qwen2": f"{__name__}.qwen2",
        "qwen3": f"{__name__}.qwen3",
        "gemma2": f"{__name__}.gemma2",
        "gemma3_text": f"{__name__}.gemma3",
        "phi3": f"{__name__}.phi3",
        "olmo": f"{__name__}.olmo",
        "olmo2": f"{__name__}.olmo2",
    },
    MEMBERS,
    paths=False,
)


def config_from_hf(hf: dict[str, Any]) -> ModelConfig:
    """Returns the ModelConfig of a parsed config.json.

    Raises:
      ValueError: the architecture is not supported (listing those that are), or a field is not.
    """
    found = hf.get("architectures") or []
    supported = []
    for name, family in _candidates(hf.get("model_type")):
        if found == [family.ARCHITECTURE] or (not found and hf.get("model_type") == name):
            config: ModelConfig = family.config_from_hf(hf)
            return config
        supported.append(family.ARCHITECTURE)
    named = ", ".join(map(str, found)) or f"none (model_type {hf.get('model_type')!r})"
    raise ValueError(f"config.json: architecture is {named}, supported: {', '.join(sorted(supported))}")


def _candidates(model_type: Any) -> Iterator[tuple[str, Any]]:
    """Yields all families by name, that of the model type first: mostly no other is imported."""
    for name in sorted(FAMILIES.names(), key=lambda name: name != model_type):
        yield name, FAMILIES.get(name)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Returns config.json, as a dict, of a model that transformers can load.

    Raises:
      ValueError: the family cannot say all that the config says; whatever is written reads back as the same config.
    """
    fields: dict[str, Any] = FAMILIES.get(config.family).config_to_hf(config)
    again = dataclasses.asdict(config_from_hf(fields))
    for field, value in dataclasses.asdict(config).items():
        if again[field] != value:
            raise ValueError(
                f"{field} is {value!r}, which {fields['architectures'][0]} cannot express: {again[field]!r}"
            )
    return fields


def model_tensors(config: ModelConfig) -> list[Tensor]:
    """Returns the tensors that a model of this config has: those of its family whose arrays the config has."""
    return present_tensors(FAMILIES.get(config.family).TENSORS, param_specs(config))


def base_prefix(config: ModelConfig) -> str:
    """Returns what the names of all tensors but the head begin with; files of the bare base model leave it out."""
    prefix: str = FAMILIES.get(config.family).PREFIX
    return prefix


def head_names(config: ModelConfig) -> list[str]:
    """Returns what the family calls the head, whether or not the config has one of its own."""
    return [tensor.name for tensor in FAMILIES.get(config.family).TENSORS if tensor.parts == ("head",)]


__all__ = ["FAMILIES", "Tensor", "base_prefix", "config_from_hf", "config_to_hf", "head_names", "model_tensors"]
