"""The figures of a sweep: search curves with intervals, and forgetting against utility. Reads rows, runs nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rr_jax.sweep_table import Row, groups, interval

COLORS = ("#b4442f", "#2a6f77", "#8a6d3b", "#5b4a8a", "#4f7942", "#9aa5b1")
Curve = tuple[Row, np.ndarray, np.ndarray]  # of which run, generations spent, scores


def write_figures(folder: Path, rows: Sequence[Row], curves: Sequence[Curve], axes: Sequence[str]) -> list[Path]:
    """Writes the figures that the rows allow, as PNG, and returns their paths.

    Panels go by the first axis when there are several, colours by the others.
    """
    written = []
    if curves and all(len(generations) for _, generations, _ in curves):
        written += [
            _save(folder / "best_score.png", _curves(curves, axes, "best score so far", np.maximum.accumulate)),
            _save(folder / "cumulative_score.png", _curves(curves, axes, "mean score so far", _running_mean)),
        ]
    if any("forget_share" in row for row in rows):
        written.append(_save(folder / "trade_off.png", _trade_off(rows, axes)))
    return written


def _running_mean(scores: np.ndarray) -> np.ndarray:
    return np.cumsum(scores) / np.arange(1, len(scores) + 1)


def _panels(rows: Sequence[Row], axes: Sequence[str]) -> tuple[list[str], Sequence[str]]:
    """Labels of the panels, and the axes that colours stand for."""
    if len(axes) < 2:
        return [""], axes
    return list(dict.fromkeys(row[axes[0]] for row in rows)), axes[1:]


def _figure(panels: Sequence[str]) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(4.4 * len(panels) + 0.4, 3.6), layout="constrained")
    plots = list(figure.subplots(1, len(panels), squeeze=False)[0])
    for plot, title in zip(plots, panels, strict=True):
        plot.set_title(title, fontsize=10)
        plot.spines[["top", "right"]].set_visible(False)
        plot.tick_params(labelsize=8)
    return figure, plots


def _curves(curves: Sequence[Curve], axes: Sequence[str], label: str, summarise: Any) -> Figure:
    runs = [row | {"_spent": spent, "_values": summarise(scores)} for row, spent, scores in curves]
    panels, colored = _panels(runs, axes)
    figure, plots = _figure(panels)
    for plot, panel in zip(plots, panels, strict=True):
        members = [run for run in runs if panel in ("", run[axes[0]])]
        for color, (labels, group) in zip(COLORS * 4, groups(members, colored).items(), strict=False):
            shortest = min(len(run["_spent"]) for run in group)
            spent = group[0]["_spent"][:shortest]
            lines = np.stack([run["_values"][:shortest] for run in group])  # [seeds, evaluations]
            middle, half = np.array([interval(column) for column in lines.T]).T
            plot.plot(spent, middle, color=color, linewidth=1.4, label=" ".join(labels))
            plot.fill_between(spent, middle - half, middle + half, color=color, alpha=0.15, linewidth=0)
        plot.set_xlabel("responses generated", fontsize=9)
    plots[0].set_ylabel(f"{label} (95 % interval)", fontsize=9)
    plots[-1].legend(fontsize=8, frameon=False)
    return figure


def _trade_off(rows: Sequence[Row], axes: Sequence[str]) -> Figure:
    panels, colored = _panels(rows, axes)
    figure, plots = _figure(panels)
    for plot, panel in zip(plots, panels, strict=True):
        members = [row for row in rows if panel in ("", row[axes[0]]) and "forget_share" in row]
        for color, (labels, group) in zip(COLORS * 4, groups(members, colored).items(), strict=False):
            (x, dx), (y, dy) = (interval(row[name] for row in group) for name in ("worst_retention", "forget_share"))
            plot.errorbar(
                x, y, np.nan_to_num(dy), np.nan_to_num(dx), "o", color=color, capsize=2, label=" ".join(labels)
            )
        plot.set_xlabel("worst retention of a utility metric", fontsize=9)
    plots[0].set_ylabel("forget metric, share of the base's", fontsize=9)
    plots[-1].legend(fontsize=8, frameon=False)
    return figure


def _save(path: Path, figure: Figure) -> Path:
    figure.savefig(path, dpi=130)
    return path
