"""Encoders as Hugging Face writes them: config fields, labels and weight names, translated into ours.

The rule for a config field is that of the decoders: translated, or known to be harmless, or refused with its name, the
value found and what is supported. Nothing here opens a file.
"""

import copy
import dataclasses
import re
from typing import Any, NamedTuple

from rr_jax.models.encoders.encoder import ACTIVATIONS, EncoderConfig, param_shapes
from rr_jax.models.families.common import refuse


@dataclasses.dataclass(frozen=True)
class Family:
    """What Hugging Face calls things in one family.

    Attributes:
      classes: prefix of its class names, such as "Bert" in BertConfig and BertForSequenceClassification.
      prefix: prefix of the weight names of an encoder that is part of a classifier.
      layers: path of the list of layers.
      modules: our name of each module of a layer -> its path.
      head: paths of the two layers of the classification head.
      head_activation: between them.
      padded_positions: as in `EncoderConfig`.
    """

    classes: str
    prefix: str
    layers: str
    modules: dict[str, str]
    head: tuple[str, str]
    head_activation: str = "tanh"
    padded_positions: bool = False


_BERT_MODULES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "attn_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
_DISTILBERT_MODULES = {
    "q": "attention.q_lin",
    "k": "attention.k_lin",
    "v": "attention.v_lin",
    "o": "attention.out_lin",
    "attn_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "mlp_norm": "output_layer_norm",
}
_ROBERTA = Family(
    "Roberta",
    "roberta",
    "encoder.layer",
    _BERT_MODULES,
    ("classifier.dense", "classifier.out_proj"),
    padded_positions=True,
)
FAMILIES: dict[str, Family] = {  # by model_type
    "bert": Family("Bert", "bert", "encoder.layer", _BERT_MODULES, ("pooler.dense", "classifier")),
    "roberta": _ROBERTA,
    "xlm-roberta": dataclasses.replace(_ROBERTA, classes="XLMRoberta"),
    "distilbert": Family(
        "DistilBert",
        "distilbert",
        "transformer.layer",
        _DISTILBERT_MODULES,
        ("pre_classifier", "classifier"),
        head_activation="relu",
    ),
}

