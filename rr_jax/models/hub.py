"""Loads and saves Hugging Face folders: config, tokenizer and weights, safetensors only.

Reading the weights is left to `reading`, so loading needs the memory of the model and of one stacked array more. Saving
writes beside the folder and moves it into place at the end. No code that comes with a model is run.
"""

import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.models import families, weights
from rr_jax.models.config import ModelConfig
from rr_jax.models.families import Tensor
from rr_jax.models.reading import Layout, Progress, Shardings, part_shapes, read_params
from rr_jax.models.spec import ArraySpec, Params, param_specs

DTYPES = ("float32", "bfloat16", "float16")

_HUB_PATTERNS = ["*.json", "model*.safetensors", "tokenizer*", "*.model", "vocab*", "merges.txt", "*.jinja"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_TOKENS = ("bos_token_id", "eos_token_id")
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# Rotary tables and causal masks that old checkpoints hold as if they were weights.
_BUFFERS = re.compile(r"rotary_emb\.inv_freq$|attn\.(masked_)?bias$|attention\.(masked_)?bias$")


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """Holds a model as loaded.

    Attributes:
      config: static description.
      params: the tree that `spec.param_specs(config)` describes.
      tokenizer: a transformers tokenizer, or None if the folder has none.
      chat: whether prompts are messages of a user, to be put into the tokenizer's chat template.
    """

    config: ModelConfig
    params: Params
    tokenizer: Any = None
    chat: bool = False


def load(
    source: str | os.PathLike[str],
    dtype: str = "float32",
    revision: str | None = None,
    chat: bool | None = False,
    shardings: Shardings | None = None,
    progress: Progress | None = None,
) -> LanguageModel:
    """Loads a causal language model from a folder or from the Hugging Face hub.

    Args:
      source: a folder, or a hub id such as "HuggingFaceTB/SmolLM2-135M".
      dtype: of the weights in memory, one of `DTYPES`.
      revision: branch, tag or commit on the hub; not used for a folder.
      chat: whether prompts are a user's messages in the tokenizer's chat template; None: where it has one.
      shardings: from an array's spec (shape and named axes) to where it is to lie; each device's block is read by
        itself. By default all arrays lie whole on the default device.
      progress: called with (kinds of weights read, kinds in all) after each one.

    Raises:
      ValueError: whatever is wrong with the folder, naming the file, field or tensor, what was found and what was
        expected.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    folder = model_folder(source, revision)
    config = read_config(folder)
    tokenizer = read_tokenizer(folder, config.vocab_size)
    template = getattr(tokenizer, "chat_template", None)
    if chat and template is None:
        raise ValueError(f"chat is on, but the tokenizer of {source} has no chat template")
    chat = template is not None if chat is None else chat
    config = _with_the_head_of_its_files(folder, config)
    params = read_params(folder, _layout(config), jnp.dtype(dtype), shardings, progress)
    return LanguageModel(config, params, tokenizer, chat)


def save(
    lm: LanguageModel,
    folder: str | os.PathLike[str],
    dtype: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
    generation: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> None:
    """Writes a folder that transformers (and `load`) reads. Either all of it is there at the end, or none of it.

    Args:
      lm: the tokenizer is written if there is one.
      folder: must not exist or be empty.
      dtype: of the weights in the file, one of `DTYPES`; by default that of the embeddings in memory.
      max_shard_bytes: weights beyond this go to further files, with an index. One tensor is never split.
      generation: the fields of generation_config.json, such as `read_generation` gives of the model that this one was made
        of; the special tokens are those of the config.
      card: text of a README.md.

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
    pad = getattr(lm.tokenizer, "pad_token_id", None)
    config = {**families.config_to_hf(lm.config), "dtype": name, "pad_token_id": pad}
    tokens = {key: config[key] for key in (*_TOKENS, "pad_token_id") if config[key] is not None}
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _write_json(partial / "config.json", config)
        _write_json(partial / "generation_config.json", {**(generation or {}), **tokens})
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
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
    """Reads the ModelConfig of a folder. End-of-text ids come from generation_config.json where that lists them."""
    hf = weights.read_json(folder / "config.json")
    found = read_generation(folder)
    return families.config_from_hf(hf | {key: found[key] for key in _TOKENS if found.get(key) is not None})


def read_generation(folder: Path) -> dict[str, Any]:
    """Returns what generation_config.json says, such as a temperature or a repetition penalty; nothing where there is none.

    It is for export: generation here goes by its own arguments, and of these fields takes the special tokens alone.
    """
    path = folder / "generation_config.json"
    return weights.read_json(path) if path.is_file() else {}


def model_folder(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Returns the local folder of `source`, downloaded if it is a hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{path} is a file; expected a folder with config.json and model.safetensors")
    if not _HUB_ID.fullmatch(str(source)):
        raise ValueError(f"there is no folder {source}, and it cannot be a hub id, which is OWNER/NAME or NAME")
    import huggingface_hub  # here because a local folder does not need it

    try:
        found = huggingface_hub.snapshot_download(str(source), revision=revision, allow_patterns=_HUB_PATTERNS)
    except Exception as error:  # whatever the network, the hub or its cache raises, the answer is the same
        reason = " ".join(str(error).split())
        raise ValueError(f"no folder named {source}, and the hub could not provide it: {reason}") from error
    return Path(found)


def read_tokenizer(folder: Path, vocab_size: int) -> Any:
    """Reads the tokenizer of a folder, or None if there is none.

    Raises:
      ValueError: it cannot be read, or has ids that the model's vocabulary has not.
    """
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


def _with_the_head_of_its_files(folder: Path, config: ModelConfig) -> ModelConfig:
    """Returns the config, untied where the files hold a head that is not the embeddings: it is used, as transformers does.

    Old exports of tied embeddings carry a copy of them; only a head that is equal is passed over.

    Raises:
      ValueError: that head has a name that the family does not know.
    """
    if not config.tied_embeddings:
        return config
    layout, heads = _layout(config), families.head_names(config)
    (embed,) = (tensor.name for tensor in layout.tensors if tensor.parts == ("embed",))
    with weights.opened(folder) as files:
        by_plain = {layout.plain_name(name): name for name in files.names}
        embeddings = by_plain.get(layout.plain_name(embed))
        for head in {*heads, "lm_head.weight"} & by_plain.keys():
            if embeddings is None or _same(files.read(by_plain[head]), files.read(embeddings)):
                continue
            if head not in heads:
                raise ValueError(
                    f"{folder} holds {head}, which differs from the embeddings that config.json ties the head to, "
                    f"expected {' or '.join(heads)}, or no head"
                )
            return dataclasses.replace(config, tied_embeddings=False)
    return config


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Returns whether two arrays are equal in the coarser of their dtypes."""
    coarser = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    with np.errstate(over="ignore"):
        return np.array_equal(one.astype(coarser), other.astype(coarser))


def _layout(config: ModelConfig) -> Layout:
    """Returns what the files of a model of this config are expected to hold."""
    tensors, prefix = families.model_tensors(config), families.base_prefix(config)
    # old exports of tied embeddings carry a copy of them
    copies = {*families.head_names(config), "lm_head.weight"} if config.tied_embeddings else frozenset[str]()
    return Layout(
        kind=f"{config.family} model",
        specs=param_specs(config),
        tensors=tensors,
        head_dim=config.head_dim,
        plain_name=lambda name: name.removeprefix(prefix),  # files of the bare base model leave it out
        unused=lambda plain: bool(_BUFFERS.search(plain)) or plain in copies,
    )


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
    ordered = [
        (tensor, layer)
        for tensor in families.model_tensors(lm.config)
        for layer in range(lm.config.num_layers if tensor.layered else 1)
    ]
    ordered.sort(key=lambda entry: (entry[0].layered, entry[1]))  # layer by layer, as they are used

    def whole(tensor: Tensor, layer: int) -> np.ndarray:
        arrays = [lm.params["layers"][p][layer] if tensor.layered else lm.params[p] for p in tensor.parts]
        return tensor.join([np.asarray(array).astype(dtype) for array in arrays], lm.config.head_dim)

    specs = param_specs(lm.config)
    sizes = [math.prod(tensor.file_shape(part_shapes(tensor, specs))) * dtype.itemsize for tensor, _ in ordered]
    weights.write(
        folder,
        [(tensor.name.format(layer), partial(whole, tensor, layer)) for tensor, layer in ordered],
        sizes,
        max_shard_bytes,
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
