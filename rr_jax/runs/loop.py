"""A run from its configuration to its summary, and a round's model from the folder that a run left.

Everything that can be wrong is looked for before anything is written. The base weights are read once and never change;
what goes from round to round is the deltas.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rr_jax.data.sources import text_hash
from rr_jax.generation.likelihood import check_logits
from rr_jax.models.encoders.hub import Encoder, load_encoder
from rr_jax.models.hub import LanguageModel, load
from rr_jax.models.spec import Adapter
from rr_jax.reveal.scorers import Relevance
from rr_jax.runs.checkpoint import Checkpoints, stage_number
from rr_jax.runs.checks import check_paths, check_retain, check_run
from rr_jax.runs.config import RunConfig
from rr_jax.runs.config_file import load_config
from rr_jax.runs.context import Context, released_model
from rr_jax.runs.folder import MetricsLog, check_config, read_run, set_damage_aside, start_folder
from rr_jax.runs.lock import locked, refuse_in_use
from rr_jax.runs.results import RunSummary
from rr_jax.runs.reuse import borrow
from rr_jax.runs.rounds import run_rounds
from rr_jax.runs.stages.rows import forget_examples
from rr_jax.tasks.base import Task
from rr_jax.tasks.registry import make_task, section_of
from rr_jax.testbed import BASE

Progress = Callable[[str, int, int], None]


def model_source(config: RunConfig) -> str:
    """Returns the folder or hub id of a configuration's model, "testbed" being the one that ships with the package."""
    return str(BASE) if config.model == "testbed" else config.model


def load_model(config: RunConfig, progress: Progress | None = None) -> LanguageModel:
    """Loads the model of a configuration; `progress` as for `run`.

    Raises:
      ValueError: when it cannot be loaded, has no tokenizer, or computes no finite numbers.
    """
    note = None if progress is None else partial(progress, f"loading {config.model}")
    lm = load(model_source(config), dtype=config.dtype, revision=config.revision, chat=config.chat, progress=note)
    if lm.tokenizer is None:
        raise ValueError(f"model: {config.model} has no tokenizer, which a run needs")
    check_logits(lm, config.model)
    return lm


def resolve(config: str | Path | RunConfig, task: Any = None, **overrides: Any) -> tuple[RunConfig, Task | None]:
    """Returns the configuration of a run, and its task if that is a Python object.

    Args:
      config: a YAML file or a configuration.
      task: a `Task` object, in place of what the configuration says of the task (a file may leave that out). The run
        folder records its class alone: whoever resumes or reads the run hands it over again. Or, as any other of the
        overrides, plain values of that key.
      overrides: top-level keys to replace when `config` is a file, such as out="runs/demo", rounds=1.

    Raises:
      ValueError: for anything wrong with the configuration.
    """
    if isinstance(task, str | dict):
        overrides, task = overrides | {"task": task}, None
    section = None if task is None else section_of(task)
    if isinstance(config, RunConfig) and overrides:
        raise ValueError(f"overrides ({', '.join(overrides)}) go with a file, not with a configuration object")
    if isinstance(config, RunConfig):
        return config if section is None else config.model_copy(update={"task": section}), task
    values = overrides if section is None else overrides | {"task": section.model_dump()}
    return load_config(config, [f"{key}={yaml.safe_dump(value).strip()}" for key, value in values.items()]), task


def run(
    config: RunConfig, *, task: Any = None, progress: Progress | None = None, siblings: Sequence[Path] = ()
) -> RunSummary:
    """Runs a configuration to its end, or resumes it, and returns the summary.

    Args:
      config, task: as for `resolve`.
      progress: called with (what, done, of) as work goes on.
      siblings: folders of runs whose finished stages are taken over where nothing that the stage reads differs.

    Raises:
      ValueError: for anything wrong with the configuration, the model, the data or the run folder, before anything is
        written; `TrainingDiverged` and `NothingRevealed` when the run cannot go on.
    """
    config, task = resolve(config, task)
    with open_run(config, progress, siblings, task=task) as (context, checkpoints):
        summary = run_rounds(context, checkpoints)
        summary.write(context.folder)
    return summary


