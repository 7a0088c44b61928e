"""Attacks on a released model: does what was forgotten come back, and how easily?

Three of them: relearning from true examples, rounding of the weights, and other prompts. Everything is done to the base
model as well, since a number says nothing without it. What stays low is suppressed under this protocol; none of this
shows that anything was removed. Only here, and where release.data is "true", is the true forget data looked at.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from rr_jax.data.packing import Packed, pack_examples
from rr_jax.evaluate.metric import Metric
from rr_jax.evaluate.quantize import quantize_params
from rr_jax.generation.generator import Generator
from rr_jax.lora.adapter import init_adapter, scale_adapter
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import Adapter
from rr_jax.random import derive_seed, stream
from rr_jax.reporting.page import write_report
from rr_jax.runs.config import RunConfig
from rr_jax.runs.context import guarded, released_model
from rr_jax.runs.loop import Progress, load_deltas, load_model
from rr_jax.runs.results import AttackResult, Metrics, Relearning, RunSummary
from rr_jax.tasks.base import Evaluation, Task
from rr_jax.tasks.evaluation import evaluate_task
from rr_jax.tasks.registry import make_task
from rr_jax.training.config import TrainConfig
from rr_jax.training.loop import TrainJob, train

STEPS = (0, 1, 2, 5, 10, 20, 40)
EXAMPLES = 256
GROUPS: dict[int, int | None] = {8: None, 4: 64}  # bits -> inputs that share a scale; None: all of a channel
CLAIM = "what stays low is suppressed under this protocol; it is not shown to be removed"
MISSING = "how fast a model that never knew the target would learn it: that takes a base model trained without it"

Models = dict[str, Generator]  # "base", if compared, and "released"


def attack(
    folder: Path,
    round_index: int | None = None,
    *,
    steps: Sequence[int] = STEPS,
    examples: int = EXAMPLES,
    compared: bool = True,
    progress: Progress | None = None,
    task: Task | None = None,
) -> AttackResult:
    """Attacks the model of a round, writes attacks.json into the run folder, rebuilds the report, returns the findings.

    Args:
      folder: of a run.
      round_index: of which the model is attacked; None: the selected one.
      steps: of relearning, after which the forget metric is measured; growing, 0 is the model as it is.
      examples: true ones that relearning draws from.
      compared: also attacks the base model, and rounds the weights of both. Without, as for a table of many runs, there
        are relearning and prompts alone, and a run that ended with its base model is attacked as any other.
      progress: called with (what, done, of).
      task: that of the run, if it was a Python object.

    Raises:
      ValueError: the folder is no run, the round is not finished or (compared) is the base model, `steps` do not grow,
        or there is no true forget data.
    """
    check_steps(steps)
    note = progress or (lambda what, done, of: None)
    deltas, config, number = load_deltas(folder, round_index)
    if compared or number > 0:
        _check_finished(folder, number)
    base = load_model(config, progress)
    task = make_task(config.task, base.tokenizer, config.seed, task)
    rows = _true_rows(config, task, base, examples)
    released = guarded(task, released_model(base, deltas), config.evaluate.guard)
    models = {"base": Generator(base), "released": released} if compared else {"released": released}
    plain = {name: _forget(task, generator, config) for name, generator in models.items()}
    prompts, shots = _prompts(config, task, models, plain, note)
    relearned, training = _relearn(config, task, models, plain, rows, steps, note)
    device = jax.devices()[0]
    protocol: dict[str, Any] = {
        "claim": CLAIM,
        "missing": MISSING,
        "forget_metric": task.forget_metric,
        "seed": config.seed,
        "split": "test",
        "count": config.evaluate.test,
        "relearn": training | {"examples": examples, "rows": len(rows.tokens)},
        "prompts": {"shots": shots},
        "device": {"platform": device.platform, "kind": device.device_kind},
    }
    rounded: dict[str, dict[str, Metrics]] = {}
    if compared:
        rounded = _quantize(config, task, models, note)
        groups = {str(bits): group for bits, group in GROUPS.items()}
        protocol["quantize"] = {"method": "round to nearest, symmetric", "group": groups}
    found = AttackResult(
        round_index=number,
        protocol=protocol,
        relearn=relearned,
        prompts=prompts,
        quantize=rounded.get("released"),
        quantize_base=rounded.get("base"),
    )
    found.write(folder)
    write_report(folder)
    return found


def was_attacked(folder: Path, steps: Sequence[int]) -> bool:
    """Returns whether the selected model of a run was attacked, with these steps of relearning."""
    if not (folder / AttackResult.FILE).exists():
        return False
    found = AttackResult.read(folder)
    return found.round_index == RunSummary.read(folder).selected_round and found.relearn.steps == tuple(steps)


def check_steps(steps: Sequence[int], what: str = "steps") -> None:
    """Raises ValueError unless there are steps of relearning and they grow."""
    if not steps or steps[0] < 0 or steps[-1] < 1 or any(a >= b for a, b in itertools.pairwise(steps)):
        raise ValueError(f"{what} is {list(steps)}, expected growing numbers from 0 up, such as 0, 5, 10")


def _check_finished(folder: Path, number: int) -> None:
    """Refuses a round that released nothing, or is not measured yet."""
    if number == 0:
        raise ValueError(f"round 0 of {folder} is the base model, from which nothing was released: name another round")
    there = (folder / RunSummary.FILE).exists()
    if not there or number not in [result.round_index for result in RunSummary.read(folder).measured]:
        raise ValueError(f"round {number} of {folder} is not finished: resume the run first")


def _true_rows(config: RunConfig, task: Task, lm: LanguageModel, examples: int) -> Packed:
    found = task.true_examples(examples, derive_seed(config.seed, "attacks/examples"))
    if not found:
        raise ValueError(
            f"task {task.name} has no true examples (its true_examples gives none), which relearning trains on"
        )
    return pack_examples(lm.tokenizer, found, min(config.release.train.seq_len, lm.config.max_positions), lm.chat)


def _forget(task: Task, generator: Generator, config: RunConfig) -> Evaluation:
    """Returns the forget metric, and the degenerate share beside it."""
    only = frozenset((task.forget_metric, task.degenerate_metric))
    # fluency, which a base model would judge, is not among them
    return evaluate_task(task, generator, "test", config.evaluate.test, base=generator.lm, only=only)


def _prompts(
    config: RunConfig, task: Task, models: Models, plain: dict[str, Evaluation], note: Progress
) -> tuple[dict[str, Metrics], int]:
    """Returns the forget metric by prompt variant, "as_measured" first, and the number of examples shown by "few_shot"."""
    anyone, its = next(iter(models.values())), next(iter(plain.values()))  # prompts are the same for all
    asked = [str(sample["prompt"]) for sample in its.samples if sample["metric"] == task.forget_metric]
    variants, shots = task.prompt_variants(anyone.lm, asked, derive_seed(config.seed, "attacks/shots"))
    measured = {"as_measured": plain}
    for index, (variant, other) in enumerate(variants.items()):
        note("attack: other prompts", index, len(variants))
        measured[variant] = {name: _forget(other, generator, config) for name, generator in models.items()}
    note("attack: other prompts", len(variants), len(variants))
    lines: dict[str, Metrics] = {}
    for variant, by_model in measured.items():
        lines[variant] = {name: result.metrics[task.forget_metric] for name, result in by_model.items()}
        for name, result in by_model.items():
            lines[variant][f"degenerate_{name}"] = result.metrics[task.degenerate_metric]
    return lines, shots


def _relearn(
    config: RunConfig,
    task: Task,
    models: Models,
    plain: dict[str, Evaluation],
    rows: Packed,
    steps: Sequence[int],
    note: Progress,
) -> tuple[Relearning, dict[str, Any]]:
    """Returns the curves of the models, and how they were trained.

    An adapter of the run's own shape is trained with a constant learning rate, so every point is the same training
    continued; all models get the same start and the same batches.
    """
    adapter, own = config.release.adapter, config.release.train
    rate = config.evaluate.relearning_rate or own.learning_rate
    section = own.model_copy(update={"steps": steps[-1], "learning_rate": rate})
    curves: dict[str, tuple[Metric, ...]] = {}
    for name, generator in models.items():
        # who trains the weights leaves behind what watches the answers
        start = plain[name] if generator.streams else _forget(task, Generator(generator.lm), config)
        measured = {0: start} | _continue_training(config, task, generator.lm, rows, section, steps, name, note)
        points = [measured[step].metrics for step in steps]
        key, degenerate = ("forget", "degenerate") if name == "released" else ("base", "degenerate_base")
        curves[key] = tuple(point[task.forget_metric] for point in points)
        curves[degenerate] = tuple(point[task.degenerate_metric] for point in points)
    training = section.model_dump(exclude={"steps"}) | {"schedule": "constant"} | {"adapter": adapter.model_dump()}
    return Relearning(steps=tuple(steps), **curves), training


def _continue_training(
    config: RunConfig,
    task: Task,
    lm: LanguageModel,
    rows: Packed,
    section: TrainConfig,
    steps: Sequence[int],
    name: str,
    note: Progress,
) -> dict[int, Evaluation]:
    shape = config.release.adapter
    measured: dict[int, Evaluation] = {}

    def measure(step: int, adapters: dict[str, Adapter]) -> None:
        # not merged: weights of few bits would round away what a few steps change
        attacked = Generator(lm, adapters=scale_adapter(adapters["attack"], shape.scale))
        measured[step] = _forget(task, attacked, config)

    job = TrainJob(
        adapters={"attack": init_adapter(stream(config.seed, "attacks/adapter"), lm.config, shape.rank, shape.targets)},
        rows={"attack": rows},
        section=section,
        scale=shape.scale,
        seed=derive_seed(config.seed, "attacks/batches"),
        log=lambda step, values: note(f"attack: relearning, {name} model", step, section.steps),
        constant=True,
    )
    train(job, lm.params, lm.config, config.parallel.mode, watch=measure, watch_after=steps)
    return measured


def _quantize(config: RunConfig, task: Task, models: Models, note: Progress) -> dict[str, dict[str, Metrics]]:
    """Returns all metrics by model and bits."""
    found: dict[str, dict[str, Metrics]] = {name: {} for name in models}
    of, section, base = len(models) * len(GROUPS), config.evaluate, models["base"].lm
    for index, (bits, group) in enumerate(GROUPS.items()):
        quantize = jax.jit(partial(quantize_params, bits=bits, group=group))
        for offset, (name, generator) in enumerate(models.items()):
            note("attack: rounded weights", index * len(models) + offset, of)
            lm = dataclasses.replace(generator.lm, params=quantize(generator.params))
            rounded = dataclasses.replace(generator, lm=lm)
            result = evaluate_task(task, rounded, "test", section.test, base=base, metrics=section.metrics)
            found[name][str(bits)] = result.metrics
    note("attack: rounded weights", of, of)
    return found
