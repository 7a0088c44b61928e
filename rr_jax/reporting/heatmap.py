"""A map of numbers by module and layer as inline SVG, written directly: a page may have a dozen of them.

Colours are names of the page's style, as in `plots`. This module must never know what the numbers mean.
"""

import html
import math
from collections.abc import Mapping, Sequence

WIDTH = 374.4  # points; the page scales it
ROW = 19.4  # height of a cell, points
LETTER = 4.6  # mean width of a letter of 8 points
FULL_COLOUR = 0.75  # opacity of the largest cell: a number on it stays readable
CELLS_WITH_NUMBERS = 10  # layers beyond which a cell is too narrow for its number
GAP = 1.6  # between cells, points
MOST_TICKS = 16
LEAST_SCALE = 0.05  # the scale ends at the largest absolute value, and not below this: noise is no finding


def largest(values: Mapping[str, Sequence[float]]) -> float:
    """Returns the largest absolute value of a map, 0 for one without numbers."""
    return max((abs(v) for line in values.values() for v in line if math.isfinite(v)), default=0.0)


def heatmap(values: Mapping[str, Sequence[float]], label: str) -> str:
    """Draws one number for each module (rows) and layer (columns): the deeper the colour, the larger.

    Ochre is below zero. Cells without a finite number stay empty.

    Args:
      values: {module: number by layer}.
      label: what the map shows, for those who do not see it.
    """
    count = max(len(line) for line in values.values())
    high = max(LEAST_SCALE, largest(values))
    left = 8 + LETTER * max(map(len, values))
    cell = (WIDTH - left) / count
    parts = []
    for row, (name, line) in enumerate(values.items()):
        top = row * ROW
        parts.append(_text(name, left - 4, top + 0.65 * ROW, "end", 8))
        for column, value in enumerate(line):
            if not math.isfinite(value):
                continue
            x, color = left + column * cell, "forget" if value >= 0 else "keep"
            parts.append(
                f'<rect x="{x + 0.5 * GAP:.2f}" y="{top + 0.5 * GAP:.2f}" width="{cell - GAP:.2f}" '
                f'height="{ROW - GAP:.2f}" fill="var(--{color})" fill-opacity="{FULL_COLOUR * abs(value) / high:.3f}" '
                'stroke="var(--rule)" stroke-width="0.4"/>'
            )
            if count <= CELLS_WITH_NUMBERS:
                shown = f"{value:.3f}" if abs(value) >= 0.0005 else "0"
                parts.append(_text(shown, x + 0.5 * cell, top + 0.63 * ROW, "middle", 7))
    bottom = len(values) * ROW
    for column in range(0, count, max(1, count // MOST_TICKS)):
        parts.append(_text(str(column + 1), left + (column + 0.5) * cell, bottom + 11, "middle", 8))
    parts.append(_text(f"layer (full colour: {high:.2g})", left + (WIDTH - left) / 2, bottom + 24, "middle", 8))
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {WIDTH} {bottom + 30:.1f}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _text(text: str, x: float, y: float, anchor: str, points: float) -> str:
    return (
        f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" font-size="{points}" fill="var(--ink)">'
        f"{html.escape(text)}</text>"
    )
