"""Reads and writes a Hugging Face config.json, for all families of decoders and encoders alike.

The rule for a field is that nothing that would change the computation is passed over in silence. A field is translated,
or known to be harmless, or refused with its name, the value found and what is supported. Nothing here opens a file.
"""

import copy
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from rr_jax.models.config import ModelConfig, RopeScaling

# Our name of what every config says under some name -> the name most families have for it.
SIZES = {
    "vocab_size": "vocab_size",
    "embed_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "ffn_dim": "intermediate_size",
    "max_positions": "max_position_embeddings",
}
# Translated by `base_config`, or checked there.
_TRANSLATED = {
    *SIZES.values(),
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
}
# Do not change the logits: metadata, initialisation, training, or the way other software computes the same thing.
_HARMLESS = {
    "architectures",
    "model_type",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "initializer_range",
    "use_cache",
    "pad_token_id",
    "pretraining_tp",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_name_or_path",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "problem_type",
    "id2label",
    "label2id",
    "num_labels",
    "task_specific_params",
}
_DROPOUT = re.compile("dropout|pdrop|layerdrop")
# A field that the Hugging Face class does not know is refused when it is switched on and its name says it computes:
# "act" as in activation, not as in factor.
_COMPUTES = re.compile(
    "position|rope|rotary|attn|attention|norm|scal|multiplier|bias|window|cap|clip|qkv|(?<!f)act|logit|expert|moe|"
    "layer_types|adapter"
)
_POSITIVE = re.compile("rope_theta|rotary_emb_base|rope_local_base_freq|^factor$|freq_factor$|query_pre_attn_scalar")
_NOT_NEGATIVE = re.compile("_eps(ilon)?$")
_ROPE_KEYS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
}
_ROPE_ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_WRITTEN_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}


def refuse(field: str, found: Any, supported: str) -> NoReturn:
    """Raises the one error that all unsupported config fields get."""
    raise ValueError(f"config.json: {field} is {found!r}, supported: {supported}")


def read_fields(hf: dict[str, Any], class_name: str, own_fields: set[str]) -> dict[str, Any]:
    """Returns the fields of a decoder's config.json with the defaults of its Hugging Face class filled in.

    Args:
      hf: config.json as parsed.
      class_name: the config class in `transformers`, such as "LlamaConfig".
      own_fields: fields that the family translates, checks or knows to be harmless, beside those all families share.

    Raises:
      ValueError: a field changes the computation in a way that is not implemented, or has a wrong type.
    """
    _check_rope(hf)
    return accepted_fields(hf, class_name, _TRANSLATED | own_fields)


def accepted_fields(hf: dict[str, Any], class_name: str, known: set[str]) -> dict[str, Any]:
    """Returns the fields of a config.json with the defaults of its class filled in, once none is passed over.

    Args:
      hf: config.json as parsed.
      class_name: the config class in `transformers`.
      known: fields that the caller translates, checks or knows to be harmless, beside those that never matter.

    Raises:
      ValueError: another field differs from the default, or is unknown to the class and seems to change the
        computation, or the class refuses it, or the weights are quantised.
    """
    import transformers  # here because it takes seconds to import

    _check_numbers("", hf)
    if hf.get("quantization_config") is not None:
        refuse("quantization_config", hf["quantization_config"], "unquantised weights only")
    config_class = getattr(transformers, class_name)
    defaults = config_class().to_dict()
    for field, found in hf.items():
        if field in known or field in _HARMLESS or _DROPOUT.search(field):
            continue
        if field in defaults:
            if found != defaults[field]:
                refuse(field, found, f"only {defaults[field]!r}")
        elif found not in (None, False) and _COMPUTES.search(field) and not _all_full_attention(field, found):
            refuse(field, found, f"no such field in {class_name}")
    try:
        fields: dict[str, Any] = config_class.from_dict(copy.deepcopy(hf)).to_dict()
    except Exception as error:  # the strict config classes raise their own types, which are no ValueErrors
        raise ValueError(f"config.json is not a valid {class_name}: {_one_line(error)}") from error
    return fields


