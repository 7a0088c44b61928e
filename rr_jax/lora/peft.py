"""PEFT adapter folders in and out: adapter_config.json and adapter_model.safetensors.

PEFT names a Hugging Face module; ours are the parts of it. A module that fuses several of ours (GPT-2, GPT-NeoX, Phi-3)
is taken apart exactly, and put together exactly: with the rank of its parts when they share their input factor, else
with the sum of their ranks. The scale is always inside `b`. Torch and `peft` are never imported.

Axes: L layers, R rank.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rr_jax.models import families, weights
from rr_jax.models.config import ModelConfig
from rr_jax.models.families import Tensor
from rr_jax.models.spec import Adapter, linear_shapes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
# Say where an adapter goes, how it is trained or where it comes from: nothing that its factors do not say already.
_KNOWN = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "bias"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "base_model_name_or_path"),
    *("task_type", "inference_mode", "revision", "auto_mapping", "peft_version", "lora_dropout", "init_lora_weights"),
    *("megatron_core", "loftq_config", "ensure_weight_tying", "qalora_group_size"),
}
_DEFAULT = 8  # of r and lora_alpha in PEFT's LoraConfig
_CHANGES_BASE = (
    "pissa",
    "olora",
    "corda",
    "loftq",
    "eva",
    "lora_ga",
)  # initialisations that subtract from the base weights


class _Module(NamedTuple):
    """Stands for one Hugging Face linear module of one layer."""

    tensor: Tensor
    layer: int


def load_peft(folder: str | Path, config: ModelConfig) -> Adapter:
    """Reads a LoRA adapter that PEFT wrote.

    Args:
      folder: with adapter_config.json and adapter_model.safetensors.
      config: of the model the adapter is for.

    Returns:
      An adapter of our modules, float32; ranks that differ between layers are filled up with zeros.

    Raises:
      ValueError: it is no LoRA, asks for something that is not implemented, names modules the model has not, or its
        factors do not fit.
    """
    folder = Path(folder)
    settings = weights.read_json(folder / CONFIG)
    _check_settings(folder / CONFIG, settings)
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}; pickled adapters are never opened: save it with safetensors")
    modules = {_module_name(tensor.name.format(layer)): _Module(tensor, layer) for tensor, layer in _linears(config)}
    factors: dict[str, dict[str, np.ndarray]] = {}
    with weights.opened_file(folder / WEIGHTS) as files:
        for key in files.names:
            match = _KEY.fullmatch(key)
            if match is None or match["module"] not in modules:
                raise ValueError(
                    f"{folder / WEIGHTS}: {key} belongs to no linear module of a {config.family} model with "
                    f"{config.num_layers} layers, expected such as {next(iter(modules))}"
                )
            factors.setdefault(match["module"], {})[match["factor"]] = files.read(key).astype(np.float32)
    if not factors:
        raise ValueError(f"{folder / WEIGHTS} holds no LoRA factors")
    parts: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for name, pair in factors.items():
        tensor, layer = modules[name]
        for part, a, b in _take_apart(folder / WEIGHTS, name, tensor, pair, settings, config):
            parts.setdefault(part, {})[layer] = (a, b)
    return {name: _stack(parts[name], linear_shapes(config)[name], config.num_layers) for name in parts}


def save_peft(
    folder: str | Path, adapter: Adapter, config: ModelConfig, base_model: str | None = None, card: str | None = None
) -> None:
    """Writes an adapter that PEFT (and `load_peft`) reads, with lora_alpha = rank: the scale is in the factors.

    Args:
      folder: new or empty.
      adapter: any modules and ranks.
      config: of the model it is for.
      base_model: what PEFT is to load it onto, a folder or hub id.
      card: text of a README.md.

    Raises:
      ValueError: the folder holds something, or a module is not one of the model's.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder; an adapter is only written to a new one")
    shapes = linear_shapes(config)
    for name in adapter:
        if name not in shapes:
            raise ValueError(f"the adapter has a module {name!r}, expected some of {', '.join(shapes)}")
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for tensor, layer in _linears(config):
        if not any(part in adapter for part in tensor.parts):
            continue
        module = _module_name(tensor.name.format(layer))
        a, b = _put_together(tensor, layer, adapter, config)
        tensors[f"base_model.model.{module}.lora_A.weight"] = np.ascontiguousarray(a.T)
        tensors[f"base_model.model.{module}.lora_B.weight"] = np.ascontiguousarray(b.T)
        # with what stands before it: GPT-2 calls two modules of a layer c_proj
        ranks[_module_name(tensor.name.partition("{}.")[2])] = a.shape[1]
    usual = max(ranks.values())
    pattern = {name: rank for name, rank in ranks.items() if rank != usual}
    linears = [tensor for tensor, _ in _linears(config)]
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "fan_in_fan_out": not linears[0].flipped,
        "target_modules": sorted(ranks),
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors writes for the owner alone


