"""A run folder as one page: report.html, self-contained, and the table the terminal shows.

Reads only the files of the folder, so it can be rebuilt at any time. Texts in it were written by a model: everything is
escaped. Claims are worded as what was measured: a metric is suppressed under this protocol.
"""

import io
import json
import math
import re
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
BEST_ARMS = 8
LOSSES = {
    "revealing_prompt": "revealing prompt, before",
    "training_prompt_before": "training prompt, before",
    "training_prompt_after": "training prompt, forget adapter trained",
    "training_prompt_subtracted": "training prompt, model of the round",
}

Summary = dict[str, Any]


def summary_table(summary: Summary) -> str:
    """Forget and utility metrics of the base model and of every round, as aligned text."""
    rounds = [entry for entry in summary["rounds"] if entry.get("metrics")]
    head = ["metric", "base", *(f"round {entry['round']} (eta {entry['eta_forget']:g})" for entry in rounds)]
    lines = [head]
    for name in metric_names(summary):
        cells = [_number(entry["metrics"].get(name)) for entry in rounds]
        for place, entry in enumerate(rounds):
            kept = (entry.get("retention") or {}).get(name)
            cells[place] += "" if kept is None else f" ({kept:.0%})"
        mark = "forget: " if name == summary["forget_metric"] else "keep:   "
        lines.append([mark + name, _number(summary["base"].get(name)), *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    stop = summary.get("stop") or {"reason": "running", "explanation": "the run has not ended"}
    return f"{text}\nselected round: {summary['selected_round']}; stopped: {stop['explanation']}"


def metric_names(summary: Summary) -> list[str]:
    """The forget metric and then the utility metrics."""
    return [summary["forget_metric"], *summary["utility_metrics"]]


def _number(value: float | None, places: int = 3) -> str:
    """A value of a table; a dash where nothing was measured."""
    return "\u2013" if value is None else f"{value:.{places}f}"


def _percent(share: float | None) -> str:
    return "\u2013" if share is None else f"{100 * share:.0f} %"


def write_report(folder: Path) -> Path:
    """Builds report.html from the files of a run folder and returns its path.

    Raises:
      ValueError: when the folder has no summary.
    """
    path = folder / "summary.json"
    if not path.exists():
        raise ValueError(f"{folder} has no summary.json yet: finish a round first")
    summary = json.loads(path.read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "percent": _percent}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        summary=summary,
        headline=_headline(summary),
        groups=_metric_groups(summary),
        measured=[entry for entry in summary["rounds"] if entry.get("metrics")],
        rounds=[_round_view(entry) for entry in summary["rounds"]],
        recall=_recall_view(summary),
        samples=_paired_samples(folder, summary),
        config=_text_of(folder / "config.yaml"),
        manifest=_text_of(folder / "manifest.json"),
    )
    # A lone surrogate is valid in JSON but not in UTF-8: one odd text must not cost the whole page.
    write_text(folder / "report.html", page.encode("utf-8", "replace").decode("utf-8"))
    return folder / "report.html"


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _headline(summary: Summary) -> dict[str, Any] | None:
    """What the selected round did to the forget metric and to the worst utility metric; None for the base model."""
    entry = next((e for e in summary["rounds"] if e["round"] == summary["selected_round"] and e.get("metrics")), None)
    if entry is None:
        return None
    kept = entry.get("retention") or {}
    worst = min(kept, key=kept.__getitem__) if kept else None
    name = summary["forget_metric"]
    return {
        "round": entry["round"],
        "eta": entry["eta_forget"],
        "before": summary["base"].get(name),
        "after": entry["metrics"].get(name),
        "worst": worst,
        "retention": None if worst is None else kept[worst],
        "revealed": entry.get("revealed", 0),
    }


def _metric_groups(summary: Summary) -> list[tuple[str, list[tuple[str, str]]]]:
    """The rows of the metrics table in groups: (title, [(metric, shown name)]); an arrow says which way is better."""
    arrows = {"higher": " \u2191", "lower": " \u2193"}
    utility = [(name, name + arrows[way]) for name, way in summary["utility_metrics"].items()]
    rest = [name for name in summary["base"] if name not in metric_names(summary)]
    degenerate = [(name, name) for name in rest if name.startswith("degenerate")]
    other = [(name, name) for name in rest if not name.startswith("degenerate")]
    groups = [
        ("to forget", [(summary["forget_metric"], summary["forget_metric"])]),
        ("to keep, with the share of the base value kept", utility),
        ("degenerate responses, share", degenerate),
        ("also measured", other),
    ]
    return [(title, rows) for title, rows in groups if rows]


def _round_view(entry: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of one round: its plots (title, SVG), and the best arms."""
    plots = []
    if entry.get("search"):
        plots.append(("Search for instructions", _search(entry["search"])))
    if entry.get("trade_off"):
        plots.append(("Trade-off on validation data", _trade_off(entry)))
    if entry.get("loss"):
        plots.append(("Loss on the forget set", _loss(entry["loss"])))
    if entry.get("overlap"):
        label = "mean |cosine| of input directions"
        plots.append(("Overlap of forget and retain adapter", _layers(entry["overlap"], label, signed=False)))
    if entry.get("update_cosine"):
        label = "cosine of weight updates"
        plots.append(("Direction of the two updates", _layers(entry["update_cosine"], label, signed=True)))
    best: dict[int, dict[str, Any]] = {}
    for point in sorted(entry.get("search") or [], key=lambda point: (-point["score"], point["order"])):
        best.setdefault(point["arm"], point)  # an arm may be evaluated again: its best evaluation stands for it
    return {
        "number": entry["round"],
        "revealed": entry.get("revealed", 0),
        "given": entry.get("given"),
        "left_out": entry.get("left_out") or {},
        "accepted": entry.get("accepted"),
        "eta": entry.get("eta_forget"),
        "budget": entry.get("utility_budget"),
        "arms": list(best.values())[:BEST_ARMS],
        "plots": plots,
    }


def _recall_view(summary: Summary) -> dict[str, Any] | None:
    """How much of what is known to be there was told, round by round; None for a task that knows of no facts."""
    told = [entry for entry in summary["rounds"] if (entry.get("recall") or {}).get("cumulative") is not None]
    if not told:
        return None
    ended = (summary.get("residual") or {}).get("round")
    return {
        "facts": told[0]["recall"]["facts"],
        "cumulative": told[-1]["recall"]["cumulative"],
        "residual": ended,
        "plot": _recall(told),
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


def _svg(figure: Figure) -> str:
    """The figure as inline SVG: text kept as text, no metadata (it names outside addresses), no ids on groups (they
    would repeat from plot to plot; the ids that clips and markers refer to are hashes of what they hold)."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rr-jax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", text).replace("<svg ", '<svg role="img" ', 1)


def _axes(width: float = 5.2, height: float = 3.3) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=8)
    return figure, axes


