"""The train stage: the forget adapter, and beside it whatever the objective and the retain place ask for, in one step."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rr_jax.data.packing import Packed, first_rows
from rr_jax.dynamics.interference import (
    by_layer,
    gradient_cosine,
    layer_values,
    output_ratio,
    overlaps,
    readings,
    sizes,
)
from rr_jax.evaluate.metric import Metric, to_plain, values_of
from rr_jax.evaluate.nll import nll_metric
from rr_jax.lora.activations import Directions, dominant_directions
from rr_jax.lora.adapter import scale_adapter
from rr_jax.models.spec import Adapter, Params
from rr_jax.random import derive_seed
from rr_jax.release.objectives.base import FORGET, RETAIN
from rr_jax.runs.checkpoint import Stage
from rr_jax.runs.context import Context
from rr_jax.runs.stages.rows import (
    forget_examples,
    forget_rows,
    held_out_rows,
    new_adapter,
    pack,
    remembered,
    retain_rows,
)
from rr_jax.tasks.base import Revealed
from rr_jax.training.constraint import UNCONSTRAINED, References
from rr_jax.training.loop import TrainJob, train

ACTIVATION_ROWS = 64  # rows of retain data whose activations constrain a training


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Holds the first half of the train stage: the training to be done, and what was measured before it.

    Attributes:
      forget: the rows that the forget adapter learns from.
      given: how many examples of true data; None where they were revealed.
      loss: mean NLL of the forget rows before, nats a token.
    """

    job: TrainJob
    forget: Packed
    given: int | None
    loss: dict[str, Metric]


def train_stage(
    context: Context,
    round_index: int,
    deltas: Adapter | None,
    revealed: Sequence[Revealed],
    earlier: Sequence[Adapter] = (),
) -> Stage:
    """Returns the trained adapters by name. `earlier` are the forget adapters of the rounds before."""
    params = context.model(deltas).params
    prepared = prepare_training(context, round_index, params, revealed, earlier)
    steps = context.config.release.train.steps

    def log(step: int, values: dict[str, float]) -> None:
        context.log(round_index, "train", step, values)
        context.progress(f"round {round_index}: training adapters", step, steps)

    job = dataclasses.replace(prepared.job, log=log)
    trained = train(job, params, context.base.config, context.config.parallel.mode)
    return finish_training(context, round_index, params, prepared, trained)


def prepare_training(
    context: Context, round_index: int, params: Params, revealed: Sequence[Revealed], earlier: Sequence[Adapter] = ()
) -> Prepared:
    """Does all of the train stage before the first step, on the weights `params` of the current model."""
    config, release, model_config = context.config, context.config.release, context.base.config
    examples = forget_examples(context, round_index, revealed)
    forget = pack(context, examples, release.train)
    companions = release.objective.companions()
    beside = [RETAIN] if release.place.trains_beside else []
    adapters = {name: new_adapter(context, name, round_index) for name in (FORGET, *beside, *companions)}
    losses = {FORGET: release.objective, **companions}
    looked_at = {FORGET, *beside, *(name for loss in losses.values() for name in loss.rows)}
    rows = {FORGET: forget}
    if RETAIN in looked_at:
        rows[RETAIN] = retain_rows(context, round_index, release.train)
    loss = {}
    if release.source.reveals:
        same = forget_rows(context, round_index, revealed, "same")
        loss["revealing_prompt"] = nll_metric(params, same, model_config)
    loss["training_prompt_before"] = nll_metric(params, forget, model_config)
    job = TrainJob(
        adapters=adapters,
        rows=rows,
        section=release.train,
        scale=context.scale,
        losses=losses,
        constraint=release.orthogonality if release.orthogonality.acts_on(pair=bool(beside)) else UNCONSTRAINED,
        references=References(
            memory=remembered(context, earlier),
            directions=_retain_directions(context, round_index, params),
        ),
        constrained=1 + len(beside),
        optimizer=release.optimizer,
        seed=derive_seed(config.seed, "release/batches", round_index),
    )
    return Prepared(job, forget, None if release.source.reveals else len(examples), loss)


def finish_training(
    context: Context, round_index: int, params: Params, prepared: Prepared, trained: dict[str, Adapter]
) -> Stage:
    """Does all of the train stage after the last step.

    Interference is measured on texts to keep that no training and no constraint has seen: on those of a constraint it
    would flatter that constraint.
    """
    model_config, job = context.base.config, prepared.job
    adapter, forget, kept = trained[FORGET], prepared.forget, held_out_rows(context)
    after = nll_metric(params, forget, model_config, adapters=scale_adapter(adapter, context.scale))
    loss = prepared.loss | {"training_prompt_after": after}
    cosine = gradient_cosine(params, adapter, kept, forget, model_config, scale=context.scale)
    interference = {
        "output_ratio": by_layer(output_ratio(params, adapter, kept, forget, model_config)),
        "gradient_cosine": by_layer(cosine),
    }
    values = {f"loss/{name}": value for name, value in values_of(loss).items()}
    values |= {f"interference/{name}": float(np.mean([*found.values()])) for name, found in interference.items()}
    layers = sizes(adapter) | readings(adapter, job.references.directions)
    layers |= overlaps(adapter, trained[RETAIN]) if RETAIN in trained else {}
    values |= layer_values({f"interference/{name}": found for name, found in interference.items()} | layers)
    if job.references.memory is not None:
        earlier = overlaps(adapter, job.references.memory)
        values |= layer_values({f"memory/{name}": found for name, found in earlier.items()})
    context.log(round_index, "train", job.section.steps, values)
    meta: dict[str, Any] = {"loss": to_plain(loss), "interference": interference, "layers": layers}
    return Stage(dict(trained), meta | ({} if prepared.given is None else {"given": prepared.given}))


def _retain_directions(context: Context, round_index: int, params: Params) -> dict[str, Directions] | None:
    """Returns the dominant directions of what each adapted module reads on retain data, where a constraint asks for
    them."""
    release = context.config.release
    if not release.orthogonality.needs_directions:
        return None
    retain = retain_rows(context, round_index, release.train)
    rows = first_rows(retain, ACTIVATION_ROWS)
    modules = tuple(release.adapter.targets)
    return dominant_directions(params, rows, context.base.config, modules, release.orthogonality.directions)
