"""Loads and saves Hugging Face folders: config, tokenizer and weights, safetensors only.

A weight file is read one tensor at a time into stacked arrays, so loading needs the memory of the model and one tensor
more. Saving writes beside the folder and moves it into place at the end. Nothing pickled is opened and no code that
comes with a model is run.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.models import families
from rr_jax.models.config import ModelConfig
from rr_jax.models.spec import ArraySpec, param_specs

DTYPES = ("float32", "bfloat16", "float16")
Progress = Callable[[int, int], None]

_HUB_PATTERNS = ["*.json", "model*.safetensors", "tokenizer*", "*.model", "vocab*", "merges.txt", "*.jinja"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model as loaded.

    Attributes:
      config: static description.
      params: the tree that `spec.param_specs(config)` describes.
      tokenizer: a transformers tokenizer, or None if the folder has none.
    """

    config: ModelConfig
    params: dict[str, Any]
    tokenizer: Any = None


def load(
    source: str | os.PathLike[str],
    dtype: str = "float32",
    revision: str | None = None,
    progress: Progress | None = None,
) -> LanguageModel:
    """Loads a causal language model from a folder or from the Hugging Face hub.

    Args:
      source: a folder, or a hub id such as "HuggingFaceTB/SmolLM2-135M".
      dtype: of the weights in memory, one of `DTYPES`.
      revision: branch, tag or commit on the hub; not used for a folder.
      progress: called with (tensors read, tensors in all) after each one.

    Raises:
      ValueError: whatever is wrong with the folder, naming the file, field or tensor, what was found and what was
        expected.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    folder = local_folder(source, revision)
    config = read_config(folder)
    tokenizer = read_tokenizer(folder, config.vocab_size)
    params = _read_params(folder, config, jnp.dtype(dtype), progress)
    return LanguageModel(config, params, tokenizer)


def save(
    lm: LanguageModel,
    folder: str | os.PathLike[str],
    dtype: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a folder that transformers (and `load`) reads. Either all of it is there at the end, or none of it.

    Args:
      lm: the tokenizer is written if there is one.
      folder: must not exist or be empty.
      dtype: of the weights in the file, one of `DTYPES`; by default that of the embeddings in memory.
      max_shard_bytes: weights beyond this go to further files, with an index. One tensor is never split.

    Raises:
      ValueError: the folder holds something, or the parameters are not those of the config.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder; a model is only written to a new one")
    _check_params(lm)
    name = dtype or str(lm.params["embed"].dtype)
    config = {**families.config_to_hf(lm.config), "dtype": name}
    tokens = {key: config[key] for key in ("bos_token_id", "eos_token_id") if config[key] is not None}
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _write_json(partial / "config.json", config)
        _write_json(partial / "generation_config.json", tokens)
        if lm.tokenizer is not None:
            lm.tokenizer.save_pretrained(partial)
        _write_weights(partial, lm, np.dtype(jnp.dtype(name)), max_shard_bytes)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read_config(folder: Path) -> ModelConfig:
    """The ModelConfig of a folder. End-of-text ids come from generation_config.json where that lists them."""
    hf = read_json(folder / "config.json")
    generation = folder / "generation_config.json"
    if generation.is_file():
        found = read_json(generation)
        hf |= {key: found[key] for key in ("bos_token_id", "eos_token_id") if found.get(key) is not None}
    return families.config_from_hf(hf)


def local_folder(source: str | os.PathLike[str], revision: str | None) -> Path:
    """The local folder of `source`, downloaded if it is a hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{path} is a file; expected a folder with config.json and model.safetensors")
    import huggingface_hub  # here because a local folder does not need it

    try:
        found = huggingface_hub.snapshot_download(str(source), revision=revision, allow_patterns=_HUB_PATTERNS)
    except Exception as error:  # whatever the network, the hub or its cache raises, the answer is the same
        reason = " ".join(str(error).split())
        raise ValueError(f"no folder named {source}, and the hub could not provide it: {reason}") from error
    return Path(found)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or a ValueError that names the file."""
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # includes undecodable bytes
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def read_tokenizer(folder: Path, vocab_size: int) -> Any:
    """The tokenizer of a folder, which must not have more ids than the model; None if the folder has none."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer  # here because it takes seconds to import

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ValueError(f"the tokenizer files in {folder} cannot be read: {' '.join(str(error).split())}") from error
    ids = max(tokenizer.get_vocab().values(), default=-1) + 1
    if ids > vocab_size:
        raise ValueError(f"the tokenizer in {folder} has {ids} ids, but vocab_size is {vocab_size}")
    return tokenizer


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, one or as the index lists them."""
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if not (folder / _INDEX).is_file():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        beside = f" (found {', '.join(pickled)}, but pickled weights are never opened: safetensors only)"
        raise ValueError(f"{folder} has no {_SINGLE} and no {_INDEX}{beside if pickled else ''}")
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{folder / _INDEX} has no weight_map object")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"{folder / _INDEX} lists {name}, which is not a file in {folder}")
    return [folder / name for name in names]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An open safetensors file. Whatever it reports about its own bytes becomes a ValueError that names it."""
    import safetensors

    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is truncated or corrupt: {error}") from error


