"""One pure training step for a stack of adapters, each with its own loss, held apart by one constraint.

The step serves plain jit, pmap and shard_map alike: sums and token counts are reduced over devices, never means, and
the adapters are marked as varying before the gradient is taken, so that all three give the same numbers. Knows nothing
of rounds, tasks, methods or text.

Axes: J adapters in the stack, K sets of rows, M stacked trainings, B batch, S sequence.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rr_jax.lora.adapter import scale_adapter, stack_adapters, unstack_adapter
from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import token_nll
from rr_jax.models.spec import Adapter, Params
from rr_jax.parallel import collectives
from rr_jax.parallel.wrap import Run, choose_driver
from rr_jax.training.constraint import Constraint, References
from rr_jax.training.loss import Likelihood, Loss, Rows, Term
from rr_jax.training.optimizer import OPTIMIZERS, Hyperparameters, make_schedule

Metrics = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """Holds the stacked adapters [J, ...], the optimizer's state of each, and the number of steps taken."""

    adapters: Adapter
    optimizer: Any
    step: jax.Array


@flax.struct.dataclass
class FrozenInputs:
    """Holds what a step reads and never changes.

    Attributes:
      params: the weights the adapters are trained on.
      references: what the constraint looks at.
      hyperparameters: traced scalars, so that a sweep over them never recompiles.
      numbers: of each adapter's loss, traced likewise.
    """

    params: Params
    references: References
    hyperparameters: Hyperparameters
    numbers: tuple[dict[str, jax.Array], ...]


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """Holds everything a step is compiled for. Equal plans share one compiled step.

    Attributes:
      config: of the model.
      rows: names of the K sets of rows, in the order of the batch's axis K.
      losses: of each adapter in the stack, without its numbers.
      constraint: without its weight.
      constrained: how many adapters, from the first on, the constraint looks at: 1 or 2.
      optimizer: a name among `OPTIMIZERS`.
      steps: length of the learning rate's schedule; None for a constant rate.
      strategy: how adapters of equal losses are computed, "vmap" (wide products, for accelerators) or "map" (one after the
        other with half the memory, faster on CPU); the results are equal.
    """

    config: ModelConfig
    rows: tuple[str, ...]
    losses: tuple[Loss, ...]
    constraint: Constraint
    constrained: int
    optimizer: str
    steps: int | None
    strategy: str

    def make_optimizer(self, numbers: Hyperparameters) -> optax.GradientTransformation:
        """Returns the optimizer of one adapter."""
        schedule = optax.constant_schedule(1.0) if self.steps is None else make_schedule(self.steps)
        return OPTIMIZERS.get(self.optimizer)(numbers, schedule)

    def init_state(self, adapters: Sequence[Adapter], frozen: FrozenInputs) -> TrainState:
        """Returns the start of a training: each adapter gets an optimizer state of its own, and is projected."""
        stack = self.constraint.project(stack_adapters(adapters), frozen.references, self.constrained)
        optimizer = self.make_optimizer(frozen.hyperparameters)
        return TrainState(stack, jax.vmap(optimizer.init)(stack), jnp.zeros((), jnp.int32))


