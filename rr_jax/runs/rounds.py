"""Round after round: reveal, train, compose, measure, what one hands to the next, and when to stop.

Each stage is computed or, if its checkpoint exists, restored; nothing else distinguishes a resumed run. Knows the order
of the stages and the record they leave, never what happens in one.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rr_jax.evaluate.metric import Metric, from_plain
from rr_jax.models.spec import Adapter
from rr_jax.release.compose import RULES
from rr_jax.reveal.recall import recall
from rr_jax.runs.checkpoint import Checkpoints, Stage, stage_number
from rr_jax.runs.context import Context
from rr_jax.runs.folder import note_seconds
from rr_jax.runs.results import ArmScore, Choice, Cost, GridPoint, Recall, RoundResult, RunSummary, Stop
from rr_jax.runs.stages.base import base_stage
from rr_jax.runs.stages.compose import compose_stage
from rr_jax.runs.stages.measure import measure_stage
from rr_jax.runs.stages.reveal import reveal_stage
from rr_jax.runs.stages.train import train_stage
from rr_jax.tasks.base import Revealed
from rr_jax.training.loop import TrainingDiverged

SavedOrComputed = Callable[[int, str, Callable[[], Stage]], Stage]


class NothingRevealed(ValueError):
    """Says that the first round's search disclosed too little to train on."""


@dataclasses.dataclass(frozen=True)
class Carried:
    """Holds what a round hands to the next.

    Attributes:
      deltas: what the rounds so far added to the base weights; None before the first.
      revealed: the forget set of the latest search.
      disclosed: facts that all searches so far disclosed.
      gained: share of the facts that the latest search was the first to disclose.
      forget_adapters: of the rounds so far.
    """

    deltas: Adapter | None = None
    revealed: tuple[Revealed, ...] = ()
    disclosed: frozenset[str] = frozenset()
    gained: float = 1.0
    forget_adapters: tuple[Adapter, ...] = ()


def run_rounds(context: Context, checkpoints: Checkpoints) -> RunSummary:
    """Runs all rounds, or goes on where an interrupted run was, and returns what they found.

    The summary so far is written after each round.

    Raises:
      NothingRevealed: the first round's search disclosed too little to train on.
      TrainingDiverged: a loss stopped being a number.
    """
    config = context.config
    stage = saved_or_computed(context, checkpoints)
    summary, carried = _of_base(context, stage), Carried()
    stop = Stop(reason="rounds_done", explanation=f"all {config.rounds} rounds are done")
    for round_index in range(1, config.rounds + 1):
        found, carried = _reveal(context, stage, round_index, carried)
        if config.until == "reveal":
            summary = _with_round(summary, found)
            continue
        if _too_few(context, found):
            least, so_few = config.reveal.collect.min_size, f"round {round_index} revealed {found.revealed} examples"
            stop = Stop(reason="nothing_revealed", explanation=f"{so_few}, fewer than {least}")
            summary = summary.model_copy(update={"residual": found.recall})
            break
        result, carried = _release(context, stage, carried, found, summary)
        summary = _with_round(summary, result)
        if not result.accepted:
            outside = f"in round {round_index} no strength stayed within the budgets"
            stop = Stop(reason="outside_budgets", explanation=outside)
            break
        summary.write(context.folder)
    return summary.model_copy(update={"stop": stop, "status": "complete"})


def saved_or_computed(context: Context, checkpoints: Checkpoints) -> SavedOrComputed:
    """Returns a function of (round, stage, how it is computed) that restores the stage or computes and saves it."""
    saved = set(checkpoints.saved())
    unsaved = {"reveal"} if context.config.privacy.keep_revealed == "hashes" else set()

    def stage(round_index: int, name: str, compute: Callable[[], Stage]) -> Stage:
        number = stage_number(round_index, name)
        if number in saved:
            return checkpoints.restore(number)
        start = time.perf_counter()
        try:
            result = compute()
        except TrainingDiverged as error:
            good = max(saved, default=None)
            kept = "there is no checkpoint" if good is None else f"the last good checkpoint is {good}"
            raise TrainingDiverged(
                f"round {round_index}, stage {name}: {error}; {kept} in {checkpoints.folder}; "
                "a lower learning rate may help"
            ) from error
        if name not in unsaved:
            checkpoints.save(number, result)
            saved.add(number)
        note_seconds(context.folder, f"round {round_index}, {name}", time.perf_counter() - start)
        return result

    return stage


def _of_base(context: Context, stage: SavedOrComputed) -> RunSummary:
    """Returns the summary before the first round; a run until reveal measures nothing."""
    config, task = context.config, context.task
    nothing: dict[str, Any] = {"test": {}, "validation": {}}
    base = nothing if config.until == "reveal" else stage(0, "base", partial(base_stage, context)).meta
    return RunSummary(
        task=task.name,
        seed=config.seed,
        title=task.title,
        objective=config.release.objective.name,
        data=config.release.data,
        guard=config.evaluate.guard,
        forget_metric=task.forget_metric,
        utility_metrics=context.utility_metrics,
        added_metrics={one.name: one.better for one in config.evaluate.metrics if not one.utility},
        rule=config.release.strength.rule,
        selection_rule=RULES[config.release.strength.rule],
        base=from_plain(base["test"]),
        base_validation=from_plain(base["validation"]),
    )


