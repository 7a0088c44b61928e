"""A run folder as one page: report.html, self-contained, and the table the terminal shows.

Reads only the files of the folder, so it can be rebuilt at any time, and of an incomplete run too. Texts in it were
written by a model: everything is escaped. Claims are worded as what was measured: a metric is suppressed under this
protocol, and the page says beside it what was not tested. This module must never run a model or change a number.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from rr_jax.evaluate.metric import Metric, lowest_of
from rr_jax.release.data import FORGET_DATA
from rr_jax.reporting.attacks import ATTACKS, attacks_view
from rr_jax.reporting.rounds import progress_plots, recall_plots, recall_view, round_view
from rr_jax.runs.folder import read_lines, write_text
from rr_jax.runs.results import AttackResult, Metrics, RoundResult, RunSummary, SurfaceResult

TEMPLATE = Path(__file__).with_name("page.html.j2")
SAMPLES_OF_FORGET, SAMPLES_OF_UTILITY = 6, 2


def summary_table(summary: RunSummary) -> str:
    """Returns forget, utility and added metrics of the base model and of every round, or what a run until reveal found."""
    if not summary.base:
        return _aligned(_found_lines(summary))
    rounds = summary.measured
    lines = [["metric", "base", *(f"round {one.round_index} (strength {one.forget_strength:g})" for one in rounds)]]
    for name in summary.shown_metrics:
        mark = "keep:   " if name in summary.utility_metrics else "also:   "
        mark = "forget: " if name == summary.forget_metric else mark
        lines.append([mark + name, with_error(summary.base.get(name)), *(_cell(one, name) for one in rounds)])
    stopped = "the run has not ended" if summary.stop is None else summary.stop.explanation
    return (
        f"{_aligned(lines)}\n\u00b1 standard error, (share of the base value kept)\n"
        f"selected round: {summary.selected_round}; stopped: {stopped}"
    )


def _cell(result: RoundResult, name: str) -> str:
    """Returns a metric of a round, and of a utility metric the share that was kept."""
    kept = (result.retention or {}).get(name)
    return with_error((result.metrics or {}).get(name)) + ("" if kept is None else f" ({kept.value:.0%})")


def metrics_table(metrics: Metrics, base: Metrics) -> str:
    """Returns metrics with their n and standard error, one a line, and the base model's beside them if known."""
    lines = [["metric", "value", "n", "standard error", *(["base"] if base else [])]]
    for name, metric in metrics.items():
        before = [with_error(base.get(name))] if base else []
        lines.append([name, _number(metric), str(metric.n), _number(metric.stderr), *before])
    return _aligned(lines)


def attacks_table(found: AttackResult) -> str:
    """Returns the forget metric of the attacked models, one attack a line, as value and standard error."""
    metric = found.protocol["forget_metric"]
    lines = [["attack", f"{metric}, round {found.round_index}", "base"]]
    lines += [[f"asked: {way.replace('_', ' ')}", *_both(by.get("released"), by.get("base"))]
              for way, by in found.prompts.items()]  # fmt: skip
    base = found.relearn.base or [None] * len(found.relearn.steps)
    for step, released, before in zip(found.relearn.steps, found.relearn.forget, base, strict=True):
        lines.append([f"relearned: {step} steps", *_both(released, before)])
    for bits, metrics in (found.quantize or {}).items():
        lines.append([f"rounded: {bits} bits", *_both(metrics[metric], (found.quantize_base or {})[bits][metric])])
    return _aligned(lines)


def _both(released: Metric | None, base: Metric | None) -> tuple[str, str]:
    return with_error(released), with_error(base)


def with_error(metric: Metric | None) -> str:
    """Returns a metric as value and standard error."""
    if metric is None or metric.stderr is None:
        return _number(metric)
    return f"{_number(metric)} \u00b1 {metric.stderr:.3f}"


def _found_lines(summary: RunSummary) -> list[list[str]]:
    """Returns what was revealed in each round, and by the best arm."""
    lines = [["round", "revealed", "recall", "best score", "of"]]
    for result in summary.rounds:
        best = max(result.search, key=lambda arm: arm.score, default=None)
        cells = ["\u2013", ""] if best is None else [_number(best.score), best.text or f"{best.kind} arm"]
        disclosed = None if result.recall is None else result.recall.cumulative.value
        lines.append([str(result.round_index), str(result.revealed), _percent(disclosed), *cells])
    return lines


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(row.rstrip() for row in rows)


def _number(value: Metric | float | None, places: int = 3) -> str:
    """Returns a value of a table; a dash where nothing was measured."""
    value = value.value if isinstance(value, Metric) else value
    return "\u2013" if value is None or math.isnan(value) else f"{value:.{places}f}"


def _interval(metric: Metric | None, places: int = 2) -> str:
    """Returns the 95 % interval of a metric, "" where it has none."""
    found = None if metric is None else metric.interval()
    return "" if found is None else f"{found.low:.{places}f}\u2013{found.high:.{places}f}"


def _percent(share: Metric | float | None) -> str:
    share = share.value if isinstance(share, Metric) else share
    return "\u2013" if share is None else f"{100 * share:.0f} %"


