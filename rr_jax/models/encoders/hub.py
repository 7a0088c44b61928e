"""Loads encoders from Hugging Face folders: classifiers and sentence encoders, safetensors only.

Weights are read one tensor at a time, after all names were checked. What Hugging Face calls things is in
`encoder_names`; this file opens files and knows no names of weights.
"""

import dataclasses
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.models import hub, weights
from rr_jax.models.encoders.encoder import EncoderConfig, param_shapes
from rr_jax.models.encoders.names import config_from_hf, is_unused, places, plain_name

_CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    "s = torch.load(sys.argv[1], map_location='cpu', weights_only=True); s = s.get('state_dict', s); "
    "save_file({k: v.contiguous().clone() for k, v in s.items()}, sys.argv[2])"
)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder as loaded.

    Attributes:
      config: static description; `config.labels` is () without a classification head.
      params: the tree that `encoder.param_shapes(config)` describes, float32.
      tokenizer: a transformers tokenizer, or None if the folder has none.
    """

    config: EncoderConfig
    params: dict[str, Any]
    tokenizer: Any = None


def load_encoder(source: str | os.PathLike[str], revision: str | None = None) -> Encoder:
    """Loads a BERT, RoBERTa, XLM-RoBERTa or DistilBERT classifier or sentence encoder, from a folder or the hub.

    The folder holds config.json, the tokenizer and model.safetensors (or shards with an index). Weights may have the
    names of Hugging Face with or without the encoder's prefix, or those of a state dict of Detoxify: for an official
    Detoxify checkpoint take config.json and the tokenizer of its copy on the hub (unitary/toxic-bert,
    unitary/unbiased-toxic-roberta) and convert the pickle with the command that the error gives.

    Args:
      source: a folder, or a hub id such as "unitary/toxic-bert" or "sentence-transformers/all-MiniLM-L6-v2".
      revision: branch, tag or commit on the hub; not used for a folder.

    Raises:
      ValueError: whatever is wrong with the folder, naming the file, field or tensor, what was found and what was
        expected; a pickle is refused with the command that converts it.
    """
    _refuse_pickle(Path(source).expanduser())
    folder = hub.model_folder(source, revision)
    config = config_from_hf(weights.read_json(folder / "config.json"))
    _check_pooling(folder)
    tokenizer = hub.read_tokenizer(folder, config.vocab_size)
    return Encoder(config, _read_params(folder, config), tokenizer)


def _refuse_pickle(path: Path) -> None:
    """Raises ValueError if `path` is a pickle, or a folder that has pickled weights and no others."""
    beside = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    pickles = [file for file in beside if file.suffix in weights.PICKLES]
    if pickles and not any(file.suffix == ".safetensors" for file in beside):
        pickle = max(pickles, key=lambda file: file.stat().st_size)  # beside weights there may be a trainer's state
        target = pickle.parent / "model.safetensors"
        command = f'python -c "{_CONVERT}" {shlex.quote(str(pickle))} {shlex.quote(str(target))}'
        raise ValueError(
            f"{pickle} is a pickle, which is never opened; convert to safetensors (needs torch): {command}"
        )


def _check_pooling(folder: Path) -> None:
    """Refuses a folder of sentence-transformers whose embedding is not the mean of the states."""
    path = folder / "modules.json"
    if not path.is_file():
        return
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        modules = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in listed]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a list of modules with type and path: {error!r}") from error
    for kind, place in modules:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(f"{path}: a module is {kind}, supported: Transformer, Pooling, Normalize")
        if kind == "Pooling":
            pooling = weights.read_json(folder / place / "config.json")
            modes = [pooling["pooling_mode"]] if "pooling_mode" in pooling else []
            modes += [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on is True]
            if modes not in (["mean"], ["pooling_mode_mean_tokens"]):
                raise ValueError(f"{folder / place / 'config.json'}: pooling is {modes}, supported: the mean of tokens")


def _read_params(folder: Path, config: EncoderConfig) -> dict[str, Any]:
    """Fills the parameter tree tensor by tensor, once the names in the files are those of the config."""
    wanted = places(config)
    with weights.opened(folder) as files:
        found: dict[str, str] = {}  # plain name -> name in the files
        for name in files.names:
            plain = plain_name(name, config)
            if plain in found:
                raise ValueError(f"{folder} holds {name}, the same weight as {found[plain]}: expected one of them")
            if plain in wanted or not is_unused(plain, config):
                found[plain] = name
        kind = f"a {config.family} {'classifier' if config.labels else 'encoder without a head'} of this config"
        extra = [found[plain] for plain in sorted(found.keys() - wanted.keys())]
        if extra:
            raise ValueError(f"{folder} holds {len(extra)} weights that {kind} does not have: {_first_five(extra)}")
        missing = sorted(wanted.keys() - found.keys())
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} of {len(wanted)} weights of {kind}: {_first_five(missing)}"
            )
        arrays: dict[str, Any] = jax.tree.map(
            lambda shape: np.empty(shape, np.float32),
            param_shapes(config),
            is_leaf=lambda leaf: isinstance(leaf, tuple),
        )
        for plain, name in found.items():
            view, flip = wanted[plain].of(arrays), wanted[plain].flip
            files.check(name, view.shape[::-1] if flip else view.shape)
            tensor = files.read(name)
            view[...] = tensor.T if flip else tensor
    return jax.tree.map(jnp.asarray, arrays)


def _first_five(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
