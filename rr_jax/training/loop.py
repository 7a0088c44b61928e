"""The training loop around the pure step: batches in, adapters out, one logged line a step.

It compiles once for each combination of static settings, keeps few steps in flight, and stops at the first loss that is
not a number. Knows nothing of tasks and rounds.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.data.batches import take_batch
from rr_jax.data.packing import Packed
from rr_jax.lora.activations import Directions
from rr_jax.lora.adapter import stack_adapters, unstack_adapter
from rr_jax.models.config import ModelConfig
from rr_jax.models.decoder import Adapter, Params
from rr_jax.parallel.wrap import Run, choose_driver, limit_in_flight, replicate
from rr_jax.training.config import TrainConfig
from rr_jax.training.step import Frozen, TrainState, init_state, keep_out, make_optimizer, make_step

Log = Callable[[int, dict[str, float]], None]
Watch = Callable[[int, dict[str, Adapter]], None]


class TrainingDiverged(ValueError):
    """A loss stopped being a number."""


def train(
    adapters: dict[str, Adapter],
    params: Params,
    data: dict[str, Packed],
    config: ModelConfig,
    section: TrainConfig,
    *,
    scale: float,
    penalty: str = "none",
    penalty_weight: float = 0.0,
    anchor: Adapter | None = None,
    projection: str = "none",
    memory: Adapter | None = None,
    directions: dict[str, Directions] | None = None,
    mode: str = "auto",
    seed: int = 0,
    log: Log | None = None,
    constant: bool = False,
    watch: Watch | None = None,
    watch_after: Collection[int] = (),
) -> dict[str, Adapter]:
    """Trains named adapters, each on the rows of the same name, in one step over their stack.

    Args:
      adapters: name -> adapter; equal modules and ranks.
      params: the weights they are trained on; never changed.
      data: name -> packed rows.
      config: of the model.
      section: steps, batch and optimizer.
      scale: alpha / rank.
      penalty, penalty_weight, anchor, projection, memory, directions: as in `objective.make_step` and `Frozen`; the
        first adapter named is the one that a projection moves, before the first step and after each.
      mode: how the step is spread over devices.
      seed: of the order of the rows.
      log: called with (step from 1, metrics) once for each step: nll/NAME, gradient_norm/NAME, orthogonality.
      constant: a constant learning rate in place of the schedule.
      watch, watch_after: called with (step, adapters) after the steps named, of this same training.

    Raises:
      TrainingDiverged: when a loss is not finite; names the adapter and the step.
    """
    names = list(adapters)
    optimizer = make_optimizer(
        section.steps, section.learning_rate, section.weight_decay, section.clip, constant=constant
    )
    strategy = "map" if jax.default_backend() == "cpu" else "vmap"
    run = _compiled(config, section, scale, penalty, projection, strategy, mode, constant)
    frozen = Frozen(params, anchor, jnp.asarray(penalty_weight, jnp.float32), memory, directions)
    start = keep_out(stack_adapters([adapters[name] for name in names]), frozen, projection)
    state = init_state(start, optimizer)

    def read(step: int, values: dict[str, np.ndarray]) -> None:
        line = metrics_line(names, step, values)
        if log is not None:
            log(step, line)

    def members(state: TrainState) -> dict[str, Adapter]:
        # taken out of the stack on the device: the next step reuses the state's own buffers
        return dict(zip(names, jax.device_get(unstack_adapter(state.adapters)), strict=True))

    def look(step: int, state: TrainState) -> None:
        if watch is not None and step in watch_after:
            watch(step, members(state))

    rows = [data[name] for name in names]
    return members(drive(run, state, frozen, rows, section, mode=mode, seed=seed, read=read, look=look))


def metrics_line(names: Sequence[str], step: int, values: dict[str, np.ndarray]) -> dict[str, float]:
    """What is logged of a step: nll/NAME, gradient_norm/NAME, orthogonality.

    Raises:
      TrainingDiverged: as `train`.
    """
    line = {"orthogonality": float(values["penalty"])}
    for j, name in enumerate(names):
        line[f"nll/{name}"] = float(values["nll"][j])
        line[f"gradient_norm/{name}"] = float(values["gradient_norm"][j])
        if not (math.isfinite(line[f"nll/{name}"]) and math.isfinite(line[f"gradient_norm/{name}"])):
            raise TrainingDiverged(f"the loss of the {name} adapter is {line[f'nll/{name}']} at step {step}")
    return line


def drive(
    run: Run,
    state: TrainState,
    frozen: Any,
    data: Sequence[Packed],
    section: TrainConfig,
    *,
    mode: str,
    seed: int,
    read: Callable[[int, dict[str, np.ndarray]], None],
    look: Callable[[int, TrainState], None] | None = None,
) -> TrainState:
    """All steps of a training whose batches are those of J sets of rows, stacked [B, J, S]; the rest as `take_steps`."""

    def batch_at(index: int) -> dict[str, np.ndarray]:
        return stack_batches(data, seed, index, section.batch_size)

    return take_steps(run, state, frozen, batch_at, section.steps, mode=mode, read=read, look=look)


def stack_batches(data: Sequence[Packed], seed: int, index: int, batch_size: int) -> dict[str, np.ndarray]:
    """Batch `index` of J sets of rows, [B, J, S] each."""
    rows = [take_batch(packed, seed, index, batch_size) for packed in data]
    return {key: np.stack([row[key] for row in rows], axis=1) for key in rows[0]}


def take_steps(
    run: Run,
    state: TrainState,
    frozen: Any,
    batch_at: Callable[[int], dict[str, np.ndarray]],
    steps: int,
    *,
    mode: str,
    read: Callable[[int, dict[str, np.ndarray]], None],
    look: Callable[[int, TrainState], None] | None = None,
) -> TrainState:
    """Keeps few steps in flight, and hands the metrics of each step (from 1), in order, to `read`, whose error ends the
    training. `look` sees each step's state, whose buffers the next step reuses."""
    if jax.local_device_count() > 1 and mode != "jit":
        frozen = replicate(frozen)
    pending: deque[object] = deque()
    unread: list[tuple[int, dict[str, jax.Array]]] = []
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


@lru_cache(maxsize=32)
def _compiled(
    config: ModelConfig,
    section: TrainConfig,
    scale: float,
    penalty: str,
    projection: str,
    strategy: str,
    mode: str,
    constant: bool,
) -> Run:
    optimizer = make_optimizer(
        section.steps, section.learning_rate, section.weight_decay, section.clip, constant=constant
    )
    step = make_step(config, optimizer, scale=scale, penalty=penalty, projection=projection, strategy=strategy)
    return choose_driver(mode, section.batch_size)(step)
