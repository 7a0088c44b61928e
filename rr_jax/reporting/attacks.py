"""What the page shows of attacks on a released model: a recovery curve and tables of what comes back.

Reads what an evaluation with attacks found. Knows nothing of how an attack is made.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rr_jax.reporting import plots
from rr_jax.runs.results import AttackResult, Metrics, RunSummary

ATTACKS = {
    "relearn": "training on true forget data",
    "quantize": "rounded weights",
    "prompts": "other prompts",
}


def attacks_view(attacks: AttackResult, summary: RunSummary) -> dict[str, Any]:
    """Returns the recovery curve and tables of what was tried to bring the forgotten back."""
    relearn = attacks.relearn
    curves = {"released model": relearn.forget}
    if relearn.base is not None:
        curves["base model, trained the same"] = relearn.base
    degenerate = [*relearn.degenerate, *(relearn.degenerate_base or ())]
    entry = next((result for result in summary.measured if result.round_index == attacks.round_index), None)
    base, released = {"base model": summary.base}, {"as released": (entry.metrics if entry else None) or {}}
    rounded = _by_bits(attacks.quantize or {}, "released")
    if rounded:
        rounded = base | _by_bits(attacks.quantize_base or {}, "base model") | released | rounded
    return {
        "round": attacks.round_index,
        "tried": [name for name in ATTACKS if getattr(attacks, name)],
        "protocol": {name.replace("_", " "): value for name, value in attacks.protocol.items()},
        "curve": plots.recovery(relearn.steps, curves) if len(relearn.steps) > 1 else None,
        "degenerate": max((metric.value for metric in degenerate), default=0.0),
        "prompts": _table(attacks.prompts),
        "rounded": _table(rounded, summary.shown_metrics),
    }


def _by_bits(metrics: Mapping[str, Metrics], of: str) -> dict[str, Metrics]:
    return {f"{of}, {bits} bits": values for bits, values in metrics.items()}


def _table(groups: Mapping[str, Metrics], only: Sequence[str] = ()) -> dict[str, Any]:
    """Returns named groups of metrics as columns and rows; `only` names the columns to show, if a group has any."""
    rows = {label.replace("_", " "): row for label, row in groups.items() if row}
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    return {"columns": [name for name in only if name in columns] or columns, "rows": rows}
