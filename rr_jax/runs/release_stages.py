"""The stages of a round that change the model: train the adapters, choose how strongly to apply them, measure the result.

As `stages`, from models and earlier results to arrays and plain values; `rounds` knows what is saved.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from rr_jax.data.packing import Example, Packed, first_rows, pack_examples
from rr_jax.dynamics.interference import (
    Layers,
    by_layer,
    gradient_cosine,
    layer_values,
    output_ratio,
    overlaps,
    readings,
    sizes,
)
from rr_jax.evaluate.perplexity import mean_nll
from rr_jax.lora.activations import Directions, dominant_directions
from rr_jax.lora.adapter import init_adapter, scale_adapter
from rr_jax.lora.algebra import add, merge_error
from rr_jax.models.decoder import Adapter, Params
from rr_jax.random import derive_seed, stream
from rr_jax.release.compose import Point, choose_eta, compose, ends_climb
from rr_jax.release.pairing import training_examples
from rr_jax.runs.checkpoint import Stage, Tree
from rr_jax.runs.context import Context, measure
from rr_jax.runs.folder import write_lines
from rr_jax.tasks.base import Revealed, retention
from rr_jax.training.config import TrainConfig
from rr_jax.training.loop import train

ACTIVATION_ROWS = 64  # rows of retain data whose activations constrain a training


def pack(context: Context, examples: Sequence[Example], section: TrainConfig) -> Packed:
    """Examples as rows of a training."""
    base = context.base
    return pack_examples(base.tokenizer, examples, min(section.seq_len, base.config.max_positions), base.chat)


def new_adapter(context: Context, name: str, round_index: int) -> Adapter:
    """The start of the adapter called `name` in a round."""
    section = context.config.release.adapter
    key = stream(context.config.seed, f"release/{name}", round_index)
    return init_adapter(key, context.base.config, section.rank, section.targets)


def forget_rows(context: Context, round_index: int, revealed: list[Revealed], pairing: str) -> Packed:
    """The forget set under the prompts of a pairing. Its only source is what the model revealed."""
    seed = derive_seed(context.config.seed, "release/pairing", round_index)
    return pack(context, training_examples(context.task, revealed, pairing, seed), context.config.release.train)


def retain_rows(context: Context, round_index: int, section: TrainConfig) -> Packed:
    """Retain data of a round."""
    seed = derive_seed(context.config.seed, "release/retain", round_index)
    return pack(context, context.task.retain_examples(context.config.release.retain.examples, seed), section)


def held_out_rows(context: Context) -> Packed:
    """Validation texts of what is to be kept, the same in every round: never trained on, and never test data."""
    config = context.config
    seed = derive_seed(config.seed, "release/held_out")
    examples = context.task.retain_examples(2 * config.evaluate.validation, seed, "valid")
    return pack(context, examples, config.release.train)


@dataclasses.dataclass(frozen=True)
class Training:
    """What the first half of the train stage hands to whoever trains: the adapters' start, and the rows of each."""

    adapters: dict[str, Adapter]
    data: dict[str, Packed]
    loss: dict[str, float]  # before
    seed: int
    memory: Adapter | None
    directions: dict[str, Directions] | None


def train_stage(
    context: Context,
    round_index: int,
    deltas: Adapter | None,
    revealed: list[Revealed],
    earlier: Sequence[Adapter] = (),
) -> Stage:
    """The forget adapter, with the retain adapter beside it in the same step where its place asks for that.

    `earlier` are the forget adapters of the rounds before.
    """
    release, params = context.config.release, context.model(deltas).params
    training = begin_training(context, round_index, params, revealed, earlier)

    def log(step: int, values: dict[str, float]) -> None:
        context.log(round_index, "train", step, values)
        context.progress(f"round {round_index}: training adapters", step, release.train.steps)

    trained = train(
        training.adapters,
        params,
        training.data,
        context.base.config,
        release.train,
        scale=context.scale,
        penalty=release.orthogonality.penalty,
        penalty_weight=release.orthogonality.weight,
        projection=release.orthogonality.projection,
        memory=training.memory,
        directions=training.directions,
        mode=context.config.parallel.mode,
        seed=training.seed,
        log=log,
    )
    return end_training(context, round_index, params, training, trained)


def begin_training(
    context: Context, round_index: int, params: Params, revealed: list[Revealed], earlier: Sequence[Adapter] = ()
) -> Training:
    """All of the train stage before the first step, on the weights `params` of the current model."""
    release, model_config = context.config.release, context.base.config
    forget, retain = (
        forget_rows(context, round_index, revealed, release.pairing),
        retain_rows(context, round_index, release.train),
    )
    adapters, data = {"forget": new_adapter(context, "forget", round_index)}, {"forget": forget}
    if release.retain.place not in ("after", "none"):
        adapters["retain"], data["retain"] = new_adapter(context, "retain", round_index), retain
    loss = {
        "revealing_prompt": mean_nll(params, forget_rows(context, round_index, revealed, "same"), model_config),
        "training_prompt_before": mean_nll(params, forget, model_config),
    }
    return Training(
        adapters,
        data,
        loss,
        seed=derive_seed(context.config.seed, "release/batches", round_index),
        memory=add(*earlier) if release.orthogonality.memory and earlier else None,
        directions=_retain_directions(context, params, retain),
    )


