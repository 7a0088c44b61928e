"""A run folder as one page: report.html, self-contained, and the table the terminal shows.

Reads only the files of the folder, so it can be rebuilt at any time. Texts in it were written by a model: everything is
escaped. Claims are worded as what was measured: a metric is suppressed under this protocol.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure

from rr_jax.runfolder import read_lines, write_text

INK, FORGET, KEEP, QUIET = "#1f2933", "#b4442f", "#2a6f77", "#9aa5b1"
TEMPLATE = Path(__file__).with_name("report.html.j2")
SAMPLES_OF_FORGET, SAMPLES_OF_UTILITY = 6, 2

Summary = dict[str, Any]


def summary_table(summary: Summary) -> str:
    """Forget and utility metrics of the base model and of every round, as aligned text."""
    rounds = [entry for entry in summary["rounds"] if entry.get("metrics")]
    head = ["metric", "base", *(f"round {entry['round']} (eta {entry['eta_forget']:g})" for entry in rounds)]
    lines = [head]
    for name in metric_names(summary):
        cells = [f"{entry['metrics'][name]:.3f}" for entry in rounds]
        for place, entry in enumerate(rounds):
            kept = (entry.get("retention") or {}).get(name)
            cells[place] += "" if kept is None else f" ({kept:.0%})"
        mark = "forget: " if name == summary["forget_metric"] else "keep:   "
        lines.append([mark + name, f"{summary['base'][name]:.3f}", *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    stop = summary.get("stop") or {"reason": "running", "explanation": "the run has not ended"}
    return f"{text}\nselected round: {summary['selected_round']}; stopped: {stop['explanation']}"


def metric_names(summary: Summary) -> list[str]:
    """The forget metric and then the utility metrics."""
    return [summary["forget_metric"], *summary["utility_metrics"]]


def write_report(folder: Path) -> Path:
    """Builds report.html from the files of a run folder and returns its path.

    Raises:
      ValueError: when the folder has no summary.
    """
    path = folder / "summary.json"
    if not path.exists():
        raise ValueError(f"{folder} has no summary.json yet: finish a round first")
    summary = json.loads(path.read_text(encoding="utf-8"))
    rounds = [_round_view(entry) for entry in summary["rounds"]]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        summary=summary,
        names=metric_names(summary),
        other_names=[name for name in summary["base"] if name not in metric_names(summary)],
        measured=[entry for entry in summary["rounds"] if entry.get("metrics")],
        selected=next((e for e in summary["rounds"] if e["round"] == summary["selected_round"]), None),
        rounds=rounds,
        samples=_paired_samples(folder, summary),
        config=_text_of(folder / "config.yaml"),
        manifest=_text_of(folder / "manifest.json"),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _round_view(entry: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of one round: its plots, and the best arms."""
    best = sorted(entry.get("search") or [], key=lambda point: (-point["score"], point["order"]))[:8]
    return {
        "number": entry["round"],
        "revealed": entry.get("revealed", 0),
        "loss": entry.get("loss") or {},
        "arms": best,
        "trade_off": _trade_off(entry) if entry.get("trade_off") else "",
        "search": _search(entry["search"]) if entry.get("search") else "",
        "overlap": _overlap(entry["overlap"]) if entry.get("overlap") else "",
    }


def _paired_samples(folder: Path, summary: Summary) -> list[dict[str, Any]]:
    """The same prompts before and after: of the forget metric first, then of each utility metric."""
    before = read_lines(folder / "samples" / "base.jsonl")
    after = read_lines(folder / "samples" / f"round_{summary['selected_round']:02d}.jsonl")
    pairs = []
    for name in metric_names(summary):
        most = SAMPLES_OF_FORGET if name == summary["forget_metric"] else SAMPLES_OF_UTILITY
        both = [(b, a) for b, a in zip(before, after, strict=False) if b["metric"] == a["metric"] == name]
        pairs += [{"metric": name, "prompt": b["prompt"], "before": b["response"], "after": a["response"]}
                  for b, a in both[:most]]  # fmt: skip
    return pairs


def _svg(figure: Figure) -> str:
    """The figure as inline SVG, text kept as text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rr-jax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _axes(width: float = 5.2, height: float = 3.4) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    return figure, axes


def _trade_off(entry: dict[str, Any]) -> str:
    """Forget metric against worst retention for every strength of the grid, on validation data."""
    points: Sequence[dict[str, Any]] = entry["trade_off"]
    figure, axes = _axes()
    axes.plot([p["utility"] for p in points], [p["forget"] for p in points], color=QUIET, linewidth=1, zorder=1)
    for point in points:
        chosen = entry.get("accepted") and point["eta_forget"] == entry["eta_forget"]
        color = FORGET if chosen else KEEP if point["within_budget"] else QUIET
        axes.scatter(point["utility"], point["forget"], color=color, s=70 if chosen else 30, zorder=2)
        label = f"{point['eta_forget']:g}" + (" chosen" if chosen else "")
        at = (point["utility"], point["forget"])
        axes.annotate(label, at, xytext=(5, 5), textcoords="offset points", fontsize=8, color=color)
    axes.axvline(entry["utility_budget"], color=INK, linestyle=":", linewidth=1)
    axes.set_xlabel("worst retention of a utility metric (dotted: budget)", fontsize=8)
    axes.set_ylabel("forget metric", fontsize=8)
    axes.margins(0.15)
    return _svg(figure)


def _search(points: Sequence[dict[str, Any]]) -> str:
    """Score of each evaluated arm in order, and the best so far."""
    figure, axes = _axes()
    best, running = 0.0, []
    for point in points:
        best = max(best, point["score"])
        running.append(best)
    axes.step([p["order"] + 1 for p in points], running, where="post", color=INK, linewidth=1, label="best so far")
    for kind, marker in (("text", "o"), ("soft", "^")):
        for by, color in (("initial", QUIET), ("bandit", FORGET)):
            chosen = [p for p in points if p["kind"] == kind and p["chosen_by"] == by]
            if chosen:
                x, y = [p["order"] + 1 for p in chosen], [p["score"] for p in chosen]
                axes.scatter(x, y, color=color, marker=marker, s=22, label=f"{kind}, {by}")
    axes.set_xlabel("evaluated arms", fontsize=8)
    axes.set_ylabel("score: relevance x diversity", fontsize=8)
    axes.set_ylim(-0.03, 1.03)
    axes.legend(fontsize=7, frameon=False)
    return _svg(figure)


def _overlap(overlap: dict[str, Sequence[float]]) -> str:
    """Mean |cosine| between the input directions of the forget and the retain adapter, module by layer."""
    names = list(overlap)
    layers = len(overlap[names[0]])
    figure, axes = _axes(height=0.35 * len(names) + 0.9)
    shown = axes.imshow([list(overlap[name]) for name in names], cmap="Oranges", vmin=0.0, aspect="auto")
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(layers), [str(layer + 1) for layer in range(layers)])
    axes.set_xlabel("layer", fontsize=8)
    figure.colorbar(shown, ax=axes).ax.tick_params(labelsize=7)
    return _svg(figure)
