"""The model card of an exported round: what the model is, how it was made, and what was measured of it.

Reads a configuration and a summary. Must never claim that something is gone: it says what was measured, and how.
"""

import json

from rr_jax.release.data import FORGET_DATA
from rr_jax.reporting.page import with_error
from rr_jax.runs.config import RunConfig
from rr_jax.runs.results import RoundResult, RunSummary


def model_card(
    config: RunConfig, summary: RunSummary | None, number: int, base: str, library: str, version: str
) -> str:
    """Returns the README.md of an exported model or adapter, with the header that the Hugging Face hub reads.

    Args:
      config, summary: of the run; None where it has none yet.
      number: the round, 0 for the base model.
      base: what the base model is called elsewhere.
      library: what loads it, "transformers" or "peft".
      version: of this package.
    """
    about = summary.title if summary is not None and summary.title else str(getattr(config.task, "name", "the target"))
    lines = [
        "---",
        f"base_model: {json.dumps(base)}",
        f"library_name: {library}",
        "tags: [machine-unlearning]",
        "---",
        "",
    ]
    if number == 0:
        lines += [f"# {base}, unchanged", "", f"The base model as rr-jax {version} wrote it: nothing was forgotten."]
        return "\n".join(lines) + "\n"
    release = config.release
    lines += [
        f"# {base} after unlearning: {about}",
        "",
        f"Made by rr-jax {version}, round {number} of a run with seed {config.seed}: objective `{release.objective.name}` "
        f"on {FORGET_DATA.get(release.data).title}, retain place `{release.retain.place}`.",
    ]
    found = None if summary is None else next((one for one in summary.rounds if one.round_index == number), None)
    if summary is not None and found is not None and found.metrics:
        lines += ["", *_table(summary, found)]
    lines += [
        "",
        "A low forget metric says what this model answers to the questions that were asked. It does not say that nothing "
        "is left: few steps of training on true data, or other questions, may bring it back.",
    ]
    if library == "peft":
        return "\n".join(lines) + "\n"
    lines += [
        "",
        "It decodes with the settings of the base model (`generation_config.json`). They were not used for these numbers: "
        "rr-jax draws by the task's temperature and applies no penalties.",
    ]
    return "\n".join(lines) + "\n"


def _table(summary: RunSummary, found: RoundResult) -> list[str]:
    """Returns the forget and the utility metrics before and after, on test data."""
    metrics = found.metrics or {}
    rows = [
        f"| {'forget' if name == summary.forget_metric else 'keep'} | {name} | {with_error(summary.base.get(name))} | "
        f"{with_error(metrics.get(name))} | {metrics[name].n if name in metrics else ''} |"
        for name in (summary.forget_metric, *summary.utility_metrics)
    ]
    return [
        f"Strength {found.forget_strength:g}. Test data, value \u00b1 standard error:",
        "",
        "| | metric | base | this model | n |",
        "|---|---|---|---|---|",
        *rows,
    ]
