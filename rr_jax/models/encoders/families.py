"""Describes the families of encoders: config fields, labels and weight names of Hugging Face, translated into ours.

Fields follow the rule of the decoders' families, and weights the same `Tensor` tables: a family of encoders is data
alone, because one forward pass serves all. Nothing here opens a file.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from rr_jax.models.encoders.encoder import EncoderConfig, param_specs
from rr_jax.models.families import common
from rr_jax.models.families.common import refuse
from rr_jax.models.families.tensors import Tensor, linear, norm, present_tensors
from rr_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Family:
    """Says what Hugging Face calls things in one family.

    Attributes:
      classes: prefix of its class names, such as "Bert" in BertConfig and BertForSequenceClassification.
      prefix: prefix of the weight names of an encoder that is part of a classifier.
      tensors: all that a classifier of the family may have, without that prefix.
      names: our name of a size -> that of the field, where it is not the one in `common.SIZES`.
      activation: the field of the activation function.
      norm_eps: where the Hugging Face code has it fixed; None: a field of the config.
      head_activation: between the two layers of the classification head.
      padded_positions: as in `EncoderConfig`.
    """

    classes: str
    prefix: str
    tensors: tuple[Tensor, ...]
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    activation: str = "hidden_act"
    norm_eps: float | None = None
    head_activation: str = "tanh"
    padded_positions: bool = False


_EMBEDDINGS = (
    Tensor("embeddings.word_embeddings.weight", ("embed",)),
    Tensor("embeddings.position_embeddings.weight", ("positions",)),
    *norm("embeddings.LayerNorm", "embed_norm"),
)
_BERT_BODY = (
    *_EMBEDDINGS,
    Tensor("embeddings.token_type_embeddings.weight", ("types",)),
    *linear("encoder.layer.{}.attention.self.query", "q"),
    *linear("encoder.layer.{}.attention.self.key", "k"),
    *linear("encoder.layer.{}.attention.self.value", "v"),
    *linear("encoder.layer.{}.attention.output.dense", "o"),
    *norm("encoder.layer.{}.attention.output.LayerNorm", "attn_norm"),
    *linear("encoder.layer.{}.intermediate.dense", "up"),
    *linear("encoder.layer.{}.output.dense", "down"),
    *norm("encoder.layer.{}.output.LayerNorm", "mlp_norm"),
)
BERT = Family("Bert", "bert", (*_BERT_BODY, *linear("pooler.dense", "dense"), *linear("classifier", "head")))
ROBERTA = Family(
    "Roberta",
    "roberta",
    (*_BERT_BODY, *linear("classifier.dense", "dense"), *linear("classifier.out_proj", "head")),
    padded_positions=True,
)
XLM_ROBERTA = dataclasses.replace(ROBERTA, classes="XLMRoberta")
DISTILBERT = Family(
    "DistilBert",
    "distilbert",
    (
        *_EMBEDDINGS,
        *linear("transformer.layer.{}.attention.q_lin", "q"),
        *linear("transformer.layer.{}.attention.k_lin", "k"),
        *linear("transformer.layer.{}.attention.v_lin", "v"),
        *linear("transformer.layer.{}.attention.out_lin", "o"),
        *norm("transformer.layer.{}.sa_layer_norm", "attn_norm"),
        *linear("transformer.layer.{}.ffn.lin1", "up"),
        *linear("transformer.layer.{}.ffn.lin2", "down"),
        *norm("transformer.layer.{}.output_layer_norm", "mlp_norm"),
        *linear("pre_classifier", "dense"),
        *linear("classifier", "head"),
    ),
    names={"embed_dim": "dim", "num_layers": "n_layers", "num_heads": "n_heads", "ffn_dim": "hidden_dim"},
    activation="activation",
    norm_eps=1e-12,
    head_activation="relu",
)
_NAMES = {"bert": "BERT", "roberta": "ROBERTA", "xlm-roberta": "XLM_ROBERTA", "distilbert": "DISTILBERT"}
FAMILIES: Registry[Family] = Registry(  # by model_type
    "encoder_family",
    {model_type: f"{__name__}:{name}" for model_type, name in _NAMES.items()},
    [field.name for field in dataclasses.fields(Family)],
    paths=False,
)

# The labels of the Jigsaw 2018 competition in the names that Detoxify gives them, so that all its models agree.
_DETOXIFY_NAMES = {"toxic": "toxicity", "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}
_JIGSAW = {*_DETOXIFY_NAMES, "obscene", "threat", "insult"}
_DETOXIFY = {"toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat"}

# Translated below by all families, beside their sizes and activation.
_TRANSLATED = {"layer_norm_eps", "type_vocab_size"}
# Initialisation, generation, and the way other software computes the same thing. Sinusoidal positions of DistilBERT are
# in its weights like learned ones.
_HARMLESS = {
    *("sinusoidal_pos_embds", "tie_word_embeddings", "bos_token_id", "eos_token_id", "chunk_size_feed_forward"),
    "pooler_num_attention_heads",
}
_ONLY: dict[str, Any] = {"position_embedding_type": "absolute", "pruned_heads": {}}


def config_from_hf(hf: dict[str, Any]) -> EncoderConfig:
    """Translates a parsed config.json.

    Raises:
      ValueError: the model type or architecture is not supported (listing those that are), or a field is not.
    """
    model_type = str(hf.get("model_type"))
    if model_type not in FAMILIES.names():
        refuse("model_type", hf.get("model_type"), FAMILIES.expected())
    family = FAMILIES.get(model_type)
    fields = _read_fields(hf, family)
    labels = _labels(hf, family, fields)
    return EncoderConfig(
        family=model_type,
        **{size: value for size, value in common.read_sizes(fields, family.names).items() if size != "num_kv_heads"},
        norm_eps=float(fields["layer_norm_eps"]) if family.norm_eps is None else family.norm_eps,
        activation=common.activation(fields, family.activation),
        type_vocab_size=fields["type_vocab_size"] if _has_types(family) else 0,
        pad_token_id=_pad(fields, family),
        padded_positions=family.padded_positions,
        head_activation=family.head_activation,
        labels=labels,
        multi_label=_multi_label(fields, labels),
    )


def model_tensors(config: EncoderConfig) -> list[Tensor]:
    """Returns the tensors that an encoder of this config has, by their plain names (see `plain_names`)."""
    return present_tensors(FAMILIES.get(config.family).tensors, param_specs(config))


def plain_names(config: EncoderConfig) -> Callable[[str], str]:
    """Returns a function from a weight's name to the same without what differs between files of the same model.

    That is the prefix of a training framework ("model." in checkpoints of Detoxify's trainer), the prefix of the
    encoder within a classifier ("bert."), and "gamma" and "beta" in norms of the first BERT release.
    """
    prefixes = re.compile(rf"^((model|module)\.)*({FAMILIES.get(config.family).prefix}\.)?")

    def plain(name: str) -> str:
        name = prefixes.sub("", name)
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

    return plain


def is_unused(plain: str, config: EncoderConfig) -> bool:
    """Returns whether a weight that fills no array is known to be of no use.

    That is a stored range of positions, a pooler, or a head of pretraining that this model does not compute with.
    """
    if re.fullmatch(r"embeddings\.(position_ids|token_type_ids)|pooler\.dense\.(weight|bias)", plain):
        return True
    return not config.labels and re.match(r"(cls|lm_head|vocab_(transform|layer_norm|projector))\.", plain) is not None


def _read_fields(hf: dict[str, Any], family: Family) -> dict[str, Any]:
    """Returns the fields of a config.json, completed by the family's class, once nothing is passed over."""
    for field, only in _ONLY.items():
        if hf.get(field) not in (None, only):
            refuse(field, hf[field], f"only {only!r}")
    sizes = {**common.SIZES, **family.names}.values()
    known = {*sizes, family.activation, *_TRANSLATED, *_HARMLESS, *_ONLY}
    return common.accepted_fields(hf, f"{family.classes}Config", known)


def _has_types(family: Family) -> bool:
    return any("types" in tensor.parts for tensor in family.tensors)


def _labels(hf: dict[str, Any], family: Family, fields: dict[str, Any]) -> tuple[str, ...]:
    """Returns the labels of a classifier in order, () for an architecture that is read for its states alone."""
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
    """Decides as the text-classification pipeline of transformers does; Detoxify's labels are never exclusive."""
    problem = fields["problem_type"]
    if not labels:
        return False
    if problem is None:
        return len(labels) == 1 or set(labels) >= _DETOXIFY
    if problem not in ("single_label_classification", "multi_label_classification"):
        refuse("problem_type", problem, "single_label_classification, multi_label_classification")
    return bool(problem == "multi_label_classification")


def _pad(fields: dict[str, Any], family: Family) -> int:
    pad = fields["pad_token_id"]
    if pad is None and not family.padded_positions:
        return 0  # any id will do: padding is masked
    if pad is None or not 0 <= pad < fields["vocab_size"]:
        refuse("pad_token_id", pad, f"0 to {fields['vocab_size'] - 1}")
    return int(pad)
