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

from rr_jax.reporting.attacks import ATTACKS, attacks_view
from rr_jax.reporting.rounds import measured, progress_plots, recall_plots, recall_view, round_view
from rr_jax.runs.folder import read_json, read_lines, write_text

TEMPLATE = Path(__file__).with_name("page.html.j2")
SAMPLES_OF_FORGET, SAMPLES_OF_UTILITY = 6, 2

Summary = dict[str, Any]


def summary_table(summary: Summary) -> str:
    """Forget and utility metrics of the base model and of every round, or what a run until reveal found, aligned."""
    if not summary["base"]:
        return _aligned(_found_lines(summary))
    rounds = measured(summary)
    head = ["metric", "base", *(f"round {entry['round']} (eta {entry['eta_forget']:g})" for entry in rounds)]
    lines = [head]
    for name in metric_names(summary):
        cells = [_number(entry["metrics"].get(name)) for entry in rounds]
        for place, entry in enumerate(rounds):
            kept = (entry.get("retention") or {}).get(name)
            cells[place] += "" if kept is None else f" ({kept:.0%})"
        mark = "forget: " if name == summary["forget_metric"] else "keep:   "
        lines.append([mark + name, _number(summary["base"].get(name)), *cells])
    stop = summary.get("stop") or {"reason": "running", "explanation": "the run has not ended"}
    return f"{_aligned(lines)}\nselected round: {summary['selected_round']}; stopped: {stop['explanation']}"


def _found_lines(summary: Summary) -> list[list[str]]:
    """What was revealed in each round, and by the best arm."""
    lines = [["round", "revealed", "recall", "best score", "of"]]
    for entry in summary["rounds"]:
        best = max(entry["search"], key=lambda point: point["score"], default=None)
        cells = ["\u2013", ""] if best is None else [_number(best["score"]), best.get("text") or f"{best['kind']} arm"]
        told = (entry.get("recall") or {}).get("cumulative")
        lines.append([str(entry["round"]), str(entry["revealed"]), _percent(told), *cells])
    return lines


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(row.rstrip() for row in rows)


def metric_names(summary: Summary) -> list[str]:
    """The forget metric and then the utility metrics."""
    return [summary["forget_metric"], *summary["utility_metrics"]]


def _number(value: float | None, places: int = 3) -> str:
    """A value of a table; a dash where nothing was measured."""
    return "\u2013" if value is None or math.isnan(value) else f"{value:.{places}f}"


def _percent(share: float | None) -> str:
    return "\u2013" if share is None else f"{100 * share:.0f} %"


def _lines(tree: Mapping[str, Any]) -> str:
    """Nested values as lines to read."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=110)


def write_report(folder: Path) -> Path:
    """Builds report.html from the files of a run folder and returns its path.

    Raises:
      ValueError: when the folder has no summary, or a file of it is not what its name says.
    """
    path = folder / "summary.json"
    if not path.exists():
        raise ValueError(f"{folder} has no summary.json yet: finish a round first")
    summary = read_json(path)
    config = _text_of(folder / "config.yaml")
    manifest = _text_of(folder / "manifest.json")
    attacks = attacks_view(read_json(folder / "attacks.json"), summary)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "percent": _percent, "lines": _lines}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        summary=summary,
        method=summary.get("method", "reveal_and_release"),
        forget_data=summary.get("forget_data", "revealed"),
        target=summary.get("title") or summary["forget_metric"],
        headline=_headline(summary),
        claim=_claim(summary, attacks),
        groups=_metric_groups(summary),
        measured=measured(summary),
        progress=progress_plots(summary),
        recall_plots=recall_plots(summary),
        rounds=[round_view(entry) for entry in summary["rounds"]],
        open_round=summary["selected_round"] or len(summary["rounds"]),
        recall=recall_view(summary),
        attacks=attacks,
        surface=_picture(folder / "surface.svg"),
        surface_round=read_json(folder / "surface.json").get("round"),
        samples=_paired_samples(folder, summary),
        config=config,
        manifest=manifest,
    )
    # A lone surrogate is valid in JSON but not in UTF-8: one odd text must not cost the whole page.
    write_text(folder / "report.html", page.encode("utf-8", "replace").decode("utf-8"))
    return folder / "report.html"


def _picture(path: Path) -> str | None:
    """An SVG file as the address of an image: what is in it is kept apart from the page."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.exists() else None


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _headline(summary: Summary) -> dict[str, Any] | None:
    """What the selected round did to the forget metric and to the worst utility metric; None for the base model."""
    entry = next((e for e in measured(summary) if e["round"] == summary["selected_round"]), None)
    if entry is None:
        return None
    kept = entry.get("retention") or {}
    worst = min(kept, key=kept.__getitem__) if kept else None
    before, after = (metrics.get(summary["forget_metric"]) for metrics in (summary["base"], entry["metrics"]))
    return {
        "round": entry["round"],
        "rounds": len(summary["rounds"]),
        "eta": entry["eta_forget"],
        "before": before,
        "after": after,
        "left": after / before if before and after is not None else None,
        "named": entry["metrics"].get(_leak(summary)),
        "fell": before is not None and after is not None and after < before,
        "worst": worst,
        "retention": None if worst is None else kept[worst],
        "revealed": entry.get("revealed", 0),
    }