def _check_numbers(prefix: str, found: Mapping[str, Any]) -> None:
    """Refuses numbers that no model has: NaN and infinity anywhere, and what a norm or a rotation divides by."""
    for field, value in found.items():
        if isinstance(value, dict):
            _check_numbers(f"{prefix}{field}.", value)
        elif isinstance(value, float) and not math.isfinite(value):
            refuse(prefix + field, value, "finite numbers")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if _POSITIVE.search(field) and value <= 0:
                refuse(prefix + field, value, "a positive number")
            if _NOT_NEGATIVE.search(field) and value < 0:
                refuse(prefix + field, value, "a number of at least 0")


def read_sizes(fields: Mapping[str, Any], names: Mapping[str, str] | None = None) -> dict[str, int]:
    """Returns the sizes of a model by our names, those among `SIZES` that it has.

    Args:
      fields: as returned by `accepted_fields`.
      names: our name -> that of the field, where it is not the one in `SIZES`.

    Raises:
      ValueError: a size is below 1.
    """
    called = {**SIZES, **(names or {})}
    sizes: dict[str, int] = {ours: fields[field] for ours, field in called.items() if field in fields}
    for ours, size in sizes.items():
        if size < 1:
            refuse(called[ours], size, "a positive integer")
    return sizes


def base_config(
    fields: dict[str, Any], family: str, *, names: Mapping[str, str] | None = None, **specific: Any
) -> ModelConfig:
    """Returns the ModelConfig of what all families have, with `specific` fields added or put in place of those read.

    Args:
      fields: as returned by `read_fields`.
      names: our name -> that of the field, where it is not the one in `SIZES`. A family without grouped keys has as
        many key heads as heads.
    """
    sizes = read_sizes(fields, names)
    sizes.setdefault("num_kv_heads", sizes["num_heads"])
    eos = fields.get("eos_token_id")
    rope = fields.get("rope_parameters")
    read: dict[str, Any] = {
        "head_dim": fields.get("head_dim") or sizes["embed_dim"] // sizes["num_heads"],
        "tied_embeddings": fields["tie_word_embeddings"],
        "bos_token_id": fields.get("bos_token_id"),
        "eos_token_ids": () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
    }
    if "rms_norm_eps" in fields:
        read["norm_eps"] = float(fields["rms_norm_eps"])
    if rope is not None and "rope_theta" not in specific:
        if any(isinstance(value, dict) for value in rope.values()):
            refuse("rope_parameters", rope, "one object for all layers")
        read |= rope_config(rope, read["head_dim"])
    if "hidden_act" in fields:
        read["activation"] = activation(fields, "hidden_act")
    return ModelConfig(family=family, **{**sizes, **read, **specific})


def base_fields(config: ModelConfig, architecture: str, **specific: Any) -> dict[str, Any]:
    """Returns config.json of what all families of rotary models with RMSNorm write alike. The inverse of `base_config`.

    Rotary parameters are written as transformers 5 reads them and, beside that, as version 4 and other readers do.
    """
    rope = rope_fields(config)
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    return {
        **token_fields(config, architecture),
        **{field: getattr(config, ours) for ours, field in SIZES.items()},
        "head_dim": config.head_dim,
        "hidden_act": _WRITTEN_ACTIVATIONS[config.activation],
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else scaling,
        **specific,
    }


