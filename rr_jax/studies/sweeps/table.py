"""The rows of a sweep, grouped, with means and intervals over seeds. Pure functions of rows."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

Row = dict[str, Any]
ALWAYS = ("best_score", "collected_relevance", "forget_share", "worst_retention")  # shown of a single combination too
MEANINGS = {  # of columns whose names do not say it
    "true_data": "whether true forget data was given",
    "rounds": "the selected round, 0 for the base model, which also counts where no strength kept within the budgets, or "
    "none that did forgot more",
    "forget_share": "forget metric as a share of the base's, test data",
    "worst_retention": "share of the base's value that the worst utility metric keeps, test data",
    "perplexity": "of test texts to keep",
    "overlap": "mean |cosine| of what the forget and the retain adapter read",
    "output_ratio": "how strongly the forget adapter acts on texts to keep, relative to texts to forget",
    "gradient_cosine": "of the gradients on texts to forget and to keep",
    "norm_a": "Frobenius norm of the forget adapter's A",
    "norm_update": "of its update A B",
    "retain_increase": "rise of the loss on validation texts to keep, nats a token, where the forget metric is a tenth of "
    "the base's on validation data: linear between the strengths tried, whichever was selected",
    "worst_variant": "forget metric by the prompt variant that brings back most, as a share of the base's",
}
WIDTH = 7  # numbers in a line; more go into a further table of the same lines


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Returns the mean and the half width of its 95 % interval (Student's t); NaN for a single value."""
    found = np.asarray(list(values), float)
    if len(found) < 2:
        return float(found.mean()), float("nan")
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean()), float(half)


def groups(rows: Sequence[Row], axes: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
    """Returns the rows of each combination of labels, in order."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[axis] for axis in axes), []).append(row)
    return found


def differing_axes(rows: Sequence[Row], axes: Sequence[str]) -> list[str]:
    """Returns the axes on which there is more than one label; the first if there is none, so that a line has a name."""
    return [axis for axis in axes if len({row[axis] for row in rows}) > 1] or list(axes[:1])


def table(rows: Sequence[Row], axes: Sequence[str]) -> str:
    """Returns Markdown: one line a combination, mean and 95 % interval over seeds of the numbers that differ between runs.

    What is the same in all runs, labels and numbers, stands in a line below. Numbers that do not fit beside each other
    go into further tables.
    """
    shown_axes = differing_axes(rows, axes)
    lined_up = groups(rows, shown_axes)
    numbers = [name for name in dict.fromkeys(n for row in rows for n in row) if name not in (*axes, "seed", "failed")]
    shown, same = [], [f"{axis} {rows[0][axis]}" for axis in axes if axis not in shown_axes]
    for name in numbers:
        found = [row[name] for row in rows if row.get(name) is not None]
        if "/" in name or not found:
            continue
        if len(set(found)) > 1 or (len(lined_up) == 1 and name in ALWAYS):
            shown.append(name)
        else:
            same.append(f"{name} {_cell(found[:1])}")
    tables = []
    for start in range(0, max(len(shown), 1), WIDTH):
        some = shown[start : start + WIDTH]
        lines = [
            f"| {' | '.join([*shown_axes, 'runs', *some])} |",
            "| --- |" + " --- |" * (len(shown_axes) + len(some)),
        ]
        for labels, members in lined_up.items():
            cells = [
                _cell([row[name] for row in members if row.get(name) is not None], of=len(members)) for name in some
            ]
            failed = sum("failed" in row for row in members)
            count = f"{len(members)}, {failed} failed" if failed else str(len(members))
            lines.append(f"| {' | '.join([*labels, count, *cells])} |")
        tables.append("\n".join(lines) + "\n")
    if same:
        tables.append(f"The same in all runs: {', '.join(same)}\n")
    meant = [f"{name}: {MEANINGS[name]}" for name in numbers if name in MEANINGS]
    if meant:
        tables.append("\n".join(f"* {line}" for line in meant) + "\n")
    return "\n".join(tables)


def _cell(values: Sequence[Any], of: int = 0) -> str:
    """Returns what a cell says of a number, or of a truth that the rows of a combination share; and how many have it,
    if not all `of` them do."""
    if not values:
        return ""
    if all(isinstance(value, bool) for value in values):
        return "/".join("yes" if value else "no" for value in dict.fromkeys(values))
    mean, half = interval(values)
    if all(isinstance(value, int) for value in values) and len(set(values)) == 1:
        said = str(values[0])
    else:
        places = 3 if abs(mean) < 20 else 0
        said = f"{mean:.{places}f}" if np.isnan(half) else f"{mean:.{places}f} +- {half:.{places}f}"
    return said if len(values) >= of else f"{said} ({len(values)} of {of})"
