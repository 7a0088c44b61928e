"""The plots of a report as inline SVG: one function a plot, numbers in, text out.

Colours are names of the page's style (`var(--forget)`), so a plot follows light, dark and print like the text beside it.
Blue stands for what is forgotten and ochre for what is kept: neither says good or bad, and they differ to every eye.
This module must never know of files, of the page, or of where the numbers came from.
"""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from rr_jax.evaluate.metric import Interval, Metric

# What matplotlib draws with, and which variable of the page's style takes its place.
INK, QUIET, RULE, FORGET, KEEP = "#1f2933", "#8291a0", "#d5dbe1", "#2b5fa5", "#9a6412"
VARIABLES = {INK: "--ink", QUIET: "--mark", RULE: "--rule", FORGET: "--forget", KEEP: "--keep"}
LOSSES = {
    "revealing_prompt": "revealing prompt, before",
    "training_prompt_before": "training prompt, before",
    "training_prompt_after": "training prompt, adapter added",
    "training_prompt_subtracted": "training prompt, after this round",
}
SMALL = 8  # points
WIDTH = 5.2  # inches
LETTER = 0.062  # mean width of a small letter, inches
MARKERS = {"text": "o", "soft": "^", "written": "s"}


def _svg(figure: Figure, label: str) -> str:
    """Returns the figure as inline SVG: text kept as text, no metadata (it names outside addresses), no ids on groups (they
    would repeat from plot to plot; the ids that clips and markers refer to are hashes of what they hold)."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rr-jax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for color, variable in VARIABLES.items():
        text = text.replace(f": {color}", f": var({variable})")
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def _axes(xlabel: str, ylabel: str = "", height: float = 3.0, left: float = 0.55) -> tuple[Figure, Any]:
    """Makes a figure of one panel. Sizes are inches, and margins are given: finding them would draw everything twice."""
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(left / WIDTH, 0.45 / height, 1 - 0.12 / WIDTH, 1 - 0.2 / height)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(color=QUIET, labelcolor=INK, labelsize=SMALL)
    axes.set_xlabel(xlabel, fontsize=SMALL, color=INK)
    axes.set_ylabel(ylabel, fontsize=SMALL, color=INK)
    return figure, axes


def _legend(figure: Figure, columns: int) -> None:
    """Puts a legend above the panel, which makes room for its rows."""
    rows = math.ceil(len(figure.axes[0].get_legend_handles_labels()[1]) / columns)
    figure.subplots_adjust(top=1 - (0.12 + 0.165 * rows) / figure.get_figheight())
    figure.legend(
        fontsize=7.5, frameon=False, labelcolor=INK, loc="upper center", borderaxespad=0.2,
        ncols=columns, handletextpad=0.4, columnspacing=1,
    )  # fmt: skip


def _label(
    axes: Any, text: str, at: tuple[float, float], color: str = INK, offset: tuple[float, float] = (0, 7)
) -> None:
    axes.annotate(text, at, xytext=offset, textcoords="offset points", ha="center", fontsize=SMALL, color=color)


def _height(axes: Any, values: Sequence[float]) -> None:
    """Sets an axis from 0 to a visible height: equal values would otherwise get one of meaningless width."""
    finite = [value for value in values if math.isfinite(value)]
    high = max([0.1, *finite])
    axes.set_ylim(min([0.0, *finite]) - 0.06 * high, 1.15 * high)


def _bars(axes: Any, positions: Sequence[float], intervals: Sequence[Interval | None], color: str) -> None:
    """Draws the 95 % intervals as thin upright lines, where they are known."""
    known = [(position, found) for position, found in zip(positions, intervals, strict=True) if found is not None]
    lows, highs = [found.low for _, found in known], [found.high for _, found in known]
    axes.vlines([position for position, _ in known], lows, highs, color=color, linewidth=1, alpha=0.55, zorder=1)


def _ends(intervals: Sequence[Interval | None]) -> list[float]:
    """Returns the upper ends that are known: the axis must reach them."""
    return [found.high for found in intervals if found is not None]


def progress(
    rounds: Sequence[int],
    forget: Sequence[float],
    kept: Sequence[float],
    selected: int,
    spread: Sequence[Interval | None],
) -> str:
    """Plots the forget metric and the worst retention by round, as shares of the base value; round 0 is the base.

    `spread` holds the intervals of the forget metric, as shares too.
    """
    figure, axes = _axes("round (0: the base model)", "share of the base value", height=2.6)
    axes.axvline(selected, color=RULE, linewidth=9, zorder=0)
    axes.plot(rounds, forget, color=FORGET, marker="o", label="forget metric")
    axes.plot(rounds, kept, color=KEEP, marker="s", linestyle="--", label="worst of what is kept")
    _bars(axes, rounds, spread, FORGET)
    axes.set_xticks(rounds)
    _height(axes, [1.0, *forget, *kept, *_ends(spread)])
    _legend(figure, 2)
    return _svg(figure, "forget metric and worst retention by round")


def recall(rounds: Sequence[int], of_round: Sequence[float], cumulative: Sequence[float]) -> str:
    """Plots the share of the known facts that each round's forget set discloses, and that all so far disclose."""
    figure, axes = _axes("round", "share of known facts disclosed", height=2.2)
    axes.bar(rounds, of_round, color=QUIET, width=0.45, label="this round")
    axes.plot(rounds, cumulative, color=FORGET, marker="o", label="all rounds so far")
    axes.set_xticks(rounds)
    axes.set_ylim(0, 1.05)
    _legend(figure, 2)
    return _svg(figure, "recall by round")