def token_fields(config: ModelConfig, architecture: str) -> dict[str, Any]:
    """Returns the part of config.json that says what the model is, and its special tokens."""
    eos: Any = list(config.eos_token_ids)
    return {
        "architectures": [architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_embeddings,
        "pad_token_id": None,  # else that of the class, which may be beyond the vocabulary
        "bos_token_id": config.bos_token_id,
        "eos_token_id": None if not eos else eos[0] if len(eos) == 1 else eos,
    }


def activation(fields: dict[str, Any], field: str) -> str:
    """Returns our name of an activation function."""
    found = fields[field]
    if found not in _ACTIVATIONS:
        refuse(field, found, ", ".join(map(repr, _ACTIVATIONS)))
    return _ACTIVATIONS[found]


def written_activation(config: ModelConfig) -> str:
    """Returns the Hugging Face name of the config's activation function."""
    return _WRITTEN_ACTIVATIONS[config.activation]


def rope_config(rope: dict[str, Any], head_dim: int) -> dict[str, Any]:
    """Returns our rotary fields from parameters that were accepted and that the Hugging Face class completed."""
    share = rope.get("partial_rotary_factor")
    dim = head_dim if share is None else int(head_dim * share)
    return {
        "rope_theta": float(rope["rope_theta"]),
        "rope_scaling": _rope_scaling(rope),
        "rotary_dim": None if dim == head_dim else dim,
    }


def rope_fields(config: ModelConfig) -> dict[str, Any]:
    """Returns rotary parameters in the spelling of transformers 5."""
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope["low_freq_factor"] = scaling.low_freq_factor
            rope["high_freq_factor"] = scaling.high_freq_factor
            rope["original_max_position_embeddings"] = scaling.original_max_positions
    if config.rotary_dim is not None:
        rope["partial_rotary_factor"] = config.rotary_dim / config.head_dim
    return {**rope, "rope_theta": config.rope_theta}


def windows(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns `sliding_window` and `sliding_layers` from "layer_types" and "sliding_window".

    Raises:
      ValueError: a layer is of a kind that is not implemented, or slides without a window.
    """
    kinds = fields["layer_types"]
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            refuse("layer_types", sorted(set(kinds)), "'full_attention' and 'sliding_attention'")
    slides = tuple(kind == "sliding_attention" for kind in kinds)
    if not any(slides):
        return {"sliding_window": None, "sliding_layers": None}
    window = fields["sliding_window"]
    if not isinstance(window, int) or window < 1:
        refuse("sliding_window", window, "a positive integer when layers slide")
    return {"sliding_window": window, "sliding_layers": None if all(slides) else slides}


def uniform_window(fields: dict[str, Any]) -> int | None:
    """Returns the window of a family whose layers all have the same."""
    window = fields["sliding_window"]
    if window is not None and (not isinstance(window, int) or window < 1):
        refuse("sliding_window", window, "null or a positive integer")
    return window


def window_fields(config: ModelConfig) -> dict[str, Any]:
    """Returns the fields that `windows` reads back."""
    slides = config.sliding_layers or (config.sliding_window is not None,) * config.num_layers
    kinds = ["sliding_attention" if one else "full_attention" for one in slides]
    return {"sliding_window": config.sliding_window, "layer_types": kinds}


def _check_rope(hf: dict[str, Any]) -> None:
    """Refuses rotary parameters that are not implemented, in either spelling, for all layers or by kind of layer."""
    for field in ("rope_scaling", "rope_parameters"):
        rope = hf.get(field)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            refuse(field, rope, "an object")
        if any(isinstance(value, dict) for value in rope.values()):
            for kind, part in rope.items():
                if not isinstance(part, dict) or kind not in ("full_attention", "sliding_attention"):
                    refuse(field, rope, "one object, or one for 'full_attention' and one for 'sliding_attention'")
                _check_rope_object(f"{field}.{kind}", part)
        else:
            _check_rope_object(field, rope)


def _check_rope_object(field: str, rope: dict[str, Any]) -> None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in _ROPE_KEYS:
        refuse(f"{field}.rope_type", kind, ", ".join(map(repr, _ROPE_KEYS)))
    for key in sorted(_ROPE_KEYS[kind] - set(rope)):
        refuse(f"{field}.{key}", None, f"a number, which rope_type {kind!r} needs")
    for key in sorted(set(rope) - _ROPE_KEYS[kind] - _ROPE_ALWAYS):
        if rope[key] is not None:
            refuse(f"{field}.{key}", rope[key], f"not with rope_type {kind!r}")


def whole_rotary(fields: dict[str, Any]) -> None:
    """Refuses a share of rotated entries, for families whose Hugging Face code rotates whole heads and would pass over
    it."""
    for prefix, found in (("", fields), ("rope_parameters.", fields.get("rope_parameters") or {})):
        share = found.get("partial_rotary_factor")
        if share not in (None, 1, 1.0):
            refuse(f"{prefix}partial_rotary_factor", share, "1.0")


def _rope_scaling(rope: dict[str, Any]) -> RopeScaling | None:
    """Returns the scaling of parameters that `_check_rope` accepted and the Hugging Face class completed."""
    kind = rope["rope_type"]
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind=kind, factor=float(rope["factor"]))
    return RopeScaling(
        kind=kind,
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_positions=rope["original_max_position_embeddings"],
    )


def _all_full_attention(field: str, found: Any) -> bool:
    return field == "layer_types" and isinstance(found, list) and set(found) == {"full_attention"}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
