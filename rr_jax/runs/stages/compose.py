"""The compose stage: goes up a grid of strengths on validation data, repairs where asked to, and chooses one."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rr_jax.data.packing import Packed
from rr_jax.dynamics.interference import Layers, layer_values, overlaps
from rr_jax.evaluate.metric import Metric, difference_of, quotient_of, to_plain
from rr_jax.evaluate.nll import nll_metric
from rr_jax.lora.adapter import scale_adapter
from rr_jax.lora.algebra import add, merge_error
from rr_jax.models.spec import Adapter
from rr_jax.random import derive_seed
from rr_jax.release.compose import Point, choose_strength, next_strength
from rr_jax.release.objectives.base import FORGET, RETAIN
from rr_jax.runs.checkpoint import Stage, Tree
from rr_jax.runs.context import Context
from rr_jax.runs.stages.measure import measure
from rr_jax.runs.stages.rows import held_out_rows, new_adapter, remembered, retain_rows
from rr_jax.tasks.base import retention
from rr_jax.training.constraint import References
from rr_jax.training.loop import TrainJob, train

REPAIR = "repair"


class Composed(NamedTuple):
    """Holds what a pair of strengths makes of the weights.

    Attributes:
      arrays: what the stage would leave behind, "deltas" among them, and "repair" where there is one.
      layers: overlap of the forget adapter with the repair adapter.
    """

    arrays: Tree
    layers: Layers


class Outcome(NamedTuple):
    """Holds a pair of strengths, measured on validation data."""

    point: Point
    composed: Composed
    metrics: dict[str, Metric]


def compose_stage(
    context: Context,
    round_index: int,
    deltas: Adapter | None,
    trained: Stage,
    base_metrics: dict[str, Metric],
    earlier: Sequence[Adapter] = (),
) -> Stage:
    """Returns the deltas with the forget adapter applied and retain adapters added, at strengths chosen on validation data.

    `next_strength` says which strengths are measured. `earlier` are the forget adapters of the rounds before, which a
    constraint with a memory holds the repair apart from too.
    """
    config, section = context.config, context.config.release.strength
    build = _builder(context, round_index, deltas, trained.arrays, earlier)
    held_out = held_out_rows(context)
    added = sorted(section.retain) if config.release.place.adds else [0.0]
    outcomes: list[Outcome] = []
    while (forget_strength := next_strength([outcome.point for outcome in outcomes], section)) is not None:
        for retain_strength in added:
            composed = build(forget_strength, retain_strength)
            name = f"strength {forget_strength:g}" + (f" and {retain_strength:g}" if len(added) > 1 else "")
            note = f"round {round_index}, {name}"
            outcome = _measured(context, composed, forget_strength, retain_strength, base_metrics, held_out, note)
            outcomes.append(outcome)
            context.log(round_index, "compose", len(outcomes), _line(outcome.point))
    outcomes.sort(key=lambda outcome: (outcome.point.forget_strength, outcome.point.retain_strength))
    return _chosen(context, round_index, deltas, outcomes, base_metrics, held_out)


def _builder(
    context: Context,
    round_index: int,
    deltas: Adapter | None,
    trained: dict[str, Adapter],
    earlier: Sequence[Adapter],
) -> Any:
    """Returns a function of both strengths that composes, and repairs once for all strengths of one repair."""
    release, scale = context.config.release, context.scale

    def changed(forget_strength: float, beside_strength: float) -> Adapter:
        parts = [] if deltas is None else [deltas]
        parts.append(release.objective.change(trained, forget_strength, scale))
        if release.place.adds_beside:
            parts.append(scale_adapter(trained[RETAIN], beside_strength * scale))
        return add(*parts)

    @lru_cache(maxsize=1)  # several strengths of one repair follow each other
    def repaired(forget_strength: float, beside_strength: float) -> Adapter:
        whole, forget = changed(forget_strength, beside_strength), trained[FORGET]
        return repair(context, round_index, whole, forget, forget_strength, earlier)

    def build(forget_strength: float, retain_strength: float) -> Composed:
        whole = changed(forget_strength, retain_strength)
        if not release.place.repairs:
            return Composed({"deltas": whole}, {})
        adapter = repaired(forget_strength, retain_strength if release.place.adds_beside else 0.0)
        whole = add(whole, scale_adapter(adapter, retain_strength * scale))
        return Composed({"deltas": whole, REPAIR: adapter}, overlaps(trained[FORGET], adapter))

    return build


def repair(
    context: Context,
    round_index: int,
    changed: Adapter,
    forget: Adapter,
    forget_strength: float,
    earlier: Sequence[Adapter] = (),
) -> Adapter:
    """Returns a retain adapter trained on the changed weights and held apart from the forget adapter, and with a memory
    from those of earlier rounds.

    So it repairs what was damaged without going back along what was forgotten. What looks at activations concerns what
    the forget adapter reads, and nothing here.
    """
    release = context.config.release
    section = release.retain.repair

    def log(step: int, values: dict[str, float]) -> None:
        found = {f"{REPAIR}/{name}": value for name, value in values.items()}
        context.log(round_index, "compose", step, {"forget_strength": forget_strength} | found)
        context.progress(f"round {round_index}: repairing", step, section.steps)

    job = TrainJob(
        adapters={REPAIR: new_adapter(context, REPAIR, round_index)},
        rows={REPAIR: retain_rows(context, round_index, section)},
        section=section,
        scale=context.scale,
        constraint=release.orthogonality.of_pairs(),
        references=References(anchor=forget, memory=remembered(context, earlier)),
        seed=derive_seed(context.config.seed, "release/repair", round_index),
        log=log,
    )
    params = context.model(changed).params
    return train(job, params, context.base.config, context.config.parallel.mode)[REPAIR]


def _measured(
    context: Context,
    composed: Composed,
    forget_strength: float,
    retain_strength: float,
    base_metrics: dict[str, Metric],
    held_out: Packed,
    note: str,
) -> Outcome:
    task, model = context.task, context.model(composed.arrays["deltas"])  # merged once
    metrics, _ = measure(context, model, "validation", note)
    kept = retention(context.utility_metrics, metrics, base_metrics)

    def added(name: str | None) -> Metric:
        return Metric(0.0, 0) if name is None else difference_of(metrics[name], base_metrics[name])

    point = Point(
        forget_strength=forget_strength,
        retain_strength=retain_strength,
        forget=metrics[task.forget_metric],
        degenerate=added(task.degenerate_metric),
        off_task=added(task.off_task_metric),
        retain_nll=nll_metric(model.params, held_out, context.base.config),
        retention=kept,
    )
    return Outcome(point, composed, metrics)


def _chosen(
    context: Context,
    round_index: int,
    deltas: Adapter | None,
    outcomes: list[Outcome],
    base_metrics: dict[str, Metric],
    held_out: Packed,
) -> Stage:
    """Returns the stage of the outcome that the rule picks; of the weights as they were where none is within the
    budgets."""
    config, task, section = context.config, context.task, context.config.release.strength
    points = [outcome.point for outcome in outcomes]
    point, reason = choose_strength(points, section, base_metrics[task.forget_metric].value)
    base_nll = nll_metric(context.base.params, held_out, context.base.config)
    meta: dict[str, Any] = {
        "trade_off": [_plain(point) | {"within_budget": point.within(section)} for point in points],
        "forget_strength": 0.0 if point is None else point.forget_strength,
        "retain_strength": 0.0 if point is None else point.retain_strength,
        "rule": {"name": section.rule, "fallback": reason},
        "base_retain_nll": dataclasses.asdict(base_nll),
        "accepted": point is not None,
    }
    if point is None:
        return Stage({} if deltas is None else {"deltas": deltas}, meta | {"validation": None})
    _, composed, metrics = outcomes[points.index(point)]
    cost = cost_of(point, base_nll, base_metrics[task.forget_metric])
    values = layer_values(composed.layers) | {f"interference/{name}": metric.value for name, metric in cost.items()}
    if config.dtype == "bfloat16":
        error = merge_error(context.base.params, composed.arrays["deltas"])
        meta["merge_error"] = {name: float(found.max()) for name, found in error.items()}
        values |= {f"merge_error/{module}": value for module, value in meta["merge_error"].items()}
    context.log(round_index, "compose", len(points), values)
    return Stage(
        composed.arrays, meta | {"validation": to_plain(metrics), "cost": to_plain(cost), "layers": composed.layers}
    )


def _plain(point: Point) -> dict[str, Any]:
    """Returns a point as plain values, for a checkpoint."""
    metrics = {name: value for name, value in point._asdict().items() if isinstance(value, Metric)}
    return point._asdict() | to_plain(metrics) | {"retention": to_plain(point.retention)}


def _line(point: Point) -> dict[str, float]:
    """Returns the bare values of a point, for a line of the log."""
    plain = {name: value for name, value in point._asdict().items() if name != "retention"}
    values = {name: value.value if isinstance(value, Metric) else value for name, value in plain.items()}
    return values | {"utility": point.utility}


def cost_of(point: Point, base_retain_nll: Metric, base_forget: Metric) -> dict[str, Metric]:
    """Returns what a strength costs of held-out texts to keep, nats a token, also per unit that the forget metric came
    down."""
    increase, gone = difference_of(point.retain_nll, base_retain_nll), difference_of(base_forget, point.forget)
    per = {"per_forgetting": quotient_of(increase, gone)} if gone.value > 0 else {}
    return {"retain_loss_increase": increase} | per
