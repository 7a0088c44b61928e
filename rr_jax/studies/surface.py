"""The trade-off surface of a finished round: what each pair of strengths costs and brings, into the run folder.

Losses come from `dynamics.surface`, on the revealed rows that the forget adapter was trained on and on validation texts
to keep. Test data is never looked at. Task metrics, where asked for, are measured on validation data by models that
share their decoding (`generation.points`). No point of the grid merges weights; the chosen model does.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from rr_jax.data.packing import Packed
from rr_jax.dynamics.surface import check_grid, loss_surface
from rr_jax.evaluate.nll import mean_nll
from rr_jax.generation.generator import Generator
from rr_jax.generation.points import generators_at
from rr_jax.lora.adapter import scale_adapter
from rr_jax.lora.algebra import add
from rr_jax.models.spec import Adapter
from rr_jax.reporting.page import write_report
from rr_jax.reporting.surface import surface_svg
from rr_jax.runs.checkpoint import Checkpoints, Stage, stage_number
from rr_jax.runs.config import RunConfig
from rr_jax.runs.context import Context
from rr_jax.runs.folder import write_text
from rr_jax.runs.loop import Progress, load_deltas, load_model
from rr_jax.runs.results import SurfaceMetrics, SurfacePoint, SurfaceResult, SurfaceRows
from rr_jax.runs.stages.rows import forget_rows, held_out_rows
from rr_jax.tasks.base import Revealed, Task
from rr_jax.tasks.evaluation import evaluate_task
from rr_jax.tasks.registry import make_task

FORGET_POINTS, RETAIN_POINTS = 9, 5  # of the grids that nobody gave
# what revealed rows are trained under, by `release.pairing`
PROMPTS = {
    "same": "their own prompts",
    "none": "no prompt",
    "neutral": "the neutral prompt",
    "shuffled": "other prompts",
}
REACH = 1.5  # how far those go, as a multiple of the chosen strength


def draw_surface(
    folder: Path,
    round_index: int | None = None,
    *,
    forget_strength: Sequence[float] | None = None,
    retain_strength: Sequence[float] | None = None,
    metrics: bool = False,
    progress: Progress | None = None,
    task: Task | None = None,
) -> SurfaceResult:
    """Writes surface.json and surface.svg of a round into its run folder, the figure into its report too, and returns
    what the former holds.

    A retain adapter that was trained after the subtraction belongs to the chosen strength, and its
    neighbours are shown with that same adapter.

    Args:
      folder: of a run.
      round_index: None is the selected one.
      forget_strength, retain_strength: growing strengths with 0 among them; None: from 0 to 1.5 times the chosen one.
      metrics: whether the forget, utility and degenerate metrics are measured at every point as well.
      progress: called with (what, done, of).
      task: that of the run, if it was a Python object.

    Raises:
      ValueError: the folder is no run, the round is not there or the base model, a grid is not as described, the
        objective's strengths span no surface, or the revealed texts were not kept.
    """
    note = progress or (lambda what, done, of: None)
    after, config, number = load_deltas(folder, round_index)
    if number == 0:
        selected = "no round was selected: none kept within the budgets; " if round_index is None else ""
        raise ValueError(
            f"{folder}: {selected}round 0 is the base model, which has no adapters to scale; name another with --round"
        )
    objective = config.release.objective
    if objective.no_surface is not None:
        raise ValueError(f"release.objective is {objective.name!r}: {objective.no_surface}")
    before, _, _ = load_deltas(folder, number - 1)
    trained, composed, revealed = _stages(folder, config, number)
    forget, retain = _changes(config, trained, composed)
    grids = _grids(config, composed, retain, forget_strength, retain_strength)
    base = load_model(config, progress)
    task = make_task(config.task, base.tokenizer, config.seed, task)
    context = Context(config, task, base, folder, lambda *line: None, note)
    rows = {"forget": forget_rows(context, number, revealed), "retain": held_out_rows(context)}
    note(f"round {number}: loss surface", 0, 1)
    strategy = "map" if jax.default_backend() == "cpu" else "vmap"
    losses = loss_surface(
        base.params,
        rows,
        base.config,
        forget=forget,
        retain=retain,
        forget_strength=grids[0],
        retain_strength=grids[1],
        before=before,
        strategy=strategy,
    )
    note(f"round {number}: loss surface", 1, 1)
    chosen = measured = None
    if composed.meta["accepted"]:
        params = context.model(after).params
        own = {f"{name}_nll": mean_nll(params, packed, base.config) for name, packed in rows.items()}
        chosen = SurfacePoint(
            forget_strength=composed.meta["forget_strength"], retain_strength=composed.meta["retain_strength"], **own
        )
    if metrics:
        points = np.array(list(itertools.product(*grids)), np.float32)
        generators = generators_at(base, points, forget=forget, retain=retain, before=before, strategy=strategy)
        values = _metrics(context, number, generators, len(grids[0]))
        measured = SurfaceMetrics(split="validation", count=config.evaluate.validation, values=values)
    sources = {"forget": _source(config), "retain": "validation"}
    found = SurfaceResult(
        round_index=number,
        forget_strength=tuple(grids[0]),
        retain_strength=tuple(grids[1]),
        retain_adapter=_describe(composed, retain),
        rows={
            name: SurfaceRows(source=sources[name], examples=_count(packed), rows=len(packed.tokens))
            for name, packed in rows.items()
        },
        forget_nll=tuple(map(tuple, losses["forget"].tolist())),
        retain_nll=tuple(map(tuple, losses["retain"].tolist())),
        chosen=chosen,
        metrics=measured,
    )
    found.write(folder)
    write_text(folder / "surface.svg", surface_svg(found))
    if (folder / "summary.json").exists():
        write_report(folder)
    return found


def _stages(folder: Path, config: RunConfig, number: int) -> tuple[Stage, Stage, list[Revealed]]:
    """Returns the train and compose stages of a round, and what it was trained on: found in it or, if it did not
    search, in the last round before that did."""
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        trained, composed = (checkpoints.restore(stage_number(number, name)) for name in ("train", "compose"))
        if not config.release.source.reveals:
            return trained, composed, []
        saved = set(checkpoints.saved())
        searched = [r for r in range(1, number + 1) if stage_number(r, "reveal") in saved]
        if not searched:
            raise ValueError(
                f"{folder} did not keep what was revealed (privacy.keep_revealed is {config.privacy.keep_revealed!r}): "
                "there are no rows to measure the loss on"
            )
        found = checkpoints.restore(stage_number(searched[-1], "reveal")).meta["revealed"]
        return trained, composed, [Revealed(**item) for item in found]
    finally:
        checkpoints.close()


def _changes(config: RunConfig, trained: Stage, composed: Stage) -> tuple[Adapter, Adapter | None]:
    """Returns what a round adds at strength 1: the forget adapter as its objective applies it, and the retain adapters."""
    release = config.release
    scale = release.adapter.scale
    forget = release.objective.change(trained.arrays, 1.0, scale)
    joint = [trained.arrays["retain"]] if release.place.adds_beside else []
    repair = [composed.arrays["repair"]] if "repair" in composed.arrays else []
    parts = [scale_adapter(adapter, scale) for adapter in (*joint, *repair)]
    return forget, add(*parts) if parts else None


def _grids(
    config: RunConfig,
    composed: Stage,
    retain: Adapter | None,
    forget_strength: Sequence[float] | None,
    retain_strength: Sequence[float] | None,
) -> tuple[list[float], list[float]]:
    """Returns both grids, with defaults filled in and checked."""
    section, meta = config.release.strength, composed.meta
    if forget_strength is None:
        reach = REACH * (meta["forget_strength"] or max(section.forget) or 1.0)
        forget_strength = np.linspace(0.0, reach, FORGET_POINTS).round(6).tolist()
    if retain is None and retain_strength is not None and list(retain_strength) != [0.0]:
        raise ValueError(
            f"--retain is {', '.join(f'{value:g}' for value in retain_strength)}, but no retain adapter of that round was "
            f"added (release.retain.place is {config.release.retain.place!r}): leave it out"
        )
    if retain_strength is None:
        reach = REACH * (meta["retain_strength"] or max(section.retain) or 1.0)
        retain_strength = [0.0] if retain is None else np.linspace(0.0, reach, RETAIN_POINTS).round(6).tolist()
    check_grid("--forget", forget_strength)
    check_grid("--retain", retain_strength)
    return list(forget_strength), list(retain_strength)


def _source(config: RunConfig) -> str:
    if not config.release.source.reveals:
        return config.release.source.title
    return f"revealed, under {PROMPTS[config.release.pairing]}"


def _count(packed: Packed) -> int:
    """Returns the number of examples in packed rows."""
    return int(packed.segment_ids.max(axis=1).sum())


def _describe(composed: Stage, retain: Adapter | None) -> str | None:
    """Returns which retain adapter the second axis scales."""
    if retain is None:
        return None
    if "repair" not in composed.arrays:
        return "trained beside the forget adapter"
    return f"trained on the weights subtracted with forget_strength {composed.meta['forget_strength']:g}"


def _metrics(
    context: Context, number: int, generators: Sequence[Generator], lines: int
) -> dict[str, list[list[float]]]:
    """Returns the forget, utility and degenerate metrics of F x T models and those of `evaluate.metrics`, {metric: [F,
    T]} with F `lines`, on validation data."""
    task, count, added = context.task, context.config.evaluate.validation, context.config.evaluate.metrics
    names = dict.fromkeys(
        (task.forget_metric, *context.utility_metrics, task.degenerate_metric, *(m.name for m in added))
    )
    measured = []
    for index, generator in enumerate(generators):
        context.progress(f"round {number}: metrics on validation data", index, len(generators))
        result = evaluate_task(task, generator, "validation", count, base=context.base, metrics=added)
        measured.append(result.metrics)
    context.progress(f"round {number}: metrics on validation data", len(generators), len(generators))
    return {name: np.reshape([metrics[name].value for metrics in measured], (lines, -1)).tolist() for name in names}
