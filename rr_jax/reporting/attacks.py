"""What the page shows of attacks on a released model: a recovery curve and tables of what comes back.

Reads what an evaluation with attacks wrote, and any part of it may be missing. Knows nothing of how an attack is made.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rr_jax.reporting import plots
from rr_jax.reporting.rounds import Summary, measured

ATTACKS = {
    "relearn": "training on true forget data",
    "quantize": "rounded weights",
    "prompts": "other prompts",
}


def attacks_view(attacks: Mapping[str, Any], summary: Summary) -> dict[str, Any] | None:
    """Recovery curve and tables of what was tried to bring the forgotten back; None if nothing was."""
    tried = [name for name in ATTACKS if attacks.get(name)]
    if not tried:
        return None
    relearn = attacks.get("relearn") or {}
    steps = relearn.get("steps") or []
    names = {"forget": "released model", "base": "base model, trained the same"}
    curves = {
        label: [_finite(value) for value in relearn[name]]
        for name, label in names.items()
        if steps and len(relearn.get(name) or []) == len(steps)
    }
    degenerate = [
        v for name, values in relearn.items() if name.startswith("degenerate") for v in values if v is not None
    ]
    shown = [summary["forget_metric"], *summary["utility_metrics"]]
    number = attacks.get("round", summary["selected_round"])
    entry = next((e for e in measured(summary) if e["round"] == number), None)
    base, released = {"base model": summary["base"]}, {"as released": entry["metrics"] if entry else {}}
    rounded = _by_bits(attacks.get("quantize") or {}, "released")
    if rounded:
        rounded = base | _by_bits(attacks.get("quantize_base") or {}, "base model") | released | rounded
    prompts = attacks.get("prompts") or {}
    if any(isinstance(values, dict) and set(shown) & set(values) for values in prompts.values()):
        prompts = base | released | prompts
    return {
        "round": number,
        "tried": tried,
        "protocol": {name.replace("_", " "): value for name, value in (attacks.get("protocol") or {}).items()},
        "curve": plots.recovery(steps, curves) if len(steps) > 1 and curves else None,
        "degenerate": max(degenerate, default=0.0),
        "prompts": _table(prompts, shown),
        "rounded": _table(rounded, shown),
    }


def _by_bits(metrics: Mapping[str, Any], of: str) -> dict[str, Any]:
    return {f"{of}, {bits} bits": values for bits, values in metrics.items()}


def _table(entries: Mapping[str, Any], only: Sequence[str] = ()) -> dict[str, Any]:
    """Named groups of numbers as columns and rows. `only` names the columns to show, if a group has any of them."""
    rows = {
        label.replace("_", " "): {name: value for name, value in values.items() if _is_number(value)}
        for label, values in entries.items()
        if isinstance(values, dict)
    }
    rows = {label: row for label, row in rows.items() if row}
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    columns = [name for name in only if name in columns] or columns
    return {"columns": columns, "rows": rows}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any) -> float:
    """A number as it is; NaN, which a plot leaves out, for what is missing."""
    return math.nan if value is None else float(value)
