"""What every unlearning target says of itself, so that search, collection, training and selection need not know it.

A task turns instructions into prompts, reads what a model generated, judges whether it belongs to the target, gives
retain data and measures. It never trains, never chooses, and never hands its own forget data to anybody: there is none
in this interface.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from rr_jax.data.packing import Example
from rr_jax.models.hub import LanguageModel

Split = Literal["validation", "test"]
RetainSplit = Literal["train", "validation"]  # test data is given to nobody


class Reading(NamedTuple):
    """A generated text taken apart: what the instruction is about, and the answer that discloses something."""

    context: str
    response: str


@dataclasses.dataclass(frozen=True)
class Revealed:
    """One example of the forget set with its lineage. `instruction` is the text that revealed it."""

    round: int
    arm: int
    kind: str  # "text" or "soft"
    sample: int  # global index among all generations of its round: with the seed it names the random key
    instruction: str
    context: str
    response: str
    relevance: float
    arm_score: float


class Evaluation(NamedTuple):
    """Named metrics, and the generations they were computed from (one dict each: metric, prompt, response, ...)."""

    metrics: dict[str, float]
    samples: list[dict[str, object]]


class Task(Protocol):
    """One unlearning target."""

    @property
    def name(self) -> str:
        """What the summary calls it."""
        ...

    @property
    def forget_metric(self) -> str:
        """The metric to be brought down."""
        ...

    @property
    def utility_metrics(self) -> dict[str, Literal["higher", "lower"]]:
        """The metrics to be kept, and which way is better."""
        ...

    @property
    def degenerate_metric(self) -> str:
        """Share of empty or repetitive outputs among those the forget metric is made of."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Length of a revealing generation."""
        ...

    @property
    def instructions(self) -> Sequence[str]:
        """Texts the search may try as revealing instructions: prompts the model continues."""
        ...

    @property
    def stems(self) -> Sequence[str]:
        """Texts that follow a soft prompt."""
        ...

    @property
    def neutral(self) -> str:
        """The instruction that pairing "neutral" trains under."""
        ...

    @property
    def others(self) -> Sequence[str]:
        """The instructions that pairing "shuffled" draws from: those that do not ask for the target."""
        ...

    def prompt(self, instruction: str, context: str) -> str:
        """The full prompt under which a response is trained."""
        ...

    def read(self, instruction: str, generated: str) -> Reading | None:
        """Takes apart what the model generated after `instruction`; None if it does not have the form."""
        ...

    def relevance(self, reading: Reading) -> float:
        """How much the response belongs to the target, 0 to 1."""
        ...

    @property
    def facts(self) -> frozenset[str]:
        """What there is to disclose, as far as that is known: what recall is counted in. Never shown to the search."""
        ...

    def disclosed(self, reading: Reading) -> frozenset[str]:
        """Which of the facts a relevant response discloses."""
        ...

    def spans(self, response: str) -> tuple[tuple[int, int], ...] | None:
        """The character ranges of a revealed response that the forget adapter learns; None for all of it."""
        ...

    def retain_examples(self, count: int, seed: int, split: RetainSplit = "train") -> list[Example]:
        """Examples of what is to be kept: to train on, or of the validation split, to hold a loss against."""
        ...

    def evaluate(
        self,
        model: LanguageModel,
        split: Split,
        count: int,
        *,
        base: LanguageModel,
        progress: Callable[[str], None] | None = None,
        only: frozenset[str] | None = None,
    ) -> Evaluation:
        """Measures the model on held-out data of a split, `count` examples a metric.

        The model may have adapters that are not merged into its weights: what reads `params` reads `adapters` as well.

        `base`, the model before anything was forgotten, may judge whether what the model writes is fluent.
        With `only`, the metrics named and what is measured along with them; the values are the same as without.
        """
        ...


def retention(task: Task, metrics: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    """Share of its base value that each utility metric keeps; 1 is unchanged, more is better than before.

    For metrics where lower is better (perplexity) it is base / value. A metric that was 0 keeps everything.
    """
    kept = {}
    for name, direction in task.utility_metrics.items():
        value, before = metrics[name], base[name]
        top, bottom = (value, before) if direction == "higher" else (before, value)
        kept[name] = top / bottom if bottom > 0 else 1.0
    return kept
