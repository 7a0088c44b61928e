"""The stages of a baseline's round, in the place of `stages.train_stage`, `compose_stage` and `measure_stage`.

Same adapters, same grid of strengths, same rule that chooses one and same measurement as ours, so that the numbers may
stand side by side. This is where the true forget data comes in, and the only place of a run where it does: what
`stages` trains knows nothing of it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rr_jax.data.packing import Example, Packed
from rr_jax.dynamics.interference import Layers, overlaps
from rr_jax.evaluate.perplexity import mean_nll
from rr_jax.lora.adapter import scale_adapter
from rr_jax.lora.algebra import add
from rr_jax.models.decoder import Adapter
from rr_jax.random import derive_seed
from rr_jax.release.baseline_trainer import train_baseline
from rr_jax.release.baselines import BETA, uses_retain, with_strength
from rr_jax.release.config import LOSSES
from rr_jax.runs.checkpoint import Stage, Tree
from rr_jax.runs.config import RunConfig
from rr_jax.runs.context import Context
from rr_jax.runs.release_stages import choose_strength, forget_rows, heal, measure_on, new_adapter, pack, retain_rows
from rr_jax.tasks.base import Revealed, Task
from rr_jax.training.loop import train


def true_examples(config: RunConfig, task: Task) -> list[Example]:
    """The true forget data of a run.

    Raises:
      ValueError: the task has none.
    """
    why = f"task {task.name} has none (its true_examples gives none)"
    try:
        found = task.true_examples(config.release.baseline.examples, config.seed)
    except ValueError as error:
        found, why = None, str(error)
    if not found:
        raise ValueError(f"release.method {config.release.method!r} needs the data to forget: {why}")
    return found


def train_stage(
    context: Context,
    round_index: int,
    deltas: Adapter | None,
    revealed: list[Revealed],
    earlier: Sequence[Adapter] = (),
) -> Stage:
    """The adapter that the baseline's loss trains, or of ext_sub both experts, or of alu_like one that nothing trains.

    A baseline has no earlier rounds.
    """
    release, model_config = context.config.release, context.base.config
    section, mode = release.baseline, context.config.parallel.mode
    adapter = new_adapter(context, "forget", round_index)
    forget = training_rows(context, round_index, revealed)
    if forget is None:
        return Stage({"forget": adapter}, {"loss": {}})
    params = context.model(deltas).params
    seed = derive_seed(context.config.seed, "release/batches", round_index)

    def log(step: int, values: dict[str, float]) -> None:
        context.log(round_index, "train", step, values)
        context.progress(f"round {round_index}: training {release.method}", step, release.train.steps)

    loss = {"training_prompt_before": mean_nll(params, forget, model_config)}
    if release.method in LOSSES:
        weight = section.retain_weight
        retained = uses_retain(release.method, weight)
        trained = {
            "forget": train_baseline(
                adapter,
                params,
                forget,
                retain_rows(context, round_index, release.train) if retained else None,
                model_config,
                release.train,
                scale=context.scale,
                method=release.method,
                optimizer=section.optimizer,
                sequence=section.sequence,
                retain_weight=weight,
                beta=section.beta or BETA.get(release.method, 1.0),
                margin=section.margin,
                mode=mode,
                seed=seed,
                log=log,
            )
        }
    else:
        adapters, data = {"forget": adapter}, {"forget": forget}
        if release.method == "ext_sub":
            adapters["retain"] = new_adapter(context, "retain", round_index)
            data["retain"] = retain_rows(context, round_index, release.train)
        trained = train(
            adapters, params, data, model_config, release.train, scale=context.scale, mode=mode, seed=seed, log=log
        )
    loss["training_prompt_after"] = mean_nll(
        params, forget, model_config, adapters=scale_adapter(trained["forget"], context.scale)
    )
    context.log(round_index, "train", release.train.steps, {f"loss/{name}": value for name, value in loss.items()})
    meta: dict[str, Any] = {"loss": loss}
    if release.forget_data == "true":
        meta["given"] = len(true_examples(context.config, context.task))
    return Stage(dict(trained), meta)


def compose_stage(
    context: Context, round_index: int, deltas: Adapter | None, trained: Stage, base_metrics: dict[str, float]
) -> Stage:
    """The baseline applied with a strength chosen on validation data; repaired after that if asked to."""
    release = context.config.release

    def composed(strength: float) -> Adapter:
        change = with_strength(release.method, trained.arrays, strength, context.scale)
        return change if deltas is None else add(deltas, change)

    @lru_cache(maxsize=1)  # several strengths of one repair follow each other
    def repair(strength: float) -> Adapter:
        return heal(context, round_index, composed(strength), trained.arrays["forget"], strength)

    def build(strength: float, eta_retain: float) -> tuple[Tree, Layers]:
        if release.retain.place == "none":
            return {"deltas": composed(strength)}, {}
        healed = repair(strength)
        repaired = add(composed(strength), scale_adapter(healed, eta_retain * context.scale))
        return {"deltas": repaired, "repair": healed}, overlaps(trained.arrays["forget"], healed)

    grid = [0.0] if release.method == "alu_like" else release.eta.forget
    return choose_strength(context, round_index, deltas, base_metrics, build, grid)


def measure_stage(
    context: Context, round_index: int, deltas: Adapter | None, revealed: list[Revealed], base_metrics: dict[str, float]
) -> Stage:
    """The baseline's model on test data."""
    return measure_on(context, round_index, deltas, training_rows(context, round_index, revealed), base_metrics)


STAGES = train_stage, compose_stage, measure_stage


def training_rows(context: Context, round_index: int, revealed: list[Revealed]) -> Packed | None:
    """The forget data: true examples under their own prompts, or what was revealed under those of `release.pairing`;
    None for a method that learns from neither."""
    release = context.config.release
    if release.forget_data == "none":
        return None
    if release.forget_data == "true":
        return pack(context, true_examples(context.config, context.task), release.train)
    return forget_rows(context, round_index, revealed, release.pairing)