def search(points: Sequence[Mapping[str, Any]]) -> str:
    """Plots the score of each evaluated arm in order, and the best so far."""
    figure, axes = _axes("evaluated arms, in order", "score")
    best, running = 0.0, []
    for point in points:
        best = max(best, point["score"])
        running.append(best)
    axes.step([p["order"] + 1 for p in points], running, where="post", color=INK, linewidth=1, label="best so far")
    for kind, marker in MARKERS.items():
        for initial, color in ((True, QUIET), (False, FORGET)):
            chosen = [p for p in points if p["kind"] == kind and (p["chosen_by"] == "initial") == initial]
            if chosen:
                x, y = [p["order"] + 1 for p in chosen], [p["score"] for p in chosen]
                by = chosen[0]["chosen_by"].replace("_", " ")
                axes.scatter(x, y, color=color, marker=marker, s=22, label=f"{kind}, {by}")
    axes.set_ylim(-0.03, 1.03)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(figure, 3)
    return _svg(figure, "scores of the searched instructions")


class Strength(NamedTuple):
    """Holds a point of the trade-off: two strengths, what is kept at worst, the forget metric with its 95 % interval."""

    forget_strength: float
    retain_strength: float
    utility: float
    forget: float
    interval: Interval | None
    within_budget: bool


def trade_off(points: Sequence[Strength], chosen: tuple[float, float] | None, budget: float | None) -> str:
    """Plots the forget metric against the worst retention for every strength of the grid, on validation data.

    A line joins the points of one strength of the retain adapter, which labels name only where there are several.
    `chosen` holds both strengths of a point.
    """
    figure, axes = _axes("worst retention of a utility metric", "forget metric")
    retained = list(dict.fromkeys(p.retain_strength for p in points))
    for retain_strength in retained:
        line = [p for p in points if p.retain_strength == retain_strength]
        axes.plot([p.utility for p in line], [p.forget for p in line], color=QUIET, linewidth=1, zorder=1)
    intervals = [p.interval for p in points]
    _bars(axes, [p.utility for p in points], intervals, QUIET)
    labels: dict[tuple[float, float], list[str]] = {}  # strengths that do the same share one label
    for point in points:
        picked = (point.forget_strength, point.retain_strength) == chosen
        color = FORGET if picked else INK if point.within_budget else QUIET
        axes.scatter(point.utility, point.forget, color=color, s=70 if picked else 26, zorder=3 if picked else 2)
        at = (round(point.utility, 2), round(point.forget, 2))
        second = f" and {point.retain_strength:g}" if len(retained) > 1 else ""
        labels.setdefault(at, []).append(f"{point.forget_strength:g}{second}" + (" chosen" if picked else ""))
    for at, names in labels.items():
        _label(axes, ", ".join(names), at, FORGET if any("chosen" in name for name in names) else INK)
    _height(axes, [*(p.forget for p in points), *_ends(intervals)])
    axes.margins(x=0.15)
    if budget is not None:
        axes.axvline(budget, color=KEEP, linestyle=":", linewidth=1.2)
        _label(axes, "budget", (budget, axes.get_ylim()[1]), KEEP, (0, 2))
    return _svg(figure, "forget metric against retention for each strength")


def loss(values: Mapping[str, float]) -> str:
    """Plots the loss of the revealed responses under the prompt that revealed them and under the training prompt."""
    names = [name for name in LOSSES if name in values] + [name for name in values if name not in LOSSES]
    rows = [(LOSSES.get(name, name.replace("_", " ")), values[name]) for name in names]
    finite = [(label, value) for label, value in rows if math.isfinite(value)]
    longest = max(len(label) for label, _ in finite)
    figure, axes = _axes("nats a token", height=0.38 * len(finite) + 0.7, left=0.2 + LETTER * longest)
    positions = range(len(finite))
    axes.barh(positions, [value for _, value in finite], color=FORGET, height=0.5)
    axes.set_yticks(positions, [label for label, _ in finite])
    for position, (_, value) in zip(positions, finite, strict=True):
        axes.annotate(
            f"{value:.3f}", (value, position), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=SMALL, color=INK,
        )  # fmt: skip
    axes.invert_yaxis()
    axes.margins(x=0.15)
    return _svg(figure, "loss of the revealed responses")


def recovery(steps: Sequence[int], curves: Mapping[str, Sequence[Metric]]) -> str:
    """Plots the forget metric, with its 95 % interval, while a model relearns true forget data; at most two models."""
    figure, axes = _axes("training steps on true forget data", "forget metric", height=2.6)
    heights: list[float] = []
    for (label, metrics), color, marker in zip(curves.items(), (FORGET, KEEP), ("o", "s"), strict=False):
        values, intervals = [metric.value for metric in metrics], [metric.interval() for metric in metrics]
        axes.plot(steps, values, color=color, marker=marker, markersize=4, label=label)
        _bars(axes, steps, intervals, color)
        heights += [*values, *_ends(intervals)]
    axes.set_xticks(steps)
    _height(axes, heights)
    _legend(figure, 2)
    return _svg(figure, "forget metric while relearning")
