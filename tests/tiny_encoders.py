"""Random tiny encoders in the Hugging Face format, with hyper-parameters as far from the defaults as they go."""

from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

torch = pytest.importorskip("torch")

PAD = 3
TEXT = "the cat sat on a mat and dog ran far home now you are so very nice bad old man hat"
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 15,
    "intermediate_size": 23,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 47,
    "pad_token_id": PAD,
}
WITH_TYPES = {**SHAPE, "layer_norm_eps": 3e-2, "type_vocab_size": 3}
DISTILBERT = {"dim": 15, "hidden_dim": 23, "n_layers": 3, "n_heads": 3}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", WITH_TYPES),
    "bert-gelu_new": ("Bert", {**WITH_TYPES, "hidden_act": "gelu_new"}),
    "bert-silu": ("Bert", {**WITH_TYPES, "hidden_act": "silu"}),
    "roberta": ("Roberta", {**WITH_TYPES, "hidden_act": "relu"}),
    "xlm-roberta": ("XLMRoberta", {**WITH_TYPES, "type_vocab_size": 1}),
    "distilbert": (
        "DistilBert",
        {"vocab_size": 300, "max_position_embeddings": 47, "pad_token_id": PAD, "activation": "relu", **DISTILBERT},
    ),
    "distilbert-gelu": (
        "DistilBert",
        {"vocab_size": 300, "max_position_embeddings": 47, "pad_token_id": PAD, **DISTILBERT},
    ),
}
LABELS = ("calm", "rude", "odd", "long")
_UNBIASED = """toxicity severe_toxicity obscene identity_attack insult threat sexual_explicit male female
homosexual_gay_or_lesbian christian jewish muslim black white psychiatric_or_mental_illness"""
UNBIASED = tuple(_UNBIASED.split())
JIGSAW = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")


def build(name: str, kind: str = "ForSequenceClassification", labels=LABELS, **fields: Any) -> Any:
    """A random torch model of one of `VARIANTS`: norms are not ones and biases not zeros, as they are when trained."""
    family, specific = VARIANTS[name]
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    config = getattr(transformers, f"{family}Config")(**{**specific, **names, **fields})
    model = getattr(transformers, f"{family}{kind}")(config).eval()
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "norm" in path.lower() and path.endswith("weight"):
                weight.uniform_(0.5, 1.5, generator=generator)
            else:
                weight.normal_(0.0, 0.2 if path.endswith("bias") else 0.5, generator=generator)
    return model


def wordpiece() -> transformers.PreTrainedTokenizerFast:
    """[CLS] words and letters [SEP], with the padding id of the models."""
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)]
    vocabulary = dict.fromkeys(
        ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *letters, *(f"##{c}" for c in letters), *TEXT.split()]
    )
    ids = {word: number for number, word in enumerate(vocabulary)}
    core = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
    core.normalizer = tokenizers.normalizers.Lowercase()
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )


def byte_pairs() -> transformers.PreTrainedTokenizerFast:
    """<s> bytes and pairs of them </s>, with the padding id of the models."""
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([TEXT] * 4, trainer)
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def save(model: Any, folder: Path, tokenizer: Any = None) -> Path:
    """The folder of a model, with a tokenizer if one is given."""
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder
