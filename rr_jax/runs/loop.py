"""The loop: reveal, train, compose, measure, and round again, resumable at any point.

Each stage is computed or, if its checkpoint exists, restored; nothing else distinguishes a resumed run. The base
weights are read once and never change; what goes from round to round is the deltas.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rr_jax.data.sources import text_hash
from rr_jax.models.decoder import Adapter
from rr_jax.models.encoders.hub import Encoder, load_encoder
from rr_jax.models.hub import LanguageModel, load
from rr_jax.release.compose import RULES
from rr_jax.reporting.page import write_report
from rr_jax.reveal.recall import recall
from rr_jax.runs import baseline_stages
from rr_jax.runs.checkpoint import Checkpoints, Stage, stage_number
from rr_jax.runs.checks import check_paths, check_run
from rr_jax.runs.config import RunConfig
from rr_jax.runs.config_file import load_config
from rr_jax.runs.context import Context, base_stage, released_model, reveal_stage
from rr_jax.runs.folder import MetricsLog, check_config, note_seconds, read_json, read_run, start_folder, write_json
from rr_jax.runs.release_stages import compose_stage, measure_stage, train_stage
from rr_jax.runs.reuse import borrow
from rr_jax.tasks.base import Revealed, Task
from rr_jax.tasks.registry import make_task, section_of
from rr_jax.testbed import BASE
from rr_jax.training.loop import TrainingDiverged

Progress = Callable[[str, int, int], None]


class NothingRevealed(ValueError):
    """The first round's search disclosed too little to train on."""


def model_source(config: RunConfig) -> str:
    """The folder or hub id of a configuration's model, "testbed" being the one that ships with the package."""
    return str(BASE) if config.model == "testbed" else config.model


def load_model(config: RunConfig, progress: Progress | None = None) -> LanguageModel:
    """The model of a configuration; `progress` as for `run`.

    Raises:
      ValueError: when it cannot be loaded, or has no tokenizer.
    """
    note = None if progress is None else partial(progress, f"loading {config.model}")
    lm = load(model_source(config), dtype=config.dtype, revision=config.revision, chat=config.chat, progress=note)
    if lm.tokenizer is None:
        raise ValueError(f"model: {config.model} has no tokenizer, which a run needs")
    return lm


def run(
    config: str | Path | RunConfig,
    *,
    task: Any = None,
    progress: Progress | None = None,
    siblings: Sequence[Path] = (),
    **overrides: Any,
) -> dict[str, Any]:
    """Runs a configuration to its end, or resumes it, and returns the summary.

    Args:
      config: a YAML file or a configuration.
      task: a `Task` object, in place of what the configuration says of the task (a file may leave that out). The run
        folder records its class alone: whoever resumes or reads the run hands it over again. Or, as any other of the
        overrides, plain values of that key.
      progress: called with (what, done, of) as work goes on.
      siblings: folders of runs whose finished stages are taken over where nothing that the stage reads differs.
      overrides: top-level keys to replace when `config` is a file, such as out="runs/demo", rounds=1.

    Raises:
      ValueError: for anything wrong with the configuration, the model, the data or the run folder, before anything is
        written; `TrainingDiverged` and `NothingRevealed` when the run cannot go on.
    """
    if isinstance(task, str | dict):
        overrides, task = overrides | {"task": task}, None
    section = None if task is None else section_of(task)
    if isinstance(config, RunConfig) and overrides:
        raise ValueError(f"overrides ({', '.join(overrides)}) go with a file, not with a configuration object")
    if not isinstance(config, RunConfig):
        values = overrides if section is None else overrides | {"task": section.model_dump()}
        config = load_config(config, [f"{key}={yaml.safe_dump(value).strip()}" for key, value in values.items()])
    elif section is not None:
        config = config.model_copy(update={"task": section})
    with open_run(config, progress, siblings, task=task) as (context, checkpoints):
        summary = _rounds(context, checkpoints)
    write_json(context.folder / "summary.json", summary)
    write_report(context.folder)
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
    lm = load_model(config, progress) if lm is None else lm
    given = task is not None
    task = make_task(config.task, lm.tokenizer, config.seed, task)
    proposer, encoder = load_helpers(config, task)
    check_run(config, task, lm, proposer)
    retain = task.retain_examples(config.release.retain.examples, config.seed)
    data = {"retain": retain}
    if config.release.forget_data == "true":
        data["forget"] = baseline_stages.true_examples(config, task)
    start_folder(folder, config, {name: text_hash([e.prompt + e.response for e in data[name]]) for name in data})
    borrow(folder, config, () if given else siblings)  # an object holds what no configuration tells apart
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        saved = set(checkpoints.saved())
        log = MetricsLog(folder, lambda round_index, stage: stage_number(round_index, stage) in saved)
        show = progress or (lambda what, done, of: None)
        yield Context(config, task, lm, folder, log.write, show, proposer, encoder), checkpoints
    finally:
        checkpoints.close()


def saved_or_computed(context: Context, checkpoints: Checkpoints) -> Callable[[int, str, Callable[[], Stage]], Stage]:
    """A function of (round, stage, how it is computed) that restores the stage or computes and saves it."""
    saved = set(checkpoints.saved())
    unsaved = {"reveal"} if context.config.privacy.keep_revealed == "hashes" else set()

    def stage(round_index: int, name: str, compute: Callable[[], Stage]) -> Stage:
        number = stage_number(round_index, name)
        if number in saved:
            return checkpoints.restore(number)
        start = time.perf_counter()
        try:
            result = compute()
        except TrainingDiverged as error:
            good = max(saved, default=None)
            kept = "there is no checkpoint" if good is None else f"the last good checkpoint is {good}"
            raise TrainingDiverged(
                f"round {round_index}, stage {name}: {error}; {kept} in {checkpoints.folder}; "
                "a lower learning rate may help"
            ) from error
        if name not in unsaved:
            checkpoints.save(number, result)
            saved.add(number)
        note_seconds(context.folder, f"round {round_index}, {name}", time.perf_counter() - start)
        return result

    return stage


def _rounds(context: Context, checkpoints: Checkpoints) -> dict[str, Any]:
    config, task = context.config, context.task
    stage = saved_or_computed(context, checkpoints)
    studied = config.until == "reveal"
    reveals = config.release.forget_data == "revealed"
    ours = train_stage, compose_stage, measure_stage
    train, compose, measure = baseline_stages.STAGES if config.release.is_baseline else ours
    base = {"test": {}, "validation": {}} if studied else stage(0, "base", partial(base_stage, context)).meta
    summary: dict[str, Any] = {
        "task": task.name,
        "title": task.title or task.forget_metric,
        "seed": config.seed,
        "method": config.release.method,
        "forget_data": config.release.forget_data,
        "forget_metric": task.forget_metric,
        "utility_metrics": task.utility_metrics,
        "rule": config.release.eta.rule,
        "selection_rule": RULES[config.release.eta.rule],
        "base": base["test"],
        "base_validation": base["validation"],
        "rounds": [],
        "selected_round": 0,
        "stop": None,
        "status": "running",
    }
    deltas: Adapter | None = None
    best = base["validation"].get(task.forget_metric)
    stop = ("rounds_done", f"all {config.rounds} rounds are done")
    revealed: list[Revealed] = []
    told: frozenset[str] = frozenset()
    gained = 1.0
    earlier: list[Adapter] = []  # forget adapters of the rounds so far
    for round_index in range(1, config.rounds + 1):
        current = deltas
        entry: dict[str, Any] = {"round": round_index, "search": []}
        anew = {"every_round": True, "first_round": round_index == 1, "until_gain": gained >= config.reveal.min_gain}
        if reveals and (round_index == 1 or anew[config.reveal.when]):
            found = stage(round_index, "reveal", partial(reveal_stage, context, round_index, current)).meta
            revealed = [Revealed(**item) for item in found["revealed"]]
            now = frozenset(found["told"])
            before, told = recall(task, told), told | now
            entry |= {
                name: found[name]
                for name in ("search", "search_ended", "exploration", "left_out", "collected_relevance")
            }
            # of a later round it is what the model still discloses after what was released: residual knowledge
            entry["recall"] = {"round": recall(task, now), "cumulative": recall(task, told), "facts": len(task.facts)}
            gained = (recall(task, told) or 0.0) - (before or 0.0)
        entry["revealed"] = len(revealed)
        if studied:
            summary["rounds"].append(entry | {"accepted": None, "metrics": None})
            continue
        least = config.reveal.collect.min_size
        if reveals and len(revealed) < least:
            left_out = ", ".join(f"{count} {reason}" for reason, count in entry.get("left_out", {}).items())
            if round_index == 1:
                raise NothingRevealed(
                    f"nothing revealed: {len(revealed)} distinct examples passed the filter ({left_out or 'none'} left "
                    f"out), reveal.collect.min_size asks for {least}; widen the search with more "
                    "reveal.search.generations, reveal.arms.soft or reveal.collect.generations, or a lower "
                    "reveal.collect.threshold"
                )
            summary["residual"] = entry.get("recall")
            stop = ("nothing_revealed", f"round {round_index} revealed {len(revealed)} examples, fewer than {least}")
            break
        trained = stage(round_index, "train", partial(train, context, round_index, current, revealed, tuple(earlier)))
        composed = stage(
            round_index,
            "compose",
            partial(compose, context, round_index, current, trained, base["validation"]),
        )
        entry |= {
            "eta_forget": composed.meta["eta_forget"],
            "eta_retain": composed.meta["eta_retain"],
            "rule": composed.meta["rule"],
            "accepted": composed.meta["accepted"],
            "utility_budget": config.release.eta.utility_budget,
            "trade_off": composed.meta["trade_off"],
            "base_retain_nll": composed.meta["base_retain_nll"],
            "validation": composed.meta["validation"],
        }
        # of the forget adapter with the retain adapter that repaired it, or else with the one trained beside it
        entry |= trained.meta.get("layers", {}) | composed.meta.get("layers", {})
        said = trained.meta | composed.meta
        entry |= {name: said[name] for name in ("given", "interference", "merge_error") if name in said}
        if composed.meta["accepted"] and "interference" in entry:
            entry["interference"] |= composed.meta["cost"]
        if not composed.meta["accepted"]:
            entry |= {"metrics": None, "retention": None, "loss": trained.meta["loss"]}
            summary["rounds"].append(entry)
            stop = ("utility_floor", f"in round {round_index} no strength kept the utility within its budget")
            break
        deltas = composed.arrays["deltas"]
        earlier.append(trained.arrays["forget"])
        measured = stage(
            round_index,
            "measure",
            partial(measure, context, round_index, deltas, revealed, base["test"]),
        )
        entry |= {
            "metrics": measured.meta["metrics"],
            "retention": measured.meta["retention"],
            "loss": trained.meta["loss"] | measured.meta["loss"],
        }
        summary["rounds"].append(entry)
        value = composed.meta["validation"][task.forget_metric]
        if best is None or value < best:
            best, summary["selected_round"] = value, round_index
        write_json(context.folder / "summary.json", summary)
    summary["stop"] = {"reason": stop[0], "explanation": stop[1]}
    summary["status"] = "complete"
    return summary