def _read_params(folder: Path, config: ModelConfig, dtype: jnp.dtype, progress: Progress | None) -> dict[str, Any]:
    """Fills the parameter tree tensor by tensor."""
    arrays: dict[str, Any] = jax.tree.map(lambda spec: np.empty(spec.shape, np.dtype(dtype)), param_specs(config))
    places = {place.name: place for place in _places(config)}
    missing = set(places)
    for path in weight_files(folder):
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if name not in places:
                    if _ignored(name, config):
                        continue
                    raise ValueError(f"{path} holds {name}, which a {config.family} model of this config does not have")
                fill(places[name].of(arrays), file.get_tensor(name), places[name].flip, f"{path}: {name}")
                missing.discard(name)
                if progress is not None:
                    progress(len(places) - len(missing), len(places))
    if missing:
        first = places[min(missing)]
        shape = list(_in_file(first.of(arrays).shape, first.flip))
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(places)} weights, first {first.name} with shape {shape}"
        )
    for tree in (arrays["layers"], arrays):  # one array after the other, so that few are held twice
        for name in tree:
            if name != "layers":
                tree[name] = jnp.asarray(tree[name])
    return arrays


def fill(view: np.ndarray, tensor: np.ndarray, flip: bool, name: str) -> None:
    """Copies a tensor of the file into its place, transposed from [out, in] to [in, out] if `flip`."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating) or tensor.dtype.itemsize < 2:
        raise ValueError(f"{name} is {tensor.dtype}, expected unquantised floating point")
    expected = _in_file(view.shape, flip)
    if tensor.shape != expected:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, the config expects {list(expected)}")
    view[...] = tensor.T if flip else tensor


def _in_file(shape: tuple[int, ...], flip: bool) -> tuple[int, ...]:
    return shape[::-1] if flip else shape


def _ignored(name: str, config: ModelConfig) -> bool:
    """Tensors that old exports carry and no model reads: rotary tables, and a copy of tied embeddings."""
    return name.endswith("rotary_emb.inv_freq") or (config.tied_embeddings and name == families.global_name("head"))


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where one tensor of a file lives in the parameter tree, and whether it is transposed in the file."""

    name: str
    ours: str
    layer: int | None
    flip: bool

    def of(self, params: dict[str, Any]) -> Any:
        return params[self.ours] if self.layer is None else params["layers"][self.ours][self.layer]


def _places(config: ModelConfig) -> Iterator[_Place]:
    """The place of every tensor of a model, layer by layer."""
    specs = param_specs(config)
    for ours in specs:
        if ours != "layers":
            yield _Place(families.global_name(ours), ours, None, ours == "head")
    for layer in range(config.num_layers):
        for ours, spec in specs["layers"].items():
            yield _Place(families.layer_name(ours, layer), ours, layer, len(spec.shape) == 3)


def _check_params(lm: LanguageModel) -> None:
    """Raises ValueError unless the tree and its shapes are those of the config."""

    def by_path(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, ArraySpec))
        return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}

    found, expected = by_path(lm.params), by_path(param_specs(lm.config))
    for path in sorted(found.keys() | expected.keys()):
        if found.get(path) != expected.get(path):
            raise ValueError(f"params {path}: shape is {found.get(path)}, the config expects {expected.get(path)}")


def _write_weights(folder: Path, lm: LanguageModel, dtype: np.dtype, max_shard_bytes: int) -> None:
    """Writes model.safetensors, or numbered shards and their index. One shard at a time is in memory."""
    from safetensors.numpy import save_file

    shards: list[list[_Place]] = [[]]
    size = total = 0
    for place in _places(lm.config):
        stacked = lm.params[place.ours] if place.layer is None else lm.params["layers"][place.ours]
        nbytes = stacked.size // (1 if place.layer is None else lm.config.num_layers) * dtype.itemsize
        if shards[-1] and size + nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(place)
        size, total = size + nbytes, total + nbytes
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = _SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for place in shard:
            tensor = np.asarray(place.of(lm.params)).astype(dtype)
            tensors[place.name] = np.ascontiguousarray(tensor.T if place.flip else tensor)
            weight_map[place.name] = file
        save_file(tensors, folder / file, metadata={"format": "pt"})  # transformers reads no file without it
    if len(shards) > 1:
        _write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
