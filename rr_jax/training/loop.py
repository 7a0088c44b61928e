"""The training loop around the pure step: batches in, adapters out, one logged line a step.

It keeps few steps in flight and stops at the first loss that is not a number. Knows nothing of tasks and rounds.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.data.batches import take_batch
from rr_jax.data.packing import Packed
from rr_jax.lora.adapter import unstack_adapter
from rr_jax.models.config import ModelConfig
from rr_jax.models.spec import Adapter, Params
from rr_jax.parallel.wrap import Run, limit_in_flight, replicate
from rr_jax.training.config import TrainConfig
from rr_jax.training.constraint import UNCONSTRAINED, Constraint, References
from rr_jax.training.loss import Likelihood, Loss
from rr_jax.training.optimizer import hyperparameters
from rr_jax.training.step import FrozenInputs, StepPlan, TrainState, compiled_step

Log = Callable[[int, dict[str, float]], None]
Watch = Callable[[int, dict[str, Adapter]], None]


class TrainingDiverged(ValueError):
    """Says that a loss stopped being a number."""


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """Describes one training: named adapters, each by its own loss, in one step over their stack.

    Attributes:
      adapters: name -> adapter; equal modules and ranks. The constraint looks at the first `constrained` of them, and a
        projection moves the first, before the first step and after each.
      rows: name -> packed rows, of equal length.
      section: steps, batch and the numbers of the optimizer.
      scale: alpha / rank.
      losses: adapter -> its loss; one that is not named is trained by the likelihood of the rows of its own name.
      constraint, references: what holds the adapters apart, and what that looks at.
      constrained: 1 or 2.
      optimizer: a name among `OPTIMIZERS`.
      seed: of the order of the rows.
      log: called with (step from 1, metrics) once for each step: TERM/NAME, gradient_norm/NAME, penalty, and loss/NAME
        where a loss is more than one likelihood.
      constant: a constant learning rate in place of the schedule, so that k steps begin any longer training.
    """

    adapters: dict[str, Adapter]
    rows: dict[str, Packed]
    section: TrainConfig
    scale: float
    losses: dict[str, Loss] = dataclasses.field(default_factory=dict)
    constraint: Constraint = UNCONSTRAINED
    references: References = dataclasses.field(default_factory=References)
    constrained: int = 2
    optimizer: str = "adamw"
    seed: int = 0
    log: Log | None = None
    constant: bool = False

    @property
    def names(self) -> list[str]:
        """Returns the adapters' names, in the order of the stack."""
        return list(self.adapters)

    def loss(self, name: str) -> Loss:
        """Returns the loss of an adapter."""
        return self.losses.get(name, Likelihood(name))

    def plan(self, config: ModelConfig) -> StepPlan:
        """Returns what the step is compiled for."""
        return StepPlan(
            config=config,
            rows=tuple(self.rows),
            losses=tuple(self.loss(name).static() for name in self.adapters),
            constraint=self.constraint.static(),
            constrained=min(self.constrained, len(self.adapters)),
            optimizer=self.optimizer,
            steps=None if self.constant else self.section.steps,
            strategy="map" if jax.default_backend() == "cpu" else "vmap",
        )

    def frozen(self, params: Params) -> FrozenInputs:
        """Returns what the step reads."""
        numbers = tuple(
            {key: jnp.asarray(value, jnp.float32) for key, value in self.loss(name).numbers().items()}
            for name in self.adapters
        )
        weight = self.constraint.penalty_weight
        return FrozenInputs(params, self.references, hyperparameters(self.section, self.scale, weight), numbers)

    def batch_at(self, index: int) -> dict[str, np.ndarray]:
        """Returns batch `index` of all sets of rows, [B, K, S] each."""
        drawn = [take_batch(packed, self.seed, index, self.section.batch_size) for packed in self.rows.values()]
        return {key: np.stack([rows[key] for rows in drawn], axis=1) for key in drawn[0]}

    def line(self, step: int, values: dict[str, Any]) -> dict[str, float]:
        """Returns what is logged of a step.

        Raises:
          TrainingDiverged: a loss or a gradient is not finite; names the adapter and the step.
        """
        found = {"penalty": float(values["penalty"])}
        for key, value in values["terms"].items():
            term, _, j = key.rpartition("/")
            found[f"{term}/{self.names[int(j)]}"] = float(value)
        for j, name in enumerate(self.names):
            loss, norm = float(values["loss"][j]), float(values["gradient_norm"][j])
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise TrainingDiverged(f"the loss of the {name} adapter is {loss} at step {step}")
            found[f"gradient_norm/{name}"] = norm
            if not isinstance(self.loss(name), Likelihood):
                found[f"loss/{name}"] = loss
            if "clipped" in values:
                found[f"clipped/{name}"] = float(values["clipped"][j])
        return found


