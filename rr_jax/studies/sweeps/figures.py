"""The figures of a sweep: search curves with intervals, and forgetting against utility. Reads rows, runs nothing."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rr_jax.studies.sweeps.table import Row, differing_axes, groups, interval

COLORS = ("#b4442f", "#2a6f77", "#8a6d3b", "#5b4a8a", "#4f7942", "#9aa5b1")
# told apart by colour, and by these when the colours are used up
STYLES = [(color, line, mark) for line, mark in zip(("-", "--", ":", "-."), "os^D", strict=True) for color in COLORS]
COLUMNS = 3  # panels beside each other
Curve = tuple[Row, np.ndarray, np.ndarray]  # of which run, generations spent, scores


def write_figures(folder: Path, rows: Sequence[Row], curves: Sequence[Curve], axes: Sequence[str]) -> list[Path]:
    """Writes the figures that the rows allow, as PNG, and returns their paths.

    Panels go by the first axis when there are several, colours by the others; an axis with one label is left out.
    """
    written, axes = [], differing_axes(rows, axes)
    if curves and all(len(generations) for _, generations, _ in curves):
        written += [
            _save(folder / "best_score.png", _curves(curves, axes, "best score so far", np.maximum.accumulate)),
            _save(folder / "cumulative_score.png", _curves(curves, axes, "mean score so far", _running_mean)),
        ]
    if any("forget_share" in row for row in rows):
        written.append(_save(folder / "trade_off.png", _trade_off(rows, axes)))
    if any("retain_increase" in row for row in rows):
        written.append(_save(folder / "interference.png", _interference(rows, axes)))
        written.append(_save(folder / "cost_of_forgetting.png", _costs(rows, axes)))
    if _lambdas(rows, axes):
        written.append(_save(folder / "against_lambda.png", _against_lambda(rows, axes)))
    if any("attack/steps" in row for row in rows):
        written.append(_save(folder / "recovery.png", _recovery(rows, axes)))
    return written


def _running_mean(scores: np.ndarray) -> np.ndarray:
    return np.cumsum(scores) / np.arange(1, len(scores) + 1)


def _panels(rows: Sequence[Row], axes: Sequence[str]) -> tuple[list[str], Sequence[str]]:
    """Returns the labels of the panels, and the axes that colours stand for."""
    if len(axes) < 2:
        return [""], axes
    return list(dict.fromkeys(row[axes[0]] for row in rows)), axes[1:]


def _figure(panels: Sequence[str]) -> tuple[Figure, list[Any]]:
    columns = min(len(panels), COLUMNS)
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.4 * columns + 0.4, 3.6 * lines), layout="constrained")
    plots = list(figure.subplots(lines, columns, squeeze=False).flat)
    for plot in plots[len(panels) :]:
        plot.remove()
    for plot, title in zip(plots, panels, strict=False):
        _dress(plot, title)
    return figure, plots[: len(panels)]


def _dress(plot: Any, title: str) -> None:
    plot.set_title(title, fontsize=10)
    plot.spines[["top", "right"]].set_visible(False)
    plot.tick_params(labelsize=8)


def _legend(figure: Figure, plots: Sequence[Any], axes: Sequence[str] = ()) -> None:
    """Draws one legend for all panels, below them: what is in one may be missing in another. `axes` are what its labels
    are of."""
    found = {text: handle for plot in plots for handle, text in zip(*plot.get_legend_handles_labels(), strict=True)}
    columns = _columns([len(text) for text in found], figure.get_figwidth())
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=columns, fontsize=8, frameon=False,
        title=" · ".join(axes) or None, title_fontsize=8,
    )  # fmt: skip


def _columns(lengths: Sequence[int], inches: float) -> int:
    """Returns into how many columns of a legend texts of so many letters go, so that it is no wider than that."""
    for columns in range(len(lengths), 1, -1):
        height, longer = divmod(len(lengths), columns)  # matplotlib makes the first columns longer by one
        ends = [column * height + min(column, longer) for column in range(columns + 1)]
        widest = [max(lengths[start:end]) for start, end in itertools.pairwise(ends)]
        if sum(0.075 * width + 0.65 for width in widest) <= inches:
            return columns
    return 1


def _curves(curves: Sequence[Curve], axes: Sequence[str], label: str, summarise: Any) -> Figure:
    runs = [row | {"_spent": spent, "_values": summarise(scores)} for row, spent, scores in curves]
    panels, colored = _panels(runs, axes)
    figure, plots = _figure(panels)
    styles = dict(zip(groups(runs, colored), itertools.cycle(STYLES), strict=False))
    for plot, panel in zip(plots, panels, strict=True):
        members = [run for run in runs if panel in ("", run[axes[0]])]
        for labels, group in groups(members, colored).items():
            color, line, _ = styles[labels]
            shortest = min(len(run["_spent"]) for run in group)
            spent = group[0]["_spent"][:shortest]
            lines = np.stack([run["_values"][:shortest] for run in group])  # [seeds, evaluations]
            middle, half = np.array([interval(column) for column in lines.T]).T
            plot.plot(spent, middle, color=color, linestyle=line, linewidth=1.4, label=" · ".join(labels))
            plot.fill_between(spent, middle - half, middle + half, color=color, alpha=0.15, linewidth=0)
        plot.set_xlabel("responses generated", fontsize=9)
    plots[0].set_ylabel(f"{label} (95 % interval)", fontsize=9)
    _legend(figure, plots, colored)
    return figure


def _trade_off(rows: Sequence[Row], axes: Sequence[str]) -> Figure:
    panels, colored = _panels(rows, axes)
    figure, plots = _figure(panels)
    styles = dict(zip(groups(rows, colored), itertools.cycle(STYLES), strict=False))
    for plot, panel in zip(plots, panels, strict=True):
        members = [row for row in rows if panel in ("", row[axes[0]]) and "forget_share" in row]
        for labels, group in groups(members, colored).items():
            color, _, mark = styles[labels]
            (x, dx), (y, dy) = (interval(row[name] for row in group) for name in ("worst_retention", "forget_share"))
            plot.errorbar(
                x, y, np.nan_to_num(dy), np.nan_to_num(dx), mark, color=color, capsize=2, label=" · ".join(labels)
            )
        plot.set_ylim(-0.05, None)  # an interval may reach below, no share does
        plot.set_xlabel("worst retention of a utility metric", fontsize=9)
    plots[0].set_ylabel("forget metric, share of the base's", fontsize=9)
    _legend(figure, plots, colored)
    return figure


def _interference(rows: Sequence[Row], axes: Sequence[str]) -> Figure:
    """Draws bars of the retain loss that forgetting costs at the target."""
    panels, colored = _panels(rows, axes)
    figure, plots = _figure(panels)
    for plot, panel in zip(plots, panels, strict=True):
        members = groups([row for row in rows if panel in ("", row[axes[0]])], colored)
        names = [" · ".join(labels) for labels in members]
        for index, group in enumerate(members.values()):
            values = [row["retain_increase"] for row in group if "retain_increase" in row]
            if values:
                middle, half = interval(values)
                plot.barh(index, middle, 0.6, xerr=np.nan_to_num(half), color=COLORS[1], capsize=2)
                plot.plot(values, [index] * len(values), ".", color="black", markersize=4)
            else:
                plot.text(0, index, " never so far down", va="center", fontsize=8)
        plot.set_yticks(range(len(names)), names, fontsize=8)
        plot.set_ylim(len(names) - 0.5, -0.5)
        plot.axvline(0, color="black", linewidth=0.6)
        plot.set_xlabel("rise of retain loss at 10 % of the forget\nmetric, nats a token (95 % interval)", fontsize=8)
    plots[0].set_ylabel(" · ".join(colored), fontsize=9)
    return figure


def _lambdas(rows: Sequence[Row], axes: Sequence[str]) -> dict[str, list[float]]:
    """Returns the constraints tried at several lambdas, in rising order; none where runs differ in more than these and
    a panel."""
    measured = [row for row in rows if "overlap" in row and "constraint/kind" in row]
    found: dict[str, set[float]] = {}
    settings: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    _, others = _panels(rows, axes)
    for row in measured:
        kind, strength = row["constraint/kind"], row["constraint/lambda"]
        found.setdefault(kind, set()).add(strength)
        settings.setdefault((kind, strength), set()).add(tuple(row[axis] for axis in others))
    if any(len(labels) > 1 for labels in settings.values()):
        return {}
    return {kind: sorted(strengths) for kind, strengths in found.items() if len(strengths) > 1}


def _against_lambda(rows: Sequence[Row], axes: Sequence[str]) -> Figure:
    """Draws overlap above and interference below, against lambda; a dotted line where there is no constraint."""
    panels, _ = _panels(rows, axes)
    lambdas = _lambdas(rows, axes)
    measures = {"overlap": "mean |cosine| of what both read", "retain_increase": "rise of retain loss at 10 %, nats"}
    figure = Figure(figsize=(4.4 * len(panels) + 0.4, 6.4), layout="constrained")
    plots = figure.subplots(len(measures), len(panels), squeeze=False, sharex=True)
    for line, (name, label) in enumerate(measures.items()):
        for plot, panel in zip(plots[line], panels, strict=True):
            _dress(plot, panel if line == 0 else "")
            members = [row for row in rows if panel in ("", row[axes[0]]) and name in row]
            free = [row[name] for row in members if row["constraint/kind"] == "none"]
            if free:
                plot.axhline(np.mean(free), color="black", linewidth=0.8, linestyle=":", label="none")
            for (kind, strengths), (color, _, mark) in zip(lambdas.items(), STYLES, strict=False):
                at = {x: [r[name] for r in members if (r["constraint/kind"], r["constraint/lambda"]) == (kind, x)]
                      for x in strengths}  # fmt: skip
                at = {x: values for x, values in at.items() if values}
                if at:
                    middle, half = np.array([interval(values) for values in at.values()]).T
                    plot.errorbar(list(at), middle, np.nan_to_num(half), color=color, marker=mark, markersize=4,
                                  linewidth=1.2, capsize=2, label=kind)  # fmt: skip
            plot.set_xscale("log")
        plots[line][0].set_ylabel(label, fontsize=9)
    for plot in plots[-1]:
        plot.set_xlabel("lambda", fontsize=9)
    _legend(figure, list(plots.flat))
    return figure


def _costs(rows: Sequence[Row], axes: Sequence[str]) -> Figure:
    """Draws the retain loss against what is left of the forget metric, a line a run."""
    panels, colored = _panels(rows, axes)
    figure, plots = _figure(panels)
    styles = dict(zip(groups(rows, colored), itertools.cycle(STYLES), strict=False))
    for plot, panel in zip(plots, panels, strict=True):
        members = [row for row in rows if panel in ("", row[axes[0]]) and "curve/forget_share" in row]
        for labels, group in groups(members, colored).items():
            color, line, _ = styles[labels]
            for number, row in enumerate(group):
                label = " · ".join(labels) if number == 0 else None
                x, y = row["curve/forget_share"], row["curve/retain_increase"]
                plot.plot(x, y, color=color, linestyle=line, linewidth=1, alpha=0.8, label=label)
        plot.axvline(0.1, color="black", linewidth=0.6, linestyle=":")
        plot.invert_xaxis()
        plot.set_xlabel("forget metric, share of the base's (validation)", fontsize=9)
    plots[0].set_ylabel("rise of retain loss, nats a token", fontsize=9)
    _legend(figure, plots, colored)
    return figure


def _recovery(rows: Sequence[Row], axes: Sequence[str]) -> Figure:
    """Draws what training on true forget data brings back, by steps: means over seeds, with their range if lines are
    few."""
    panels, colored = _panels(rows, axes)
    figure, plots = _figure(panels)
    styles = dict(zip(groups(rows, colored), itertools.cycle(STYLES), strict=False))
    for plot, panel in zip(plots, panels, strict=True):
        members = [row for row in rows if panel in ("", row[axes[0]]) and "attack/steps" in row]
        for labels, group in groups(members, colored).items():
            color, line, mark = styles[labels]
            lines = np.array([row["attack/forget_share"] for row in group])  # [seeds, measurements]
            steps, label = group[0]["attack/steps"], " · ".join(labels)
            plot.plot(steps, lines.mean(0), color=color, linestyle=line, marker=mark, markersize=3, label=label)
            if len(styles) <= len(COLORS):
                plot.fill_between(steps, lines.min(0), lines.max(0), color=color, alpha=0.08, linewidth=0)
        plot.set_xscale("symlog", linthresh=2)  # the first steps tell most
        taken = sorted({step for row in members for step in row["attack/steps"]})
        plot.set_xticks(taken, taken)
        plot.minorticks_off()
        plot.set_xlabel("steps of relearning on true forget data", fontsize=9)
        plot.set_ylim(-0.03, None)
    plots[0].set_ylabel("share of the base's forget metric", fontsize=9)
    _legend(figure, plots, colored)
    return figure


def _save(path: Path, figure: Figure) -> Path:
    figure.savefig(path, dpi=130)
    return path
