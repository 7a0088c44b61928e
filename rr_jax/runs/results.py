"""What a run found, as frozen records: one writer and one reader for each file that holds them.

The keys of the files are the names of the fields ("round" for `round_index`). Every metric has its n and its standard
error. Knows no model, no stage and no page: who makes the numbers and who shows them meet here.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from rr_jax.evaluate.metric import Metric, lowest_of
from rr_jax.runs.folder import write_json

Metrics = dict[str, Metric]
Layers = dict[str, dict[str, list[float]]]  # {measure: {module: [L]}}, as `dynamics.interference` has them


class Record(pydantic.BaseModel):
    """Holds a part of a result: frozen, without unknown keys, never coerced.

    Unlike a section it may hold infinite numbers.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    def plain(self) -> dict[str, Any]:
        """Returns plain values under the keys of the file."""
        return self.model_dump(by_alias=True)


class File(Record):
    """Reads and writes a record that is a file of its own, with the version of its keys."""

    FILE: ClassVar[str]
    schema_version: Literal[1] = 1

    def write(self, folder: Path) -> None:
        """Replaces the file of a run folder as a whole."""
        write_json(folder / self.FILE, self.plain())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the file of a run folder.

        Raises:
          ValueError: one line that names the file, which is not there, no JSON, of another version, or lacks a part.
        """
        path = folder / cls.FILE
        if not path.exists():
            raise ValueError(f"{folder} has no {cls.FILE} yet: {MISSING[cls.FILE]}")
        text = path.read_text(encoding="utf-8")
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: is not valid JSON ({error})") from error
        if not isinstance(found, dict):
            raise ValueError(f"{path}: expected a JSON object, found {type(found).__name__}")
        version, expected = found.get("schema_version"), cls.model_fields["schema_version"].default
        if version != expected:
            raise ValueError(
                f"{path}: schema_version is {version!r}, expected {expected}: another version of rr-jax wrote it, and "
                "this one must make it anew"
            )
        try:
            return cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            said = f"{first['msg'][0].lower()}{first['msg'][1:]}, found {str(first['input'])[:60]!r}"
            others = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
            raise ValueError(f"{path}: {key}: {said}{others}") from None


MISSING = {
    "summary.json": "finish a round first",
    "attacks.json": "attack it first (rr-jax eval RUN --attacks)",
    "surface.json": "draw it first (rr-jax surface RUN)",
}


class ArmScore(Record):
    """Records one evaluation of an arm in the search, as `reveal.search.Scored` does."""

    order: int
    arm: int
    kind: str
    text: str
    score: float
    relevance: Metric
    diversity: float
    fluency: Metric
    shift: Metric | None
    chosen_by: str
    generations: int


class Recall(Record):
    """Gives the shares of the known facts, of which there are n, that were disclosed: in this round, and in all so far."""

    this_round: Metric = Field(validation_alias="round", serialization_alias="round")
    cumulative: Metric


class GridPoint(Record):
    """Records one pair of strengths, measured on validation data, as `release.compose.Point` does."""

    forget_strength: float
    retain_strength: float
    forget: Metric
    degenerate: Metric
    off_task: Metric
    retain_nll: Metric
    retention: Metrics
    within_budget: bool

    @property
    def utility(self) -> float:
        """Returns the worst retention; 1 without utility metrics."""
        worst = lowest_of(self.retention)
        return 1.0 if worst is None else worst[1].value


class Choice(Record):
    """Names the rule that the strengths were chosen by, and says why it was not the one asked for."""

    name: str
    fallback: str | None


class Cost(Record):
    """Says what a strength costs of held-out texts to keep: nats a token, and the same per unit of the forget metric."""

    retain_loss_increase: Metric
    per_forgetting: Metric | None = None


class RoundResult(Record):
    """Records one round.

    Attributes:
      round_index: from 1.
      search, search_ended, exploration, left_out, collected_relevance, recall: of the round's own search; empty or None
        where it went on with what an earlier one had revealed, and no recall where the task knows no facts. The recall of
        a later round is of what the model still disclosed after what was released: residual knowledge.
      revealed: examples to forget, of this search or an earlier one.
      accepted: whether a strength kept within the budgets; None where none was looked for.
      forget_strength, retain_strength, rule, utility_budget, trade_off, base_retain_nll, validation: the choice of
        strengths, on validation data; 0 and None where none was accepted.
      layers: maps by module and layer of the forget adapter, and of both adapters.
      cost: of the strengths that were chosen.
      given: true forget examples, where those were trained on.
      merge_error: of weights in bfloat16, by module.
      metrics, retention: on test data, and the share of the base's value that each utility metric kept.
      loss: on the forget set, nats a token, before and after.
    """

    round_index: int = Field(validation_alias="round", serialization_alias="round")
    search: tuple[ArmScore, ...] = ()
    search_ended: str | None = None
    exploration: float | None = None
    left_out: dict[str, int] = Field(default_factory=dict)
    collected_relevance: Metric | None = None
    recall: Recall | None = None
    revealed: int
    accepted: bool | None = None
    forget_strength: float | None = None
    retain_strength: float | None = None
    rule: Choice | None = None
    utility_budget: float | None = None
    trade_off: tuple[GridPoint, ...] = ()
    base_retain_nll: Metric | None = None
    validation: Metrics | None = None
    layers: Layers = Field(default_factory=dict)
    cost: Cost | None = None
    given: int | None = None
    merge_error: dict[str, float] | None = None
    metrics: Metrics | None = None
    retention: Metrics | None = None
    loss: Metrics = Field(default_factory=dict)


class Stop(Record):
    """Says why a run ended."""

    reason: Literal["rounds_done", "nothing_revealed", "outside_budgets"]
    explanation: str


class RunSummary(File):
    """Says what a run found, so far or to its end.

    Attributes:
      utility_metrics, added_metrics: what counts within the utility budget, and what else was asked for beside the task's
        own metrics, with which way is better.
      base, base_validation: metrics of the base model on test and validation data; empty for a run until reveal.
      selected_round: that of the lowest forget metric on validation data, 0 for the base model.
      residual: recall of a last search that disclosed too little to train on.
    """

    FILE: ClassVar[str] = "summary.json"

    task: str
    seed: int
    objective: str
    data: str
    title: str = ""
    guard: str | None = None
    forget_metric: str
    utility_metrics: dict[str, Literal["higher", "lower"]]
    added_metrics: dict[str, Literal["higher", "lower"]] = Field(default_factory=dict)
    rule: str
    selection_rule: str
    base: Metrics
    base_validation: Metrics
    rounds: tuple[RoundResult, ...] = ()
    selected_round: int = 0
    residual: Recall | None = None
    stop: Stop | None = None
    status: Literal["running", "complete"] = "running"

    @property
    def measured(self) -> tuple[RoundResult, ...]:
        """Returns the rounds whose model was measured on test data."""
        return tuple(result for result in self.rounds if result.metrics)

    @property
    def selected(self) -> RoundResult | None:
        """Returns the selected round, where it was measured; None for the base model."""
        return next((result for result in self.measured if result.round_index == self.selected_round), None)

    @property
    def shown_metrics(self) -> tuple[str, ...]:
        """Returns the forget metric, then the utility metrics, and what else was asked for."""
        return (self.forget_metric, *self.utility_metrics, *self.added_metrics)


class Relearning(Record):
    """Gives the forget metric after each number of training steps on true forget data, and degenerate shares beside it.

    `base` and `degenerate_base` are of the base model, trained the same; None where it was not compared.
    """

    steps: tuple[int, ...]
    forget: tuple[Metric, ...]
    degenerate: tuple[Metric, ...]
    base: tuple[Metric, ...] | None = None
    degenerate_base: tuple[Metric, ...] | None = None


class AttackResult(File):
    """Says what attacks brought back of one round's model, on test data.

    Attributes:
      protocol: how it was done, in plain values.
      prompts: {prompt variant: {"released", "base", "degenerate_released", "degenerate_base"}}.
      quantize, quantize_base: all metrics by bits, of the released model and of the base; None where not compared.
    """

    FILE: ClassVar[str] = "attacks.json"

    round_index: int = Field(validation_alias="round", serialization_alias="round")
    protocol: dict[str, Any]
    relearn: Relearning
    prompts: dict[str, Metrics]
    quantize: dict[str, Metrics] | None = None
    quantize_base: dict[str, Metrics] | None = None


class SurfaceRows(Record):
    """Says what a loss was measured on: where its texts are from, how many, and in how many packed rows."""

    source: str = Field(validation_alias="from", serialization_alias="from")
    examples: int
    rows: int


class SurfacePoint(Record):
    """Holds the chosen strengths, and the losses of the round's own model, with merged weights, nats a token."""

    forget_strength: float
    retain_strength: float
    forget_nll: float
    retain_nll: float


