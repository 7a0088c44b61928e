"""The figure of a trade-off surface: two panels, the loss on the rows of the forget adapter and on texts to keep.

Numbers in, SVG text out; it stands alone, so its colours are its own. Knows nothing of files or runs.
"""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from rr_jax.runs.results import SurfaceResult

PANELS = {
    "forget": ("on forget rows", "Blues", "#2b5fa5"),
    "retain": ("on texts to keep", "YlOrBr", "#9a6412"),
}
INK = "#1f2933"
LEVELS = 12


def surface_svg(surface: SurfaceResult) -> str:
    """Draws both losses over the two strengths as contours, or over one as curves; equal numbers give equal text.

    Args:
      surface: of one round.
    """
    figure = Figure(figsize=(9.2, 3.8), layout="constrained")
    for axes, (name, (title, colours, colour)) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        source = surface.rows[name].source
        axes.set_title(f"Loss {title} ({source}), nats a token", fontsize=9, color=INK)
        axes.set_xlabel("forget_strength", fontsize=9, color=INK)
        axes.tick_params(labelsize=8, labelcolor=INK)
        values = np.ma.masked_invalid(np.asarray(surface.losses(name), float))  # [F, T]
        if len(surface.forget_strength) > 1 and len(surface.retain_strength) > 1:
            _contours(figure, axes, surface, values, colours)
        else:
            _curve(axes, surface, values, name, colour)
        axes.margins(0.04)
    label = "\u25cb before the round" + ("   \u2605 chosen" if _shown(surface) else "")
    figure.supxlabel(label, fontsize=9, color=INK)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rr-jax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _contours(figure: Figure, axes: Any, surface: SurfaceResult, values: Any, colours: str) -> None:
    axes.set_ylabel("retain_strength", fontsize=9, color=INK)
    if values.count() and np.ptp(values) > 0:
        filled = axes.contourf(
            surface.forget_strength, surface.retain_strength, values.T, LEVELS, cmap=colours, alpha=0.8
        )
        bar = figure.colorbar(filled, ax=axes)
        bar.ax.tick_params(labelsize=8, labelcolor=INK)
    _mark(axes, (0.0, 0.0), "o")
    if surface.chosen is not None:
        _mark(axes, (surface.chosen.forget_strength, surface.chosen.retain_strength), "*")


def _shown(surface: SurfaceResult) -> bool:
    """Returns whether the chosen point lies on what is drawn: a curve goes along one axis, at 0 of the other."""
    if surface.chosen is None:
        return False
    fixed = {name for name in ("forget_strength", "retain_strength") if len(getattr(surface, name)) == 1}
    if surface.retain_adapter is None:
        fixed -= {"retain_strength"}
    return all(getattr(surface.chosen, name) == 0.0 for name in fixed)


def _curve(axes: Any, surface: SurfaceResult, values: Any, name: str, colour: str) -> None:
    """Draws the losses along one axis where the other has 0 alone."""
    along = "forget_strength" if len(surface.retain_strength) == 1 else "retain_strength"
    other = "retain_strength" if along == "forget_strength" else "forget_strength"
    axes.set_xlabel(f"{along}, {other} 0" if surface.retain_adapter else along, fontsize=9, color=INK)
    line = values.reshape(-1)
    axes.plot(getattr(surface, along), line, color=colour, marker=".")
    _mark(axes, (0.0, line[getattr(surface, along).index(0.0)]), "o")
    if _shown(surface):
        _mark(axes, (getattr(surface.chosen, along), getattr(surface.chosen, f"{name}_nll")), "*")


def _mark(axes: Any, at: tuple[float, float], marker: str) -> None:
    size = 130 if marker == "*" else 60
    axes.scatter(*at, marker=marker, s=size, facecolor="white", edgecolor=INK, linewidth=1.2, zorder=5, clip_on=False)