def end_training(
    context: Context, round_index: int, params: Params, training: Training, trained: dict[str, Adapter]
) -> Stage:
    """All of the train stage after the last step. Interference is measured on texts to keep that no training and no
    constraint has seen: on those of a constraint it would flatter that constraint."""
    model_config, steps = context.base.config, context.config.release.train.steps
    adapter, forget, kept = trained["forget"], training.data["forget"], held_out_rows(context)
    after = mean_nll(params, forget, model_config, adapters=scale_adapter(adapter, context.scale))
    loss = training.loss | {"training_prompt_after": after}
    cosine = gradient_cosine(params, adapter, kept, forget, model_config, scale=context.scale)
    interference = {
        "output_ratio": by_layer(output_ratio(params, adapter, kept, forget, model_config)),
        "gradient_cosine": by_layer(cosine),
    }
    values = {f"loss/{name}": value for name, value in loss.items()}
    values |= {f"interference/{name}": float(np.mean([*found.values()])) for name, found in interference.items()}
    layers = sizes(adapter) | readings(adapter, training.directions)
    layers |= overlaps(adapter, trained["retain"]) if "retain" in trained else {}
    values |= layer_values({f"interference/{name}": found for name, found in interference.items()} | layers)
    if training.memory is not None:
        earlier = overlaps(adapter, training.memory)
        values |= layer_values({f"memory/{name}": found for name, found in earlier.items()})
    context.log(round_index, "train", steps, values)
    return Stage(dict(trained), {"loss": loss, "interference": interference, "layers": layers})


def _retain_directions(context: Context, params: Params, retain: Packed) -> dict[str, Directions] | None:
    """Dominant directions of what each adapted module reads on retain data, where a constraint asks for them."""
    apart, adapter = context.config.release.orthogonality, context.config.release.adapter
    if apart.penalty != "activations" and apart.projection != "null_space":
        return None
    rows = first_rows(retain, ACTIVATION_ROWS)
    return dominant_directions(params, rows, context.base.config, tuple(adapter.targets), apart.directions)


def compose_stage(
    context: Context, round_index: int, deltas: Adapter | None, trained: Stage, base_metrics: dict[str, float]
) -> Stage:
    """The forget adapter subtracted and the retain adapter added, with strengths chosen on validation data; heals after
    each subtraction if asked to."""
    place = context.config.release.retain.place
    forget = trained.arrays["forget"]

    def composed(eta_forget: float, eta_joint: float, *added: tuple[Adapter, float]) -> Adapter:
        joint = [(trained.arrays["retain"], eta_joint)] if place in ("joint", "joint+after") else []
        return compose(deltas, forget, eta_forget, context.scale, [*joint, *added])

    @lru_cache(maxsize=1)  # several strengths of one repair follow each other
    def repair(eta_forget: float, eta_joint: float) -> Adapter:
        return heal(context, round_index, composed(eta_forget, eta_joint), forget, eta_forget)

    def build(eta_forget: float, eta_retain: float) -> tuple[Tree, Layers]:
        if place not in ("after", "joint+after"):
            return {"deltas": composed(eta_forget, eta_retain)}, {}
        healed = repair(eta_forget, eta_retain if place == "joint+after" else 0.0)
        whole = composed(eta_forget, eta_retain, (healed, eta_retain))
        return {"deltas": whole, "repair": healed}, overlaps(forget, healed)

    return choose_strength(context, round_index, deltas, base_metrics, build, context.config.release.eta.forget)