@contextlib.contextmanager
def open_run(
    config: RunConfig,
    progress: Progress | None = None,
    siblings: Sequence[Path] = (),
    lm: LanguageModel | None = None,
    task: Task | None = None,
) -> Iterator[tuple[Context, Checkpoints]]:
    """Checks a configuration, starts or finds its folder, and hands over what its stages need.

    Args:
      config, progress, siblings: as for `run`.
      lm: the configuration's model, if it is loaded already.
      task: the task, if it is a Python object.

    Raises:
      ValueError: as `run`.
    """
    folder = Path(config.out)
    check_paths(config)
    check_config(folder, config)
    refuse_in_use(folder)
    lm = load_model(config, progress) if lm is None else lm
    given = task is not None
    task = make_task(config.task, lm.tokenizer, config.seed, task)
    proposer, encoder, relevance = load_helpers(config, task)
    check_run(config, task, lm, proposer)
    retain = task.retain_examples(config.release.retain.examples, config.seed)
    check_retain(config, task, retain)
    data = {"retain": retain}
    note = progress or _silent
    context = Context(config, task, lm, folder, lambda *line: None, note, proposer, encoder, relevance)
    if not config.release.source.reveals:
        data["forget"] = forget_examples(context, 1, [])
    with locked(folder):
        check_config(folder, config)  # another process may have begun and ended in the meantime
        start_folder(folder, config, {name: text_hash([e.prompt + e.response for e in data[name]]) for name in data})
        set_damage_aside(folder)
        borrow(folder, config, () if given else siblings)  # an object holds what no configuration tells apart
        checkpoints = Checkpoints(folder / "checkpoints")
        try:
            saved = set(checkpoints.saved())
            log = MetricsLog(folder, lambda round_index, stage: stage_number(round_index, stage) in saved)
            yield dataclasses.replace(context, log=log.write), checkpoints
        finally:
            checkpoints.close()


def _silent(what: str, done: int, of: int) -> None:
    """Shows no progress."""


def load_helpers(config: RunConfig, task: Task) -> tuple[LanguageModel | None, Encoder | None, Relevance]:
    """Loads the proposer and the sentence encoder that the reveal stage asks for, if any, and its scorer.

    Raises:
      ValueError: one cannot be loaded, or the run's end depends on a recall that the task cannot tell.
    """
    reveal = config.reveal
    if reveal.when == "until_gain" and not task.facts:
        raise ValueError("reveal.when is 'until_gain', but the task knows no facts to count recall in: give task.facts")
    proposer = None
    if reveal.arms.proposer is not None:
        proposer = load(reveal.arms.proposer, dtype=config.dtype, chat=config.chat)
        if proposer.tokenizer is None:
            raise ValueError(f"reveal.arms.proposer: {reveal.arms.proposer} has no tokenizer, which a proposer needs")
    encoder = None if reveal.reward.encoder is None else load_encoder(reveal.reward.encoder)
    return proposer, encoder, reveal.reward.scorer.load()


def load_round(
    folder: str | Path,
    round_index: int | None = None,
    progress: Progress | None = None,
) -> tuple[LanguageModel, RunConfig, int]:
    """Rebuilds the model of a round of a run (default: the selected one) from the base weights and the checkpoint.

    Args:
      folder: of the run.
      round_index: 0 is the base model.
      progress: as for `run`.

    Returns:
      the model without any guard, the run's configuration, and which round it is.

    Raises:
      ValueError: when the folder is no run or has no such round, or the run never changed a model.
    """
    deltas, config, round_index = load_deltas(Path(folder), round_index)
    lm = load_model(config, progress)
    return released_model(lm, deltas), config, round_index


def load_deltas(folder: Path, round_index: int | None = None) -> tuple[Adapter | None, RunConfig, int]:
    """Returns what a round and all before it added to the base weights, in factor form; None for the base model, round 0.

    Raises:
      ValueError: as `load_round`.
    """
    config = read_run(folder)
    if round_index is None and config.until == "reveal":
        raise ValueError(f"{folder} was run until: reveal and has no model of its own; round 0 is the base model")
    if round_index is None:
        if not (folder / "summary.json").exists():
            raise ValueError(f"{folder} has no summary.json yet: name a round, or finish the run first")
        round_index = RunSummary.read(folder).selected_round
    if round_index == 0:
        return None, config, 0
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        number = stage_number(round_index, "compose")
        if round_index < 0 or number not in checkpoints.saved():
            done: Sequence[int] = [r for r in range(1, config.rounds + 1)
                                   if stage_number(r, "compose") in checkpoints.saved()]  # fmt: skip
            raise ValueError(f"{folder} has no round {round_index}; finished rounds: {', '.join(map(str, [0, *done]))}")
        return checkpoints.restore(number).arrays.get("deltas"), config, round_index
    finally:
        checkpoints.close()
