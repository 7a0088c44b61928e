"""The rows of a sweep, grouped, with means and intervals over seeds. Pure functions of rows."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

Row = dict[str, Any]
ALWAYS = ("best_score", "collected_relevance", "forget_share", "worst_retention")  # shown also where runs do not differ


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t); NaN for a single value."""
    found = np.asarray(list(values), float)
    if len(found) < 2:
        return float(found.mean()), float("nan")
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean()), float(half)


def groups(rows: Sequence[Row], axes: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
    """The rows of each combination of labels, in order."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[axis] for axis in axes), []).append(row)
    return found


def table(rows: Sequence[Row], axes: Sequence[str]) -> str:
    """Markdown: one line a combination, mean and 95 % interval over seeds of the numbers that differ between runs."""
    numbers = [name for name in dict.fromkeys(n for row in rows for n in row) if name not in (*axes, "seed", "failed")]
    shown = [
        name
        for name in numbers
        if "/" not in name and (name in ALWAYS or len({row.get(name) for row in rows} - {None}) > 1)
    ]
    lines = [
        f"| {' | '.join([*axes, 'runs', *shown])} |",
        "| --- |" + " --- |" * (len(axes) + len(shown)),
    ]
    for labels, members in groups(rows, axes).items():
        cells = []
        for name in shown:
            values = [row[name] for row in members if row.get(name) is not None]
            cells.append(_cell(values))
        failed = sum("failed" in row for row in members)
        count = f"{len(members)}, {failed} failed" if failed else str(len(members))
        lines.append(f"| {' | '.join([*labels, count, *cells])} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[Any]) -> str:
    """What a cell says of a number, or of a truth that the rows of a combination share."""
    if not values:
        return ""
    if all(isinstance(value, bool) for value in values):
        return "/".join("yes" if value else "no" for value in dict.fromkeys(values))
    mean, half = interval(values)
    return f"{mean:.3f}" if np.isnan(half) else f"{mean:.3f} +- {half:.3f}"