def _lines(tree: Mapping[str, Any]) -> str:
    """Returns nested values as lines to read."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=110)


def write_report(folder: Path) -> Path:
    """Builds report.html from the files of a run folder and returns its path.

    Raises:
      ValueError: when the folder has no summary, or a file of it is not what its name says.
    """
    summary = RunSummary.read(folder)
    config = _text_of(folder / "config.yaml")
    manifest = _text_of(folder / "manifest.json")
    attacked = (folder / AttackResult.FILE).exists()
    attacks = attacks_view(AttackResult.read(folder), summary) if attacked else None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "interval": _interval, "percent": _percent, "lines": _lines}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        summary=summary,
        source=FORGET_DATA.get(summary.data).title,
        target=summary.title or summary.forget_metric,
        headline=_headline(summary),
        claim=_claim(summary, attacks),
        groups=_metric_groups(summary),
        measured=summary.measured,
        progress=progress_plots(summary),
        recall_plots=recall_plots(summary),
        rounds=[round_view(result) for result in summary.rounds],
        open_round=summary.selected_round or len(summary.rounds),
        recall=recall_view(summary),
        attacks=attacks,
        surface=_picture(folder / "surface.svg"),
        surface_round=_surface_round(folder),
        samples=_paired_samples(folder, summary),
        config=config,
        manifest=manifest,
    )
    # A lone surrogate is valid in JSON but not in UTF-8: one odd text must not cost the whole page.
    write_text(folder / "report.html", page.encode("utf-8", "replace").decode("utf-8"))
    return folder / "report.html"


def _surface_round(folder: Path) -> int | None:
    return SurfaceResult.read(folder).round_index if (folder / SurfaceResult.FILE).exists() else None


def _picture(path: Path) -> str | None:
    """Returns an SVG file as the address of an image: what is in it is kept apart from the page."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.exists() else None


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _headline(summary: RunSummary) -> dict[str, Any] | None:
    """Returns what the selected round did to the forget metric and to the worst utility metric; None for the base."""
    result = summary.selected
    if result is None or result.metrics is None:
        return None
    worst, kept = lowest_of(result.retention or {}) or (None, None)
    before, after = summary.base[summary.forget_metric], result.metrics[summary.forget_metric]
    return {
        "round": result.round_index,
        "rounds": len(summary.rounds),
        "strength": result.forget_strength,
        "before": before,
        "after": after,
        "left": after.value / before.value if before.value else None,
        "fell": after.value < before.value,
        "worst": worst,
        "retention": kept,
        "revealed": result.revealed,
    }


def _claim(summary: RunSummary, attacks: dict[str, Any] | None) -> dict[str, Any]:
    """Returns which attacks were tried on the selected model, and which were not, as phrases."""
    on_it = attacks["tried"] if attacks and attacks["round"] == summary.selected_round else []
    tried = [phrase for name, phrase in ATTACKS.items() if name in on_it]
    return {"tried": tried, "untried": [phrase for phrase in ATTACKS.values() if phrase not in tried]}


def _parts(summary: RunSummary) -> list[str]:
    """Returns the metrics that a forget metric is the worst of, such as an F1 and how often the entity is named at all."""
    of = summary.forget_metric.partition("/")[2]
    alike = (name for name in summary.base if name.partition("/")[2] == of != "")
    return [name for name in alike if name not in summary.shown_metrics and "/" not in name.partition("/")[2]]


def _metric_groups(summary: RunSummary) -> dict[str, list[tuple[str, list[tuple[str, str]]]]]:
    """Returns the rows of the metrics table, shown and folded, in groups: (title, [(metric, shown name)]).

    An arrow says which way is better. Beside the forget metric stand the metrics it is the worst of, if it is.
    """
    forget = summary.forget_metric
    arrows = {"higher": " \u2191", "lower": " \u2193"}
    parts = _parts(summary)
    utility, added = (
        [(name, name + arrows[way]) for name, way in found.items()]
        for found in (summary.utility_metrics, summary.added_metrics)
    )
    rest = [(name, name) for name in summary.base if name not in (*summary.shown_metrics, *parts)]
    degenerate = [row for row in rest if row[0].startswith(("degenerate", "off_task"))]
    other = [row for row in rest if row not in degenerate]
    few = degenerate if len(degenerate) == 1 else []
    shown = [
        ("to forget", [(forget, forget), *((part, part) for part in parts)]),
        ("to keep, with the share of the base value kept", utility),
        ("asked for beside the task's own", added),
        ("useless answers: degenerate (empty or repetitive) or off task", few),
    ]
    folded = [("useless answers (degenerate or off task), share", [] if few else degenerate), ("also measured", other)]
    return {
        "shown": [(title, rows) for title, rows in shown if rows],
        "folded": [(title, rows) for title, rows in folded if rows],
    }


def _paired_samples(folder: Path, summary: RunSummary) -> list[tuple[str, list[dict[str, Any]]]]:
    """Returns the same prompts before and after, by metric: the forget metric first, then each utility metric."""
    before = read_lines(folder / "samples" / "base.jsonl")
    after = read_lines(folder / "samples" / f"round_{summary.selected_round:02d}.jsonl")
    groups = []
    for name in summary.shown_metrics:
        most = SAMPLES_OF_FORGET if name == summary.forget_metric else SAMPLES_OF_UTILITY
        pairs = [
            {"prompt": b["prompt"], "sides": [b, a]}
            for b, a in zip(before, after, strict=False)
            if b["metric"] == a["metric"] == name and b["prompt"] == a["prompt"]
        ]
        if pairs:
            groups.append((name, pairs[:most]))
    return groups