def _trade_off(entry: dict[str, Any]) -> str:
    """Forget metric against worst retention for every strength of the grid, on validation data."""
    points: Sequence[dict[str, Any]] = entry["trade_off"]
    figure, axes = _axes()
    axes.plot([p["utility"] for p in points], [p["forget"] for p in points], color=QUIET, linewidth=1, zorder=1)
    for point in points:
        chosen = entry.get("accepted") and point["eta_forget"] == entry.get("eta_forget")
        color = FORGET if chosen else KEEP if point["within_budget"] else QUIET
        axes.scatter(point["utility"], point["forget"], color=color, s=70 if chosen else 30, zorder=2)
        label = f"{point['eta_forget']:g}" + (" chosen" if chosen else "")
        at = (point["utility"], point["forget"])
        axes.annotate(label, at, xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8, color=color)
    if entry.get("utility_budget") is not None:
        axes.axvline(entry["utility_budget"], color=INK, linestyle=":", linewidth=1)
    axes.set_xlabel("worst retention of a utility metric (dotted: budget)", fontsize=8)
    axes.set_ylabel("forget metric (labels: eta)", fontsize=8)
    # From 0 to a visible height: a grid of equal values would otherwise get an axis of meaningless width.
    values = [p["forget"] for p in points if math.isfinite(p["forget"])]
    high = max([0.1, *values])
    axes.set_ylim(min([0.0, *values]) - 0.06 * high, 1.15 * high)
    axes.margins(x=0.15)
    return _svg(figure)