def _linears(config: ModelConfig) -> Iterator[tuple[Tensor, int]]:
    """Returns the weight tensors of all linear modules, layer by layer."""
    shapes = linear_shapes(config)
    for layer in range(config.num_layers):
        for tensor in families.model_tensors(config):
            if tensor.layered and set(tensor.parts) <= shapes.keys():
                yield tensor, layer


def _module_name(tensor_name: str) -> str:
    return tensor_name.removesuffix(".weight")


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type is {settings.get('peft_type')!r}, supported: 'LORA'")
    if settings.get("bias", "none") != "none":
        raise ValueError(f"{path}: bias is {settings['bias']!r}, supported: 'none'")
    start = settings.get("init_lora_weights", True)
    if isinstance(start, str) and start.startswith(_CHANGES_BASE):
        raise ValueError(
            f"{path}: init_lora_weights is {start!r}, which changes the base weights: convert it with PEFT"
        )
    for field, found in settings.items():
        if field not in _KNOWN and found not in (None, False, [], {}):
            raise ValueError(f"{path}: {field} is {found!r}, supported: a plain LoRA without it")


def _scale(settings: dict[str, Any], module: str, rank: int) -> float:
    """Returns alpha / rank, or alpha / sqrt(rank) for rslora, by the patterns for this module."""
    alpha = _by_pattern(settings.get("alpha_pattern") or {}, module, settings.get("lora_alpha", _DEFAULT))
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _by_pattern(pattern: dict[str, Any], module: str, otherwise: Any) -> Any:
    """Returns the first entry whose key, a regular expression, is the end of the module's name; as PEFT looks it up."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def _take_apart(
    path: Path,
    name: str,
    tensor: Tensor,
    pair: dict[str, np.ndarray],
    settings: dict[str, Any],
    config: ModelConfig,
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Returns (part, a [in, R], b [R, out]) of one module."""
    shapes = [linear_shapes(config)[part] for part in tensor.parts]
    rows, columns = shapes[0][0], sum(shape[1] for shape in shapes)
    said = _by_pattern(settings.get("rank_pattern") or {}, name, settings.get("r", _DEFAULT))
    found = {factor: list(array.shape) for factor, array in pair.items()}
    rank = found.get("A", [0])[0]
    if found != {"A": [rank, rows], "B": [columns, rank]}:
        raise ValueError(
            f"{path}: {name} has factors {found}, the model expects A [R, {rows}] and B [{columns}, R]: is the adapter "
            "for another base model?"
        )
    if said != rank:
        raise ValueError(f"{path}: {name} has factors of rank {rank}, {CONFIG} says {said}")
    a, b = pair["A"].T, pair["B"] * np.float32(_scale(settings, name, rank))
    pieces = tensor.split(b if tensor.flipped else b.T, [(rank, shape[1]) for shape in shapes], config.head_dim)
    for part, piece in zip(tensor.parts, pieces, strict=True):
        yield part, a, piece


def _stack(layers: dict[int, tuple[np.ndarray, np.ndarray]], shape: tuple[int, int], count: int) -> dict[str, Any]:
    """Returns {"a": [L, in, R], "b": [L, R, out]} with zeros where a layer has no or a smaller adapter."""
    rank = max(a.shape[1] for a, _ in layers.values())
    stacked_a = np.zeros((count, shape[0], rank), np.float32)
    stacked_b = np.zeros((count, rank, shape[1]), np.float32)
    for layer, (a, b) in layers.items():
        stacked_a[layer, :, : a.shape[1]] = a
        stacked_b[layer, : a.shape[1], :] = b
    return jax.device_put({"a": stacked_a, "b": stacked_b})


def _put_together(tensor: Tensor, layer: int, adapter: Adapter, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns a [in, R] and b [R, out] of one Hugging Face module in one layer."""
    own = {part: adapter[part] for part in tensor.parts if part in adapter}
    inputs = [np.asarray(module["a"])[layer] for module in own.values()]
    shared = all(np.array_equal(inputs[0], other) for other in inputs[1:])
    a = inputs[0] if shared else np.concatenate(inputs, axis=1)
    pieces, begin = [], 0
    for part in tensor.parts:
        piece = np.zeros((a.shape[1], linear_shapes(config)[part][1]), np.float32)
        if part in own:
            b = np.asarray(own[part]["b"])[layer]
            piece[begin : begin + len(b)] = b
            begin += 0 if shared else len(b)
        pieces.append(piece)
    joined = tensor.join(pieces, config.head_dim)
    return a, joined.T if tensor.flipped else joined