def load_helpers(config: RunConfig, task: Task) -> tuple[LanguageModel | None, Encoder | None]:
    """The proposer and the sentence encoder that the reveal stage asks for, if any.

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
    return proposer, None if reveal.reward.encoder is None else load_encoder(reveal.reward.encoder)


def load_round(
    folder: str | Path,
    round_index: int | None = None,
    progress: Progress | None = None,
    task: Task | None = None,
) -> tuple[LanguageModel, RunConfig, int]:
    """The model of a round of a run (default: the selected one), rebuilt from the base weights and the checkpoint.

    Args:
      folder: of the run.
      round: 0 is the base model.
      progress: as for `run`.
      task: that of the run, if it was a Python object.

    Returns:
      the model, the run's configuration, and which round it is.

    Raises:
      ValueError: when the folder is no run or has no such round, or the run never changed a model.
    """
    deltas, config, round_index = load_deltas(Path(folder), round_index)
    lm = load_model(config, progress)
    task = make_task(config.task, lm.tokenizer, config.seed, task)
    return released_model(config, task, lm, deltas), config, round_index


def load_deltas(folder: Path, round_index: int | None = None) -> tuple[Adapter | None, RunConfig, int]:
    """What a round and all before it added to the base weights, in factor form; None for the base model, round 0.

    Raises:
      ValueError: as `load_round`.
    """
    config = read_run(folder)
    if round_index is None and config.until == "reveal":
        raise ValueError(f"{folder} was run until: reveal and has no model of its own; round 0 is the base model")
    if round_index is None:
        summary = folder / "summary.json"
        if not summary.exists():
            raise ValueError(f"{folder} has no summary.json yet: name a round, or finish the run first")
        round_index = int(read_json(summary)["selected_round"])
    if round_index == 0:
        return None, config, 0
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        number = stage_number(round_index, "compose")
        if round_index < 0 or number not in checkpoints.saved():
            done: Sequence[int] = [r for r in range(1, config.rounds + 1)
                                   if stage_number(r, "compose") in checkpoints.saved()]  # fmt: skip
            raise ValueError(f"{folder} has no round {round_index}; finished rounds: {', '.join(map(str, [0, *done]))}")
        return checkpoints.restore(number).arrays.get("deltas"), config, round_index
    finally:
        checkpoints.close()
