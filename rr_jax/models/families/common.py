"""What every family reads and writes alike: Hugging Face config fields and weight names.

The rule for a config field is that nothing that would change the computation is passed over in silence. A field is
translated, or known to be harmless, or refused with its name, the value found and what is supported. Nothing here
opens a file.
"""

import copy
import re
from typing import Any, NoReturn

from rr_jax.models.config import ModelConfig, RopeScaling

# Translated into ModelConfig by `base_config`, or checked there.
_TRANSLATED = {
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "tie_word_embeddings",
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "quantization_config",
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
    "attention_dropout",
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
# A field that the Hugging Face class does not know is refused when it is switched on and its name says it computes.
_COMPUTES = re.compile(
    "rope|rotary|attn|attention|norm|scale|scaling|multiplier|bias|window|cap|clip|qkv|act|logit|expert|moe|layer_types"
)
_ROPE_KEYS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
}
_ROPE_ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}

_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")

_GLOBAL_NAMES = {"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
}


def global_name(ours: str) -> str:
    """The Hugging Face name of an array outside the layers ("embed", "final_norm" or "head")."""
    return _GLOBAL_NAMES[ours]


def layer_name(ours: str, layer: int) -> str:
    """The Hugging Face name of one layer's slice of an array of `params["layers"]`."""
    return f"model.layers.{layer}.{_LAYER_NAMES[ours]}"


def refuse(field: str, found: Any, supported: str) -> NoReturn:
    """Raises the one error that all unsupported config fields get."""
    raise ValueError(f"config.json: {field} is {found!r}, supported: {supported}")


def read_fields(hf: dict[str, Any], class_name: str, own_fields: set[str]) -> dict[str, Any]:
    """The fields of a config.json with the defaults of its Hugging Face class filled in.

    Args:
      hf: config.json as parsed.
      class_name: the config class in `transformers`, such as "LlamaConfig".
      own_fields: fields that the family translates or checks itself, beside those all families share.

    Raises:
      ValueError: a field changes the computation in a way that is not implemented, or has a wrong type.
    """
    import transformers  # here because it takes seconds to import

    _check_rope(hf)
    if hf.get("quantization_config") is not None:
        refuse("quantization_config", hf["quantization_config"], "unquantised weights only")
    config_class = getattr(transformers, class_name)
    defaults = config_class().to_dict()
    for field, found in hf.items():
        if field in _TRANSLATED or field in _HARMLESS or field in own_fields:
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
    if fields["hidden_act"] != "silu":
        refuse("hidden_act", fields["hidden_act"], "'silu'")
    return fields


def base_config(fields: dict[str, Any], family: str, **specific: Any) -> ModelConfig:
    """The ModelConfig of what all families share, with `specific` fields added.

    Args:
      fields: as returned by `read_fields`.
    """
    for field in (*_SIZES, "intermediate_size", "max_position_embeddings"):
        if fields[field] < 1:
            refuse(field, fields[field], "a positive integer")
    eos = fields.get("eos_token_id")
    return ModelConfig(
        family=family,
        vocab_size=fields["vocab_size"],
        embed_dim=fields["hidden_size"],
        num_layers=fields["num_hidden_layers"],
        num_heads=fields["num_attention_heads"],
        num_kv_heads=fields["num_key_value_heads"],
        head_dim=fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"],
        ffn_dim=fields["intermediate_size"],
        norm_eps=float(fields["rms_norm_eps"]),
        rope_theta=float(fields["rope_parameters"]["rope_theta"]),
        rope_scaling=_rope_scaling(fields["rope_parameters"]),
        tied_embeddings=fields["tie_word_embeddings"],
        max_positions=fields["max_position_embeddings"],
        bos_token_id=fields.get("bos_token_id"),
        eos_token_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        **specific,
    )


def base_fields(config: ModelConfig, architecture: str, **specific: Any) -> dict[str, Any]:
    """config.json of what all families share, with `specific` fields added. The inverse of `base_config`.

    Rotary parameters are written as transformers 5 reads them and, beside that, as version 4 and other readers do.
    """
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope["low_freq_factor"] = scaling.low_freq_factor
            rope["high_freq_factor"] = scaling.high_freq_factor
            rope["original_max_position_embeddings"] = scaling.original_max_positions
    eos: Any = list(config.eos_token_ids)
    return {
        "architectures": [architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else rope,
        "tie_word_embeddings": config.tied_embeddings,
        "max_position_embeddings": config.max_positions,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": None if not eos else eos[0] if len(eos) == 1 else eos,
        **specific,
    }


def uniform_window(fields: dict[str, Any]) -> int | None:
    """The sliding window of a config with `layer_types`, which must be the same for all layers.

    Raises:
      ValueError: some layers slide and others do not, or a layer is of another kind.
    """
    kinds = sorted(set(fields["layer_types"]))
    if kinds == ["full_attention"]:
        return None
    if kinds == ["sliding_attention"]:
        return _checked_window(fields["sliding_window"])
    refuse("layer_types", kinds, "one kind for all layers, 'full_attention' or 'sliding_attention'")


def window_fields(config: ModelConfig) -> dict[str, Any]:
    """The fields that `uniform_window` reads back as `config.sliding_window`."""
    slides = config.sliding_window is not None
    return {
        "use_sliding_window": slides,
        "sliding_window": config.sliding_window,
        "max_window_layers": 0 if slides else config.num_layers,
        "layer_types": ["sliding_attention" if slides else "full_attention"] * config.num_layers,
    }


def _checked_window(window: Any) -> int:
    if not isinstance(window, int) or window < 1:
        refuse("sliding_window", window, "a positive integer when the layers slide")
    return int(window)


def _check_rope(hf: dict[str, Any]) -> None:
    """Refuses rotary parameters that are not implemented, in either spelling."""
    if hf.get("partial_rotary_factor") not in (None, 1, 1.0):
        refuse("partial_rotary_factor", hf["partial_rotary_factor"], "1.0")
    for field in ("rope_scaling", "rope_parameters"):
        rope = hf.get(field)
        if rope is None:
            continue
        if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
            refuse(field, rope, "one flat object for all layers")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in _ROPE_KEYS:
            refuse(f"{field}.rope_type", kind, ", ".join(map(repr, _ROPE_KEYS)))
        for key in sorted(_ROPE_KEYS[kind] - set(rope)):
            refuse(f"{field}.{key}", None, f"a number, which rope_type {kind!r} needs")
        for key in sorted(set(rope) - _ROPE_KEYS[kind] - _ROPE_ALWAYS):
            if rope[key] is not None:
                refuse(f"{field}.{key}", rope[key], f"not with rope_type {kind!r}")
        if rope.get("partial_rotary_factor") not in (None, 1, 1.0):
            refuse(f"{field}.partial_rotary_factor", rope["partial_rotary_factor"], "1.0")


def _rope_scaling(rope: dict[str, Any]) -> RopeScaling | None:
    """The scaling of parameters that `_check_rope` accepted and the Hugging Face class completed."""
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
