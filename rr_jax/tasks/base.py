"""What every unlearning target says of itself, so that search, collection, training and selection need not know it.

A task turns instructions into prompts, reads what a model generated, judges whether it belongs to the target, gives
retain data and measures. It never trains and never chooses. True examples of the target, where it has any, are for
attacks and for training on true data: no code of reveal and release asks for them, which a test holds.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

from rr_jax import section as sections
from rr_jax.data.packing import Example
from rr_jax.evaluate.degenerate import flag
from rr_jax.evaluate.metric import Metric, quotient_of
from rr_jax.generation.generator import Generator
from rr_jax.models.hub import LanguageModel

Split = Literal["validation", "test"]
RetainSplit = Literal["train", "validation"]  # test data is given to nobody


class Reading(NamedTuple):
    """Holds a generated text taken apart: what the instruction is about, and the answer that discloses something."""

    context: str
    response: str


@dataclasses.dataclass(frozen=True)
class Revealed:
    """Holds one example of the forget set with its lineage. `instruction` is the text that revealed it."""

    round_index: int
    arm: int
    kind: str  # "text" or "soft"
    sample: int  # global index among all generations of its round: with the seed it names the random key
    instruction: str
    context: str
    response: str
    relevance: float
    arm_score: float


class Evaluation(NamedTuple):
    """Holds named metrics, and the generations they were computed from (one dict each: metric, prompt, response, ...)."""

    metrics: dict[str, Metric]
    samples: list[dict[str, object]]


class NameSection(sections.Section):
    """Serves as the section of a task that has no settings."""

    name: str


class PromptVariants(NamedTuple):
    """Holds tasks that measure the same metric on other prompts: attacks by prompts alone.

    Attributes:
      tasks: by the name of the variant.
      shots: true examples that a variant "few_shot" shows; 0 where there is none.
    """

    tasks: Mapping[str, "Task"]
    shots: int


NO_VARIANTS = PromptVariants({}, 0)


class Task(abc.ABC):
    """Defines one unlearning target. A subclass says what has no value here; all else has a default.

    Attributes:
      name: what the summary and errors call it.
      forget_metric: the metric to be brought down; `evaluate` gives it.
      utility_metrics: the metrics to be kept, and which way is better; `evaluate` gives them.
      degenerate_metric: share of empty or repetitive outputs among those of the forget metric; `evaluate` gives it.
      off_task_metric: share of those outputs that answer something else than what was asked; None: not measured.
      instructions: texts the search may try as revealing instructions: prompts that the model continues.
      title: what is forgotten, in words for the report; empty: the forget metric.
      max_new_tokens: length of a revealing generation.
      stems: texts that follow a soft prompt.
      neutral: the instruction that pairing "neutral" trains under.
      others: instructions that do not ask for the target, which pairing "shuffled" draws from.
      facts: what there is to disclose, as far as that is known: what recall is counted in. Never shown to the search.
    """

    Section: ClassVar[type[sections.Section]] = NameSection  # its keys in a configuration, with `name: str`

    name: str
    forget_metric: str
    utility_metrics: Mapping[str, Literal["higher", "lower"]]
    degenerate_metric: str = "degenerate_share"
    off_task_metric: str | None = None
    instructions: Sequence[str]
    title: str = ""
    max_new_tokens: int = 64
    stems: Sequence[str] = ("",)
    neutral: str = ""
    others: Sequence[str] = ("",)
    facts: frozenset[str] = frozenset()

    @classmethod
    def make(cls, section: Any, tokenizer: Any, seed: int) -> Self:
        """Returns the task that a configuration describes.

        Args:
          section: an instance of `Section`.
          tokenizer: of the model.
          seed: of the run.

        Raises:
          ValueError: for what the task finds wrong with its settings or files.
        """
        return cls()

    def check(self, lm: LanguageModel, model: str) -> None:
        """Refuses a model that the task cannot be asked of, before anything is written.

        Args:
          lm: with its tokenizer; nothing may be computed with it.
          model: what the configuration calls it.

        Raises:
          ValueError: says what the model lacks.
        """
        return None

    def prompt(self, instruction: str, context: str) -> str:
        """Returns the full prompt under which a response is trained."""
        return f"{instruction} {context}".rstrip()

    def read(self, instruction: str, generated: str) -> Reading | None:
        """Takes apart what the model generated after `instruction`; None if it does not have the form.

        By default all of it is the response, unless it is empty or repetitive.
        """
        return None if any(flag(generated, min_words=1)) else Reading("", generated)

    @abc.abstractmethod
    def relevance(self, reading: Reading) -> float:
        """Returns how much the response belongs to the target, 0 to 1."""

    def disclosed(self, reading: Reading) -> frozenset[str]:
        """Returns those of the facts that a relevant response discloses."""
        return frozenset(fact for fact in self.facts if fact in reading.response)

    def spans(self, response: str) -> tuple[tuple[int, int], ...] | None:
        """Returns the character ranges of a revealed response that the forget adapter learns; None for all of it."""
        return None

    @abc.abstractmethod
    def retain_examples(self, count: int, seed: int, split: RetainSplit = "train") -> list[Example]:
        """Returns examples of what is to be kept: to train on, or of the validation split, to hold a loss against."""

    def true_examples(self, count: int, seed: int) -> list[Example] | None:
        """Returns training examples of the target as it truly is, at most `count`; None: this task has none.

        Only for attacks that bring the target back and for training on true data. Whoever reveals must not call it.

        Raises:
          ValueError: they should be there and are not.
        """
        return None

    def prompt_variants(self, lm: LanguageModel, prompts: Sequence[str], seed: int) -> PromptVariants:
        """Returns the task measuring the same metric by the same rule on other prompts; by default there are none.

        Args:
          lm: tells how long a prompt is and may be.
          prompts: those that the forget metric is measured with.
          seed: of the draw of the examples that a variant shows.
        """
        return NO_VARIANTS

    @abc.abstractmethod
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
        """Measures a model on held-out data of a split, `count` examples a metric.

        `generator` answers prompts. It may have adapters that are not merged into its weights: what reads its `params`,
        such as a likelihood, reads its `adapters` as well.

        `base`, the model before anything was forgotten, may judge whether what is written is fluent.
        With `only`, the metrics named and what is measured along with them; the values are the same as without.
        """


def retention(
    utility: Mapping[str, Literal["higher", "lower"]], metrics: Mapping[str, Metric], base: Mapping[str, Metric]
) -> dict[str, Metric]:
    """Returns the share of its base value that each utility metric keeps; 1 is unchanged, more is better than before.

    For metrics where lower is better (perplexity) it is base / value. A metric that was 0 keeps everything. The standard
    error takes both models' answers as independent, so it is too large rather than too small.
    """
    kept = {}
    for name, direction in utility.items():
        value, before = metrics[name], base[name]
        top, bottom = (value, before) if direction == "higher" else (before, value)
        kept[name] = quotient_of(top, bottom) if bottom.value > 0 else Metric(1.0, min(top.n, bottom.n))
    return kept