class SurfaceMetrics(Record):
    """Holds task metrics at every point, {name: [F, T]}, each on `count` examples of a split."""

    split: str
    count: int
    values: dict[str, list[list[float]]]


class SurfaceResult(File):
    """Holds the losses of one round over both strengths, on revealed rows and on texts to keep.

    Attributes:
      forget_strength, retain_strength: the strengths, [F] and [T].
      retain_adapter: which retain adapter the second axis scales; None where none was added.
      rows: what was measured on, "forget" and "retain".
      forget_nll, retain_nll: [F, T] mean losses, nats a token.
      chosen: the round's own model; None where no strength was accepted.
      metrics: None where they were not asked for.
    """

    FILE: ClassVar[str] = "surface.json"

    round_index: int = Field(validation_alias="round", serialization_alias="round")
    forget_strength: tuple[float, ...]
    retain_strength: tuple[float, ...]
    retain_adapter: str | None
    rows: dict[str, SurfaceRows]
    forget_nll: tuple[tuple[float, ...], ...]
    retain_nll: tuple[tuple[float, ...], ...]
    chosen: SurfacePoint | None = None
    metrics: SurfaceMetrics | None = None

    def losses(self, name: str) -> tuple[tuple[float, ...], ...]:
        """Returns the losses on the rows of that name."""
        return {"forget": self.forget_nll, "retain": self.retain_nll}[name]
