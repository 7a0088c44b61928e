"""Tiny models and tasks that tests share: real code paths, nothing that learns anything."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import jax
import numpy as np

from rr_jax.data.packing import Example, Packed
from rr_jax.evaluate.metric import Metric
from rr_jax.generation.generator import Generator
from rr_jax.models.config import ModelConfig
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import Adapter, init_params, linear_shapes
from rr_jax.release.compose import merged_params
from rr_jax.section import Section
from rr_jax.tasks.base import Evaluation, Reading, RetainSplit, Split, Task

CONFIG = ModelConfig(
    family="llama",
    vocab_size=64,
    embed_dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    ffn_dim=24,
    norm_eps=1e-5,
    rope_theta=5e3,
    bos_token_id=1,
    eos_token_ids=(2,),
)

TARGETS = ["q", "v", "down"]  # of runs: three modules compile in half the time of all seven


@functools.cache
def _params(seed: int) -> dict[str, object]:
    return jax.tree.map(lambda x: 4.0 * x, jax.jit(init_params, static_argnums=1)(jax.random.key(seed), CONFIG))


def params(seed: int = 0) -> dict[str, object]:
    """Random weights, large enough that outputs differ; the caller's own dictionaries."""
    return jax.tree.map(lambda x: x, _params(seed))


def random_adapter(seed: int, rank: int, targets: Sequence[str], size: float = 0.2) -> Adapter:
    """An adapter of which neither factor is zero."""
    draw, adapter = np.random.default_rng(seed), {}
    for name in targets:
        rows, columns = linear_shapes(CONFIG)[name]
        a = draw.uniform(-(rows**-0.5), rows**-0.5, (CONFIG.num_layers, rows, rank))
        b = np.zeros((CONFIG.num_layers, rank, columns))
        adapter[name] = {
            factor: (start + size * draw.normal(size=start.shape)).astype(np.float32)
            for factor, start in (("a", a), ("b", b))
        }
    return adapter


def rows(seed: int, count: int = 12, length: int = 16) -> Packed:
    """Packed rows of random tokens with uneven weights and two segments a row."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(3, CONFIG.vocab_size, (count, length)).astype(np.int32)
    segments = np.repeat([[1] * (length // 2) + [2] * (length // 2 - 2) + [0, 0]], count, axis=0).astype(np.int32)
    weights = draw.uniform(0, 1, (count, length)).astype(np.float32) * (draw.uniform(size=(count, 1)) < 0.8)
    return Packed(tokens, segments, weights.astype(np.float32))


class EchoSection(Section):
    """Which function of this module gives the metrics."""

    name: str
    metrics: str = "weight_metrics"


@dataclasses.dataclass(frozen=True)
class EchoTask(Task):
    """A task about nothing: most is relevant, and the metrics are given by a function of the model."""

    Section: ClassVar[type[EchoSection]] = EchoSection

    metrics: Callable[[Generator], dict[str, float]]
    name: str = "echo"
    forget_metric: str = "forget"
    degenerate_metric: str = "degenerate"
    utility_metrics: dict[str, Literal["higher", "lower"]] = dataclasses.field(
        default_factory=lambda: {"use": "higher"}
    )
    max_new_tokens: int = 12
    neutral: str = "neutral"
    others: Sequence[str] = ("other one", "other two")
    instructions: Sequence[str] = ("a", "b", "c", "d")
    stems: Sequence[str] = ("",)

    @classmethod
    def make(cls, section: EchoSection, tokenizer: object, seed: int) -> "EchoTask":
        """Of a configuration."""
        return cls(globals()[section.metrics])

    def prompt(self, instruction: str, context: str) -> str:
        """Instruction and context."""
        return f"{instruction} {context}"

    def read(self, instruction: str, generated: str) -> Reading | None:
        """Everything is response."""
        return Reading("", generated) if generated.strip() else None

    def relevance(self, reading: Reading) -> float:
        """Mostly: a scorer that always says the same is refused."""
        return float(sum(map(ord, reading.response)) % 5 != 0)

    @property
    def facts(self) -> frozenset[str]:
        """The vowels."""
        return frozenset("aeiou")

    def disclosed(self, reading: Reading) -> frozenset[str]:
        """Those that occur."""
        return self.facts & set(reading.response)

    def true_examples(self, count: int, seed: int) -> list[Example]:
        """A few secrets."""
        return [Example("tell", f" secret {i}") for i in range(min(count, 5))]

    def retain_examples(self, count: int, seed: int, split: RetainSplit = "train") -> list[Example]:
        """Numbered texts, others to hold out than to train on."""
        return [Example("keep", f" {seed} {i}" if split == "train" else f" {i} {seed}") for i in range(count)]

    def evaluate(
        self,
        generator: Generator,
        split: Split,
        count: int,
        *,
        base: LanguageModel,
        progress: Callable[[str], None] | None = None,
        only: frozenset[str] | None = None,
    ) -> Evaluation:
        """The function's values, each of as many examples as were asked for."""
        return Evaluation({name: Metric(value, count, 0.0) for name, value in self.metrics(generator).items()}, [])


def tokenizer() -> object:
    """One token a character: 58 of them after the special ones, so that every id of the model is a text."""
    from tokenizers import Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST 0123456789."
    vocab = {text: i for i, text in enumerate(["<pad>", "<s>", "</s>", "<unk>", *characters])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    made.decoder = decoders.Fuse()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


def model() -> LanguageModel:
    """The tiny model with its tokenizer."""
    return LanguageModel(CONFIG, params(), tokenizer())


def run_config(out: object, model_folder: object, **changes: object) -> dict[str, object]:
    """A run of two short rounds on the tiny model, as plain values."""
    train = {"steps": 3, "batch_size": 2, "seq_len": 32}
    return {
        "model": str(model_folder),
        "task": "tests.tiny:EchoTask",
        "rounds": 2,
        "out": str(out),
        "reveal": {
            "arms": {"soft": 2},
            "search": {"initial": 2, "generations": 8},
            "bandit": {"fit_steps": 5},
            "reward": {"samples": 2},
            "collect": {"best_arms": 2, "size": 8, "min_size": 2, "generations": 64},
        },
        "release": {
            "adapter": {"rank": 2, "alpha": 4.0, "targets": TARGETS},
            "train": train,
            "retain": {"place": "joint+repair", "examples": 4, "repair": train},
            "strength": {"forget": [0.2, 0.4], "utility_budget": 0.0, "degenerate_budget": 1.0},
        },
        **changes,
    }


def weight_metrics(lm: Generator) -> dict[str, float]:
    """Numbers that follow every bit of the weights: a resumed run that differs anywhere shows here."""
    q = np.asarray(merged_params(lm.params, lm.adapters)["layers"]["q"], np.float64)
    return {"forget": 1.0 + float(np.sin(q).sum()) / 1e3, "use": 1.0 + float(np.cos(q).mean()) / 1e3, "degenerate": 0.0}