def make_step(plan: StepPlan) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds `step(state, frozen, batch, *, axis_name=None) -> (state, metrics)`.

    What is minimised is the sum of the adapters' losses plus penalty_weight times the constraint's penalty, whose value
    is that of the constrained adapters, of each against the anchor, and of the first against the memory.

    `batch` holds "tokens", "segment_ids" and "weights", [B, K, S] each. `metrics` holds "loss" and "gradient_norm" [J],
    "penalty", "terms" (by "TERM/j": scalars, nats a token or a sequence) and, of an optimizer that tells, "clipped" [J].

    The step raises ValueError, when it is traced, for a constraint that lacks what it looks at.
    """
    terms_of = _likelihoods if all(isinstance(loss, Likelihood) for loss in plan.losses) else _terms

    def step(
        state: TrainState, frozen: FrozenInputs, batch: Rows, *, axis_name: str | None = None
    ) -> tuple[TrainState, Metrics]:
        numbers = frozen.hyperparameters
        optimizer = plan.make_optimizer(numbers)

        def fit(adapters: Adapter) -> tuple[jax.Array, Any]:
            losses, parts = [], {}
            for j, terms in enumerate(terms_of(plan, adapters, frozen, batch)):
                loss = jnp.zeros(())
                for name, term in terms.items():
                    # this device's part of the mean over all devices
                    mean = term.total / jnp.maximum(collectives.total(term.units, axis_name), 1e-9)
                    parts[f"{name}/{j}"] = mean
                    loss = loss if term.weight is None else loss + term.weight * mean
                losses.append(loss)
            return jnp.sum(jnp.stack(losses)), (jnp.stack(losses), parts)

        def hold_apart(adapters: Adapter) -> tuple[jax.Array, jax.Array]:
            constrained = unstack_adapter(adapters)[: plan.constrained]
            value = plan.constraint.value(constrained, frozen.references)
            return numbers.penalty_weight * value, value

        grads, found = jax.grad(fit, has_aux=True)(collectives.varying(state.adapters, axis_name))
        grads, (losses, parts) = collectives.total((grads, found), axis_name)
        apart, penalty = jax.grad(hold_apart, has_aux=True)(state.adapters)
        grads = jax.tree.map(jnp.add, grads, apart)
        updates, optimizer_state = jax.vmap(optimizer.update)(grads, state.optimizer, state.adapters)
        adapters = optax.apply_updates(state.adapters, updates)
        adapters = plan.constraint.project(adapters, frozen.references, plan.constrained)
        metrics = {
            "loss": losses,
            "terms": parts,
            "penalty": penalty,
            "gradient_norm": jax.vmap(optax.tree.norm)(grads),
        }
        clipped = optax.tree.get(optimizer_state, "clipped")
        metrics |= {} if clipped is None else {"clipped": clipped}
        return TrainState(adapters, optimizer_state, state.step + 1), metrics

    return step


def make_stacked_step(
    step: Callable[..., tuple[TrainState, Metrics]], strategy: str
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the step of one training as the step of M: a leading axis M on every leaf of the state and of the metrics,
    batches [B, M, K, S], and for the frozen inputs a pair: the parameters, which all share, and the rest with an axis M."""

    def stacked(
        state: TrainState, frozen: tuple[Params, FrozenInputs], batch: Rows, *, axis_name: str | None = None
    ) -> tuple[TrainState, Metrics]:
        params, rest = frozen

        def one(member: Any) -> tuple[TrainState, Metrics]:
            state, own, rows = member
            return step(state, own.replace(params=params), rows, axis_name=axis_name)

        members = (state, rest, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), batch))
        result: tuple[TrainState, Metrics] = jax.vmap(one)(members) if strategy == "vmap" else jax.lax.map(one, members)
        return result

    return stacked


@lru_cache(maxsize=64)
def compiled_step(plan: StepPlan, mode: str, batch_size: int, stacked: str | None = None) -> Run:
    """Returns the driven step of a plan; the only cache of compiled steps.

    Args:
      mode, batch_size: as for `choose_driver`.
      stacked: None for one training, else the strategy of `make_stacked_step`.
    """
    step = make_step(plan)
    return choose_driver(mode, batch_size)(step if stacked is None else make_stacked_step(step, stacked))


def _likelihoods(plan: StepPlan, adapters: Adapter, frozen: FrozenInputs, batch: Rows) -> list[dict[str, Term]]:
    """Returns the terms of adapters that are all trained by likelihood, computed together."""
    order = [plan.rows.index(loss.rows[0]) for loss in plan.losses]
    sets = (
        batch if order == list(range(len(plan.rows))) else {name: x[:, jnp.array(order)] for name, x in batch.items()}
    )

    def one(pair: Any) -> tuple[jax.Array, jax.Array]:
        adapter, rows = pair
        scaled = scale_adapter(adapter, frozen.hyperparameters.scale)
        return token_nll(frozen.params, rows, plan.config, adapters=scaled)

    pairs = (adapters, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), sets))
    totals, counts = jax.vmap(one)(pairs) if plan.strategy == "vmap" else jax.lax.map(one, pairs)
    return [{"nll": Term(totals[j], counts[j])} for j in range(len(order))]


def _terms(plan: StepPlan, adapters: Adapter, frozen: FrozenInputs, batch: Rows) -> list[dict[str, Term]]:
    """Returns the terms of each adapter's own loss."""
    sets = {name: {key: x[:, k] for key, x in batch.items()} for k, name in enumerate(plan.rows)}
    scaled = [scale_adapter(adapter, frozen.hyperparameters.scale) for adapter in unstack_adapter(adapters)]
    return [
        loss.terms(frozen.params, adapter, {name: sets[name] for name in loss.rows}, plan.config, numbers)
        for loss, adapter, numbers in zip(plan.losses, scaled, frozen.numbers, strict=True)
    ]
