"""What the page shows of attacks on a released model: a recovery curve and tables of what comes back.

Reads what an evaluation with attacks wrote, and any part of it may be missing. Knows nothing of how an attack is made.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rr_jax import report_plots as plots
from rr_jax.report_rounds import Summary, measured

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
    names = {"forget": relearn.get("label") or "released model", "base": "base model, trained the same"}
    curves = {
        names.get(name, name.replace("_", " ")): [_finite(value) for value in values]
        for name, values in relearn.items()
        if name != "steps" and isinstance(values, list) and len(values) == len(steps)
    }
    shown = [summary["forget_metric"], *summary["utility_metrics"]]
    number = attacks.get("round", summary["selected_round"])
    entry = next((e for e in measured(summary) if e["round"] == number), None)
    whole = {"base model": summary["base"], "as released": entry["metrics"] if entry else {}}
    tables = []
    if attacks.get("quantize"):
        rounded = {f"{bits} bits" if str(bits).isdigit() else bits: v for bits, v in attacks["quantize"].items()}
        title = "Rounded weights: does a coarser model remember?"
        tables.append((title, _table(whole | rounded, shown)))
    if attacks.get("prompts"):
        prompts = attacks["prompts"]
        by_metric = any(isinstance(values, dict) and set(shown) & set(values) for values in prompts.values())
        title = "Other prompts: was only the wording forgotten?"
        tables.append((title, _table(whole | prompts if by_metric else prompts, shown)))
    return {
        "round": number,
        "tried": tried,
        "protocol": attacks.get("protocol") or {},
        "curve": plots.recovery(steps, curves, relearn.get("base_forget")) if len(steps) > 1 and curves else None,
        "tables": [(title, table) for title, table in tables if table["rows"]],
    }


def _table(entries: Mapping[str, Any], only: Sequence[str] = ()) -> dict[str, Any]:
    """Named groups of numbers as columns and rows; a group of groups gives a row for each.

    `only` names the columns to show, if a group has any of them.
    """
    rows: dict[str, dict[str, float]] = {}
    for label, values in entries.items():
        nested = values if isinstance(values, dict) else {"value": values}
        rows[label] = {name: value for name, value in nested.items() if _is_number(value)}
        for inner, group in nested.items():
            if isinstance(group, dict):
                rows[f"{label}, {inner.replace('_', ' ')}"] = {n: v for n, v in group.items() if _is_number(v)}
    rows = {label.replace("_", " "): row for label, row in rows.items() if row}
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    columns = [name for name in only if name in columns] or columns
    return {"columns": columns, "rows": rows}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any) -> float:
    """A number as it is; NaN, which a plot leaves out, for what is missing."""
    return math.nan if value is None else float(value)
