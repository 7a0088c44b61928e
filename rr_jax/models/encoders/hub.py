"""Loads encoders from Hugging Face folders: classifiers and sentence encoders, safetensors only.

What Hugging Face calls things is in `families`, and reading the weights is left to `models.reading`, which decoders use
too: this file opens what stands beside the weights and knows none of their names.
"""

import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from rr_jax.models import hub, weights
from rr_jax.models.encoders.encoder import EncoderConfig, param_specs
from rr_jax.models.encoders.families import config_from_hf, is_unused, model_tensors, plain_names
from rr_jax.models.reading import Layout, Shardings, read_params
from rr_jax.models.spec import Params

_CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    "s = torch.load(sys.argv[1], map_location='cpu', weights_only=True); s = s.get('state_dict', s); "
    "save_file({k: v.contiguous().clone() for k, v in s.items()}, sys.argv[2])"
)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Holds an encoder as loaded.

    Attributes:
      config: static description; `config.labels` is () without a classification head.
      params: the tree that `encoder.param_specs(config)` describes, float32.
      tokenizer: a transformers tokenizer, or None if the folder has none.
    """

    config: EncoderConfig
    params: Params
    tokenizer: Any = None


def load_encoder(
    source: str | os.PathLike[str], revision: str | None = None, shardings: Shardings | None = None
) -> Encoder:
    """Loads a BERT, RoBERTa, XLM-RoBERTa or DistilBERT classifier or sentence encoder, from a folder or the hub.

    The folder holds config.json, the tokenizer and model.safetensors (or shards with an index). Weights may have the
    names of Hugging Face with or without the encoder's prefix, or those of a state dict of Detoxify: for an official
    Detoxify checkpoint take config.json and the tokenizer of its copy on the hub (unitary/toxic-bert,
    unitary/unbiased-toxic-roberta) and convert the pickle with the command that the error gives.

    Args:
      source: a folder, or a hub id such as "unitary/toxic-bert" or "sentence-transformers/all-MiniLM-L6-v2".
      revision: branch, tag or commit on the hub; not used for a folder.
      shardings: from an array's spec (shape and named axes) to where it is to lie, as for `models.hub.load`.

    Raises:
      ValueError: whatever is wrong with the folder, naming the file, field or tensor, what was found and what was
        expected; a pickle is refused with the command that converts it.
    """
    _refuse_pickle(Path(source).expanduser())
    folder = hub.model_folder(source, revision)
    config = config_from_hf(weights.read_json(folder / "config.json"))
    _check_pooling(folder)
    tokenizer = hub.read_tokenizer(folder, config.vocab_size)
    return Encoder(config, read_params(folder, _layout(config), np.dtype(np.float32), shardings), tokenizer)


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
    for kind, subfolder in modules:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(f"{path}: a module is {kind}, supported: Transformer, Pooling, Normalize")
        if kind == "Pooling":
            pooling = weights.read_json(folder / subfolder / "config.json")
            modes = [pooling["pooling_mode"]] if "pooling_mode" in pooling else []
            modes += [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on is True]
            if modes not in (["mean"], ["pooling_mode_mean_tokens"]):
                raise ValueError(
                    f"{folder / subfolder / 'config.json'}: pooling is {modes}, supported: the mean of tokens"
                )


def _layout(config: EncoderConfig) -> Layout:
    """Returns what the files of an encoder of this config are expected to hold."""
    return Layout(
        kind=f"{config.family} {'classifier' if config.labels else 'encoder without a head'}",
        specs=param_specs(config),
        tensors=model_tensors(config),
        head_dim=config.embed_dim // config.num_heads,
        plain_name=plain_names(config),
        unused=lambda plain: is_unused(plain, config),
    )