def _search(points: Sequence[dict[str, Any]]) -> str:
    """Score of each evaluated arm in order, and the best so far."""
    figure, axes = _axes()
    best, running = 0.0, []
    for point in points:
        best = max(best, point["score"])
        running.append(best)
    axes.step([p["order"] + 1 for p in points], running, where="post", color=INK, linewidth=1, label="best so far")
    for kind, marker in (("text", "o"), ("soft", "^"), ("written", "s")):
        for initial, color in ((True, QUIET), (False, FORGET)):
            chosen = [p for p in points if p["kind"] == kind and (p["chosen_by"] == "initial") == initial]
            if chosen:
                x, y = [p["order"] + 1 for p in chosen], [p["score"] for p in chosen]
                by = chosen[0]["chosen_by"].replace("_", " ")
                axes.scatter(x, y, color=color, marker=marker, s=22, label=f"{kind}, {by}")
    axes.set_xlabel("evaluated arms, in order", fontsize=8)
    axes.set_ylabel("score (relevance and diversity)", fontsize=8)
    axes.set_ylim(-0.03, 1.03)
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(fontsize=7.5, frameon=False, loc="outside upper center", ncols=5, handletextpad=0.4, columnspacing=1)
    return _svg(figure)


def _recall(entries: Sequence[dict[str, Any]]) -> str:
    """Share of the known facts that each round's forget set tells, and that all so far tell."""
    figure, axes = _axes(height=2.4)
    rounds = [entry["round"] for entry in entries]
    axes.bar(rounds, [entry["recall"]["round"] for entry in entries], color=QUIET, width=0.45, label="this round")
    cumulative = [entry["recall"]["cumulative"] for entry in entries]
    axes.plot(rounds, cumulative, color=FORGET, marker="o", label="all rounds so far")
    axes.set_xticks(rounds)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("round", fontsize=8)
    axes.set_ylabel("share of known facts told", fontsize=8)
    figure.legend(fontsize=7.5, frameon=False, loc="outside upper center", ncols=2)
    return _svg(figure)


def _loss(loss: dict[str, float]) -> str:
    """Loss of the revealed responses under the prompt that revealed them and under the training prompt."""
    rows = [(label, loss[name]) for name, label in LOSSES.items() if loss.get(name) is not None]
    rows += [(name.replace("_", " "), value) for name, value in loss.items() if name not in LOSSES]
    rows = [(label, value) for label, value in rows if math.isfinite(value)]
    figure, axes = _axes(height=0.42 * len(rows) + 0.7)
    places = range(len(rows))
    axes.barh(places, [value for _, value in rows], color=KEEP, height=0.55)
    axes.set_yticks(places, [label for label, _ in rows])
    for place, (_, value) in zip(places, rows, strict=True):
        axes.annotate(
            f"{value:.3f}", (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("nats a token", fontsize=8)
    return _svg(figure)


def _layers(values: dict[str, Sequence[float]], label: str, *, signed: bool) -> str:
    """A map of one number for each module (rows) and layer (columns), as vector cells."""
    names = list(values)
    layers = max(len(row) for row in values.values())
    grid = [list(values[name]) for name in names]
    high = max([0.05, *(abs(value) for row in grid for value in row if math.isfinite(value))])
    figure, axes = _axes(height=0.3 * len(names) + 0.8)
    colors = {"cmap": "RdBu_r", "vmin": -high, "vmax": high} if signed else {"cmap": "Oranges", "vmin": 0, "vmax": high}
    shown = axes.pcolormesh(grid, edgecolors="white", linewidth=0.6, **colors)
    step = max(1, layers // 16)
    axes.set_yticks([row + 0.5 for row in range(len(names))], names)
    axes.set_xticks([c + 0.5 for c in range(0, layers, step)], [str(c + 1) for c in range(0, layers, step)])
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.invert_yaxis()
    axes.set_xlabel(f"layer (colour: {label})", fontsize=8)
    bar = figure.colorbar(shown, ax=axes)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return _svg(figure)