# The labels of the Jigsaw 2018 competition in the names that Detoxify gives them, so that all its models agree.
_DETOXIFY_NAMES = {"toxic": "toxicity", "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}
_JIGSAW = {*_DETOXIFY_NAMES, "obscene", "threat", "insult"}
_DETOXIFY = {"toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat"}

_TRANSLATED = {
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "dim",
    "num_hidden_layers",
    "n_layers",
    "num_attention_heads",
    "n_heads",
    "intermediate_size",
    "hidden_dim",
    "hidden_act",
    "activation",
    "layer_norm_eps",
    "max_position_embeddings",
    "type_vocab_size",
    "pad_token_id",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
}
# Dropout, initialisation, metadata, and the way other software computes the same thing. Sinusoidal positions of
# DistilBERT are in its weights like learned ones.
_HARMLESS = {
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "dropout",
    "attention_dropout",
    "qa_dropout",
    "seq_classif_dropout",
    "initializer_range",
    "sinusoidal_pos_embds",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "use_cache",
    "chunk_size_feed_forward",
    "pooler_num_attention_heads",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
}
_ONLY: dict[str, Any] = {"position_embedding_type": "absolute", "pruned_heads": {}, "quantization_config": None}
# A field that the Hugging Face class does not know is refused when it is switched on and its name says it computes.
_COMPUTES = re.compile("position|rope|rotary|attn|attention|norm|scal|bias|window|(^|_)act|expert|adapter")


def config_from_hf(hf: dict[str, Any]) -> EncoderConfig:
    """EncoderConfig of a parsed config.json.

    Raises:
      ValueError: the model type or architecture is not supported (listing those that are), or a field is not.
    """
    family = FAMILIES.get(str(hf.get("model_type")))
    if family is None:
        refuse("model_type", hf.get("model_type"), ", ".join(FAMILIES))
    fields = _read_fields(hf, f"{family.classes}Config")
    labels = _labels(hf, family, fields)
    return EncoderConfig(
        family=hf["model_type"],
        vocab_size=_positive(fields, "vocab_size"),
        embed_dim=_positive(fields, "dim", "hidden_size"),
        num_layers=_positive(fields, "n_layers", "num_hidden_layers"),
        num_heads=_positive(fields, "n_heads", "num_attention_heads"),
        ffn_dim=_positive(fields, "hidden_dim", "intermediate_size"),
        norm_eps=float(fields.get("layer_norm_eps", 1e-12)),  # DistilBERT has no such field
        activation=_activation(fields),
        max_positions=_positive(fields, "max_position_embeddings"),
        type_vocab_size=fields.get("type_vocab_size", 0),
        pad_token_id=_pad(fields, family),
        padded_positions=family.padded_positions,
        head_activation=family.head_activation,
        labels=labels,
        multi_label=_multi_label(fields, labels),
    )


class Place(NamedTuple):
    """Where a weight lives in the parameter tree, and whether it is transposed in the file."""

    ours: str
    layer: int | None
    flip: bool

    def of(self, params: dict[str, Any]) -> Any:
        """The array, or its slice of one layer."""
        return params[self.ours] if self.layer is None else params["layers"][self.ours][self.layer]


def places(config: EncoderConfig) -> dict[str, Place]:
    """The place of every weight of an encoder, by its plain name (see `plain_name`)."""
    family = FAMILIES[config.family]
    dense, head = family.head
    outside = {
        "embed": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "types": "embeddings.token_type_embeddings",
        "embed_norm": "embeddings.LayerNorm",
        "dense": dense,
        "head": head,
    }
    shapes = param_shapes(config)
    found = {}
    for ours in shapes:
        if ours != "layers":
            found[_with_kind(ours, outside)] = Place(ours, None, ours in ("dense", "head"))
    for layer in range(config.num_layers):
        for ours, shape in shapes["layers"].items():
            name = f"{family.layers}.{layer}.{_with_kind(ours, family.modules)}"
            found[name] = Place(ours, layer, len(shape) == 3)
    return found


def plain_name(name: str, config: EncoderConfig) -> str:
    """A weight's name without what differs between files of the same model.

    That is the prefix of a training framework ("model." in checkpoints of Detoxify's trainer), the prefix of the
    encoder within a classifier ("bert."), and "gamma" and "beta" in norms of the first BERT release.
    """
    name = re.sub(rf"^((model|module)\.)*({FAMILIES[config.family].prefix}\.)?", "", name)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def is_unused(plain: str, config: EncoderConfig) -> bool:
    """Whether a weight without a place is known to be of no use: a stored range of positions, a pooler or a head of
    pretraining that this model does not compute with."""
    if re.fullmatch(r"embeddings\.(position_ids|token_type_ids)|pooler\.dense\.(weight|bias)", plain):
        return True
    return not config.labels and re.match(r"(cls|lm_head|vocab_(transform|layer_norm|projector))\.", plain) is not None


def _with_kind(ours: str, modules: dict[str, str]) -> str:
    module = ours.removesuffix("_bias")
    return f"{modules[module]}.{'weight' if module == ours else 'bias'}"


def _read_fields(hf: dict[str, Any], class_name: str) -> dict[str, Any]:
    """The fields that a class reads, with its defaults filled in, after a check that nothing is passed over."""
    import transformers  # here because it takes seconds to import

    config_class = getattr(transformers, class_name)
    defaults = config_class().to_dict()
    for field, found in hf.items():
        if field in _TRANSLATED or field in _HARMLESS:
            continue
        if field in _ONLY:
            if found not in (None, _ONLY[field]):
                refuse(field, found, f"only {_ONLY[field]!r}")
        elif field in defaults:
            if found != defaults[field]:
                refuse(field, found, f"only {defaults[field]!r}")
        elif found not in (None, False) and _COMPUTES.search(field):
            refuse(field, found, f"no such field in {class_name}")
    try:
        fields: dict[str, Any] = config_class.from_dict(copy.deepcopy(hf)).to_dict()
    except Exception as error:  # the strict config classes raise their own types, which are no ValueErrors
        raise ValueError(f"config.json is not a valid {class_name}: {' '.join(str(error).split())}") from error
    return {field: fields[field] for field in defaults}


def _labels(hf: dict[str, Any], family: Family, fields: dict[str, Any]) -> tuple[str, ...]:
    """The labels of a classifier in order, () for an architecture that is read for its states alone."""
    headless = [f"{family.classes}{kind}" for kind in ("Model", "ForMaskedLM", "ForPreTraining")]
    classifier = f"{family.classes}ForSequenceClassification"
    architectures = hf.get("architectures")
    if architectures in [[name] for name in headless]:
        return ()
    if architectures != [classifier]:
        refuse("architectures", architectures, ", ".join([classifier, *headless]))
    named = {int(number): name for number, name in fields["id2label"].items()}
    labels = tuple(str(named[number]) for number in sorted(named))
    if not labels or sorted(named) != list(range(len(named))) or len(set(labels)) != len(labels):
        refuse("id2label", fields["id2label"], "different labels numbered from 0")
    return tuple(_DETOXIFY_NAMES.get(label, label) for label in labels) if set(labels) == _JIGSAW else labels


def _multi_label(fields: dict[str, Any], labels: tuple[str, ...]) -> bool:
    """As the text-classification pipeline of transformers decides; Detoxify's labels are never exclusive."""
    problem = fields["problem_type"]
    if not labels:
        return False
    if problem is None:
        return len(labels) == 1 or set(labels) >= _DETOXIFY
    if problem not in ("single_label_classification", "multi_label_classification"):
        refuse("problem_type", problem, "single_label_classification, multi_label_classification")
    return bool(problem == "multi_label_classification")


def _positive(fields: dict[str, Any], *names: str) -> int:
    field = next(name for name in names if name in fields)
    if fields[field] < 1:
        refuse(field, fields[field], "a positive integer")
    return int(fields[field])


def _activation(fields: dict[str, Any]) -> str:
    field = "activation" if "activation" in fields else "hidden_act"
    if fields[field] not in ACTIVATIONS:
        refuse(field, fields[field], ", ".join(ACTIVATIONS))
    return str(fields[field])


def _pad(fields: dict[str, Any], family: Family) -> int:
    pad = fields["pad_token_id"]
    if pad is None and not family.padded_positions:
        return 0  # any id will do: padding is masked
    if pad is None or not 0 <= pad < fields["vocab_size"]:
        refuse("pad_token_id", pad, f"0 to {fields['vocab_size'] - 1}")
    return int(pad)