def _reveal(
    context: Context, stage: SavedOrComputed, round_index: int, carried: Carried
) -> tuple[RoundResult, Carried]:
    """Returns what a round's search found, where it has one, and what is carried on to its training."""
    config, task = context.config, context.task
    anew = {
        "every_round": True,
        "first_round": round_index == 1,
        "until_gain": carried.gained >= config.reveal.min_gain,
    }
    if not config.release.source.reveals or not (round_index == 1 or anew[config.reveal.when]):
        return RoundResult(round_index=round_index, revealed=len(carried.revealed)), carried
    found = stage(round_index, "reveal", partial(reveal_stage, context, round_index, carried.deltas)).meta
    now = frozenset(found["disclosed"])
    so_far = carried.disclosed | now
    in_all, before, this = (recall(task, facts) for facts in (so_far, carried.disclosed, now))
    gained = 0.0 if in_all is None or before is None else in_all.value - before.value
    revealed = tuple(Revealed(**item) for item in found["revealed"])
    result = RoundResult(
        round_index=round_index,
        search=tuple(_arm_score(line) for line in found["search"]),
        search_ended=found["search_ended"],
        exploration=found["exploration"],
        left_out=found["left_out"],
        collected_relevance=Metric(**found["collected_relevance"]),
        recall=None if this is None or in_all is None else Recall(this_round=this, cumulative=in_all),
        revealed=len(revealed),
    )
    return result, dataclasses.replace(carried, revealed=revealed, disclosed=so_far, gained=gained)


def _too_few(context: Context, found: RoundResult) -> bool:
    """Returns whether what is revealed is too little to train on.

    Raises:
      NothingRevealed: it is the first round, so that there is nothing to end with.
    """
    config = context.config
    least = config.reveal.collect.min_size
    if not config.release.source.reveals or found.revealed >= least:
        return False
    if found.round_index > 1:
        return True
    left_out = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
    raise NothingRevealed(
        f"nothing revealed: {found.revealed} distinct examples passed the filter ({left_out or 'none'} left out), "
        f"reveal.collect.min_size asks for {least}; widen the search with more reveal.search.generations, "
        "reveal.arms.soft or reveal.collect.generations, or a lower reveal.collect.threshold"
    )


def _release(
    context: Context, stage: SavedOrComputed, carried: Carried, found: RoundResult, summary: RunSummary
) -> tuple[RoundResult, Carried]:
    """Returns a round trained, composed and, if a strength was accepted, measured; and what is carried on."""
    number, before, revealed = found.round_index, carried.deltas, list(carried.revealed)
    trained = stage(number, "train", partial(train_stage, context, number, before, revealed, carried.forget_adapters))
    composed = stage(
        number,
        "compose",
        partial(compose_stage, context, number, before, trained, summary.base_validation, carried.forget_adapters),
    )
    result = _composed(context, found, trained, composed)
    if not result.accepted:
        return result, carried
    deltas = composed.arrays["deltas"]
    measured = stage(number, "measure", partial(measure_stage, context, number, deltas, revealed, summary.base)).meta
    changes = {
        "metrics": from_plain(measured["metrics"]),
        "retention": from_plain(measured["retention"]),
        "loss": result.loss | from_plain(measured["loss"]),
    }
    adapters = (*carried.forget_adapters, trained.arrays["forget"])
    return result.model_copy(update=changes), dataclasses.replace(carried, deltas=deltas, forget_adapters=adapters)


def _composed(context: Context, found: RoundResult, trained: Stage, composed: Stage) -> RoundResult:
    """Returns a round with what its training and the choice of its strengths left behind.

    A map by layer is of the forget adapter with the retain adapter that repaired it, or else with the one trained beside
    it.
    """
    meta = composed.meta
    maps = trained.meta.get("interference", {}) | trained.meta.get("layers", {}) | meta.get("layers", {})
    return RoundResult.model_validate(
        dict(found)
        | {
            "accepted": meta["accepted"],
            "forget_strength": meta["forget_strength"],
            "retain_strength": meta["retain_strength"],
            "rule": Choice(**meta["rule"]),
            "utility_budget": context.config.release.strength.utility_budget,
            "trade_off": tuple(_grid_point(point) for point in meta["trade_off"]),
            "base_retain_nll": Metric(**meta["base_retain_nll"]),
            "validation": None if meta["validation"] is None else from_plain(meta["validation"]),
            "layers": maps,
            "cost": Cost(**from_plain(meta["cost"])) if "cost" in meta else None,
            "given": trained.meta.get("given"),
            "merge_error": meta.get("merge_error"),
            "loss": from_plain(trained.meta["loss"]),
        }
    )


def _arm_score(line: dict[str, Any]) -> ArmScore:
    metrics = {name: line[name] for name in ("relevance", "fluency", "shift") if line[name] is not None}
    return ArmScore(**line | from_plain(metrics))


def _grid_point(point: dict[str, Any]) -> GridPoint:
    names = ("forget", "degenerate", "off_task", "retain_nll")
    metrics = {name: Metric(**point[name]) for name in names}
    return GridPoint(**point | metrics | {"retention": from_plain(point["retention"])})


def _with_round(summary: RunSummary, result: RoundResult) -> RunSummary:
    """Returns the summary with one more round, which is selected if it is the lowest on validation data so far."""
    rounds = (*summary.rounds, result)
    if result.validation is None:
        return summary.model_copy(update={"rounds": rounds})
    metric = summary.forget_metric
    earlier = [one.validation[metric].value for one in summary.rounds if one.validation is not None]
    best = min([summary.base_validation[metric].value, *earlier])
    selected = result.round_index if result.validation[metric].value < best else summary.selected_round
    return summary.model_copy(update={"rounds": rounds, "selected_round": selected})
