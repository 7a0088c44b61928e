"""One run from its configuration to its report: what `rr_jax.run` and the command line call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rr_jax.reporting.page import write_report
from rr_jax.runs import loop
from rr_jax.runs.config import RunConfig
from rr_jax.runs.loop import Progress
from rr_jax.runs.results import RunSummary


def run(
    config: str | Path | RunConfig,
    *,
    task: Any = None,
    progress: Progress | None = None,
    siblings: Sequence[Path] = (),
    **overrides: Any,
) -> RunSummary:
    """Runs a configuration to its end, or resumes it, writes its report, and returns its summary.

    Args:
      config, task, overrides: as for `rr_jax.runs.loop.resolve`.
      progress, siblings: as for `rr_jax.runs.loop.run`.

    Raises:
      ValueError: as both.
    """
    resolved, given = loop.resolve(config, task, **overrides)
    summary = loop.run(resolved, task=given, progress=progress, siblings=siblings)
    write_report(Path(resolved.out))
    return summary