def choose_strength(
    context: Context,
    round_index: int,
    deltas: Adapter | None,
    base_metrics: dict[str, float],
    build: Callable[[float, float], tuple[Tree, Layers]],
    grid: Sequence[float],
) -> Stage:
    """Goes up the grid of strengths on validation data and chooses a pair by the rule of the configuration.

    `build` makes, of the strengths of the subtraction and of the retain adapter, the arrays that the stage leaves behind,
    "deltas" among them, and what is measured of them by layer. The grid is left early by `ends_climb`.
    """
    config, task, held_out = context.config, context.task, held_out_rows(context)
    eta, model_config = config.release.eta, context.base.config
    added_strengths = [0.0] if config.release.retain.place in ("anchor", "none") else sorted(eta.retain)
    points: list[Point] = []
    outcomes: list[tuple[Tree, dict[str, float], Layers]] = []
    for eta_forget in sorted(grid):
        for eta_retain in added_strengths:
            arrays, layers = build(eta_forget, eta_retain)
            name = f"eta {eta_forget:g}" + (f" and {eta_retain:g}" if len(added_strengths) > 1 else "")
            metrics, _ = measure(context, arrays["deltas"], "valid", f"round {round_index}, {name}")
            kept = retention(task, metrics, base_metrics)
            point = Point(
                eta_forget=eta_forget,
                eta_retain=eta_retain,
                forget=metrics[task.forget_metric],
                utility=min(kept.values()),
                degenerate=metrics[task.degenerate_metric] - base_metrics[task.degenerate_metric],
                retain_nll=mean_nll(context.model(arrays["deltas"]).params, held_out, model_config),
                retention=kept,
            )
            points.append(point)
            outcomes.append((arrays, metrics, layers))
            values = {name: value for name, value in point._asdict().items() if name != "retention"}
            context.log(round_index, "compose", len(points), values)
        if ends_climb(points[-len(added_strengths) :], eta):
            break
    chosen, reason = choose_eta(points, eta, base_metrics[task.forget_metric])
    meta: dict[str, Any] = {
        "trade_off": [
            point._asdict() | {"within_budget": point.within(eta.utility_budget, eta.degenerate_budget)}
            for point in points
        ],
        "eta_forget": 0.0 if chosen is None else chosen.eta_forget,
        "eta_retain": 0.0 if chosen is None else chosen.eta_retain,
        "rule": {"name": eta.rule, "fallback": reason},
        "base_retain_nll": mean_nll(context.base.params, held_out, model_config),
        "accepted": chosen is not None,
    }
    if chosen is None:
        return Stage({} if deltas is None else {"deltas": deltas}, meta | {"validation": None})
    arrays, metrics, layers = outcomes[points.index(chosen)]
    cost = cost_of(chosen, meta["base_retain_nll"], base_metrics[task.forget_metric])
    values = layer_values(layers) | {f"interference/{name}": value for name, value in cost.items()}
    if config.dtype == "bfloat16":
        lost = {name: float(found.max()) for name, found in merge_error(context.base.params, arrays["deltas"]).items()}
        values |= {f"merge_error/{module}": value for module, value in lost.items()}
        meta["merge_error"] = lost
    context.log(round_index, "compose", len(points), values)
    return Stage(arrays, meta | {"validation": metrics, "cost": cost, "layers": layers})


def cost_of(point: Point, base_retain_nll: float, base_forget: float) -> dict[str, float]:
    """What a strength costs of held-out texts to keep, nats a token, also per unit that the forget metric came down."""
    increase, gone = point.retain_nll - base_retain_nll, base_forget - point.forget
    return {"retain_loss_increase": increase} | ({"per_forgetting": increase / gone} if gone > 0 else {})


def heal(context: Context, round_index: int, composed: Adapter, forget: Adapter, eta_forget: float) -> Adapter:
    """A retain adapter trained on the subtracted weights and held apart from the forget adapter, so that it repairs
    what was damaged without going back along what was subtracted. What looks at activations concerns what the forget
    adapter reads, and nothing here."""
    release = context.config.release
    section, apart = release.retain.after, release.orthogonality

    def log(step: int, values: dict[str, float]) -> None:
        found = {f"repair/{name}": value for name, value in values.items()}
        context.log(round_index, "compose", step, {"eta_forget": eta_forget} | found)
        context.progress(f"round {round_index}: repairing", step, section.steps)

    trained = train(
        {"after": new_adapter(context, "after", round_index)},
        context.model(composed).params,
        {"after": retain_rows(context, round_index, section)},
        context.base.config,
        section,
        scale=context.scale,
        penalty="none" if apart.penalty == "activations" else apart.penalty,
        penalty_weight=apart.weight,
        projection="none" if apart.projection == "null_space" else apart.projection,
        anchor=forget,
        mode=context.config.parallel.mode,
        seed=derive_seed(context.config.seed, "release/after", round_index),
        log=log,
    )
    return trained["after"]


def measure_stage(
    context: Context, round_index: int, deltas: Adapter | None, revealed: list[Revealed], base_metrics: dict[str, float]
) -> Stage:
    """The model of the round on test data."""
    rows = forget_rows(context, round_index, revealed, context.config.release.pairing)
    return measure_on(context, round_index, deltas, rows, base_metrics)


def measure_on(
    context: Context, round_index: int, deltas: Adapter | None, rows: Packed | None, base_metrics: dict[str, float]
) -> Stage:
    """The model of the round on test data, and its loss on the rows that the forget adapter was trained on, if any."""
    metrics, samples = measure(context, deltas, "test", f"round {round_index}")
    write_lines(context.folder / "samples" / f"round_{round_index:02d}.jsonl", samples)
    loss = {}
    if rows is not None:
        loss["training_prompt_subtracted"] = mean_nll(context.model(deltas).params, rows, context.base.config)
    context.log(round_index, "measure", 0, metrics)
    return Stage(
        {},
        {
            "metrics": metrics,
            "retention": retention(context.task, metrics, base_metrics),
            "loss": loss,
        },
    )