def train(
    job: TrainJob,
    params: Params,
    config: ModelConfig,
    mode: str = "auto",
    watch: Watch | None = None,
    watch_after: Collection[int] = (),
) -> dict[str, Adapter]:
    """Trains the adapters of a job, and returns them by name.

    Args:
      params: the weights they are trained on; never changed.
      config: of the model.
      mode: how the step is spread over devices.
      watch, watch_after: called with (step, adapters) after the steps named, of this same training.

    Raises:
      TrainingDiverged: when a loss is not finite; names the adapter and the step.
    """
    plan, frozen = job.plan(config), job.frozen(params)
    state = plan.init_state(list(job.adapters.values()), frozen)

    def read(step: int, values: dict[str, Any]) -> None:
        line = job.line(step, values)
        if job.log is not None:
            job.log(step, line)

    def members(state: TrainState) -> dict[str, Adapter]:
        # taken out of the stack on the device: the next step reuses the state's own buffers
        return dict(zip(job.names, jax.device_get(unstack_adapter(state.adapters)), strict=True))

    def look(step: int, state: TrainState) -> None:
        if watch is not None and step in watch_after:
            watch(step, members(state))

    run = compiled_step(plan, mode, job.section.batch_size)
    return members(take_steps(run, state, frozen, job.batch_at, job.section.steps, mode=mode, read=read, look=look))


def take_steps(
    run: Run,
    state: TrainState,
    frozen: Any,
    batch_at: Callable[[int], dict[str, np.ndarray]],
    steps: int,
    *,
    mode: str,
    read: Callable[[int, dict[str, Any]], None],
    look: Callable[[int, TrainState], None] | None = None,
) -> TrainState:
    """Keeps few steps in flight, and hands the metrics of each step (from 1), in order, to `read`, whose error ends the
    training. `look` sees each step's state, whose buffers the next step reuses."""
    if jax.local_device_count() > 1 and mode != "jit":
        frozen = replicate(frozen)
    pending: deque[object] = deque()
    unread: list[tuple[int, dict[str, Any]]] = []
    for index in range(steps):
        state, metrics = run(state, frozen, batch_at(index))
        limit_in_flight(metrics, pending)
        unread.append((index + 1, metrics))
        # reading waits for the device, so accelerators are read in tens
        if jax.default_backend() == "cpu" or len(unread) == 10 or index + 1 == steps:
            for step, values in unread:
                read(step, jax.device_get(values))
            unread = []
        if look is not None:
            look(index + 1, state)
    return state


def check_jobs(jobs: Sequence[TrainJob], config: ModelConfig) -> StepPlan:
    """Returns the plan that all jobs share.

    Raises:
      ValueError: there is none, or the jobs cannot be one step; names the job and what differs.
    """
    if not jobs:
        raise ValueError("there is nothing to train, expected at least one job")
    first, plan = jobs[0], jobs[0].plan(config)
    lengths: dict[str, int] = {}
    for m, job in enumerate(jobs):
        if job.names != first.names or list(job.rows) != list(first.rows):
            raise ValueError(
                f"job {m} has adapters {', '.join(job.names)} and rows {', '.join(job.rows)}, expected those of job 0: "
                f"{', '.join(first.names)} and {', '.join(first.rows)}"
            )
        shapes = jax.tree.map(np.shape, job.adapters)
        if shapes != jax.tree.map(np.shape, first.adapters):
            raise ValueError(f"job {m} has adapters of shapes {shapes}, expected those of job 0")
        if job.plan(config) != plan or job.section.batch_size != first.section.batch_size:
            raise ValueError(f"job {m} is another step than job 0: only numbers, seeds, rows and starts may differ")
        lengths |= {f"{name} of job {m}": packed.tokens.shape[1] for name, packed in job.rows.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"rows have lengths {lengths}, expected one length")
    return plan