def _claim(summary: Summary, attacks: dict[str, Any] | None) -> dict[str, Any]:
    """Which attacks were tried on the selected model, and which were not, as phrases."""
    on_it = attacks["tried"] if attacks and attacks["round"] == summary["selected_round"] else []
    tried = [phrase for name, phrase in ATTACKS.items() if name in on_it]
    return {"tried": tried, "untried": [phrase for phrase in ATTACKS.values() if phrase not in tried]}


def _leak(summary: Summary) -> str:
    """The metric that counts what is to be forgotten under any label, where a task has one."""
    return f"leak/{summary['forget_metric'].rpartition('/')[2]}"


def _metric_groups(summary: Summary) -> dict[str, list[tuple[str, list[tuple[str, str]]]]]:
    """Rows of the metrics table, shown and folded, in groups: (title, [(metric, shown name)]).

    An arrow says which way is better. Beside the forget metric stands the share of what is still named under another
    label, where the task measures that.
    """
    forget = summary["forget_metric"]
    arrows = {"higher": " \u2191", "lower": " \u2193"}
    leak = _leak(summary)
    told = [(leak, f"{leak}: the right one is named, under whatever label")] if leak in summary["base"] else []
    utility = [(name, name + arrows[way]) for name, way in summary["utility_metrics"].items()]
    rest = [(name, name) for name in summary["base"] if name not in (*metric_names(summary), leak)]
    degenerate = [row for row in rest if row[0].startswith("degenerate")]
    other = [row for row in rest if row not in degenerate]
    few = degenerate if len(degenerate) == 1 else []
    shown = [
        ("to forget", [(forget, forget), *told]),
        ("to keep, with the share of the base value kept", utility),
        ("degenerate (empty or repetitive) answers", few),
    ]
    folded = [("degenerate answers, share", [] if few else degenerate), ("also measured", other)]
    return {
        "shown": [(title, rows) for title, rows in shown if rows],
        "folded": [(title, rows) for title, rows in folded if rows],
    }


def _paired_samples(folder: Path, summary: Summary) -> list[tuple[str, list[dict[str, Any]]]]:
    """The same prompts before and after, by metric: the forget metric first, then each utility metric."""
    before = read_lines(folder / "samples" / "base.jsonl")
    after = read_lines(folder / "samples" / f"round_{summary['selected_round']:02d}.jsonl")
    groups = []
    for name in metric_names(summary):
        most = SAMPLES_OF_FORGET if name == summary["forget_metric"] else SAMPLES_OF_UTILITY
        pairs = [
            {"prompt": b["prompt"], "sides": [b, a]}
            for b, a in zip(before, after, strict=False)
            if b["metric"] == a["metric"] == name and b["prompt"] == a["prompt"]
        ]
        if pairs:
            groups.append((name, pairs[:most]))
    return groups
