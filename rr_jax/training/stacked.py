"""M trainings of equal shapes as one compiled step, over a leading axis M; the numbers are those of M calls of `train`.

On an accelerator `vmap` makes a few large matrix products out of many small ones. On a CPU, which small ones keep busy
already, it brings nothing and costs M times the memory; `map` goes through the members one after the other inside the
step, which is as fast as training them apart. Knows nothing of tasks, rounds and files.

Axes: M members, J adapters of a member, B batch, S sequence.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.data.packing import Packed
from rr_jax.lora.activations import Directions
from rr_jax.lora.adapter import stack_adapters, unstack_adapter
from rr_jax.models.config import ModelConfig
from rr_jax.models.decoder import Adapter, Params
from rr_jax.parallel.wrap import Run, choose_driver
from rr_jax.training.config import TrainConfig
from rr_jax.training.loop import Log, TrainingDiverged, metrics_line, stack_batches, take_steps
from rr_jax.training.step import Frozen, Metrics, TrainState, init_state, keep_out, make_optimizer, make_step

STRATEGIES = ("vmap", "map")


class Member(NamedTuple):
    """One training among many: what `train` takes and may differ between them.

    Attributes:
      adapters: name -> adapter; of all members the same names in the same order, modules and ranks.
      data: name -> packed rows, of equal length; how many is the member's own affair.
      penalty_weight: lambda.
      directions: as for `train`; of all members or of none, with equal numbers.
      seed: of the order of the rows.
      log: as for `train`.
    """

    adapters: dict[str, Adapter]
    data: dict[str, Packed]
    penalty_weight: float = 0.0
    seed: int = 0
    log: Log | None = None
    directions: dict[str, Directions] | None = None


def train_many(
    members: Sequence[Member],
    params: Params,
    config: ModelConfig,
    section: TrainConfig,
    *,
    scale: float,
    penalty: str = "none",
    projection: str = "none",
    strategy: str = "vmap",
    mode: str = "auto",
) -> list[dict[str, Adapter] | None]:
    """What `train` makes of each member, in order; None for one whose loss stopped being a number, which ends its log
    and does not touch the others.

    Args:
      members: at least one.
      params, config, section, scale, penalty, projection, mode: as for `train`, the same for all.
      strategy: "vmap" computes the members together, "map" in turn.

    Raises:
      ValueError: an unknown strategy, no members, or members that do not fit each other.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}, expected {' or '.join(STRATEGIES)}")
    names = _names(members)
    optimizer = make_optimizer(section.steps, section.learning_rate, section.weight_decay, section.clip)
    own = [Frozen({}, None, jnp.asarray(one.penalty_weight, jnp.float32), directions=one.directions) for one in members]
    stacked = [stack_adapters([one.adapters[name] for name in names]) for one in members]
    starts = [
        init_state(keep_out(stack, frozen, projection), optimizer) for stack, frozen in zip(stacked, own, strict=True)
    ]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    frozen = (params, jax.tree.map(lambda *leaves: jnp.stack(leaves), *own))
    diverged: set[int] = set()

    def read(step: int, values: dict[str, np.ndarray]) -> None:
        for m, one in enumerate(members):
            if m in diverged:
                continue
            try:
                line = metrics_line(names, step, {key: value[m] for key, value in values.items()})
            except TrainingDiverged:
                diverged.add(m)
                continue
            if one.log is not None:
                one.log(step, line)

    def batch_at(index: int) -> dict[str, np.ndarray]:
        drawn = [
            stack_batches([one.data[name] for name in names], one.seed, index, section.batch_size) for one in members
        ]
        return {key: np.stack([batch[key] for batch in drawn], axis=1) for key in drawn[0]}  # [B, M, J, S]

    inner = "map" if jax.default_backend() == "cpu" else "vmap"
    run = _compiled(config, section, scale, penalty, projection, inner, strategy, mode)
    state = take_steps(run, state, frozen, batch_at, section.steps, mode=mode, read=read)
    trained = [unstack_adapter(stack) for stack in unstack_adapter(jax.device_get(state.adapters))]
    return [None if m in diverged else dict(zip(names, adapters, strict=True)) for m, adapters in enumerate(trained)]


def make_stacked_step(
    step: Callable[..., tuple[TrainState, Metrics]], strategy: str
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The step of one training as the step of M: a leading axis M on every leaf of the state and of the metrics, batches
    [B, M, J, S], and for `Frozen` a pair: the parameters, which all share, and the rest with a leading axis M."""

    def stacked(
        state: TrainState, frozen: tuple[Params, Frozen], batch: dict[str, jax.Array], *, axis_name: str | None = None
    ) -> tuple[TrainState, Metrics]:
        params, rest = frozen

        def one(member: Any) -> tuple[TrainState, Metrics]:
            state, own, rows = member
            return step(state, dataclasses.replace(own, params=params), rows, axis_name=axis_name)

        members = (state, rest, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), batch))
        result: tuple[TrainState, Metrics] = jax.vmap(one)(members) if strategy == "vmap" else jax.lax.map(one, members)
        return result

    return stacked


def _names(members: Sequence[Member]) -> list[str]:
    """The adapters' names, after a check that the members can be stacked."""
    if not members:
        raise ValueError("there is nothing to train, expected at least one member")
    names, lengths = list(members[0].adapters), {}
    for m, one in enumerate(members):
        if list(one.adapters) != names or set(one.data) != set(names):
            raise ValueError(
                f"member {m} has adapters {', '.join(one.adapters)} and rows {', '.join(one.data)}, expected both to be "
                f"those of member 0: {', '.join(names)}"
            )
        shapes = jax.tree.map(np.shape, one.adapters)
        if shapes != jax.tree.map(np.shape, members[0].adapters):
            raise ValueError(f"member {m} has adapters of shapes {shapes}, expected those of member 0")
        for name, packed in one.data.items():
            lengths[f"{name} of member {m}"] = packed.tokens.shape[1]
    if len(set(lengths.values())) > 1:
        raise ValueError(f"rows have lengths {lengths}, expected one length")
    return names


@lru_cache(maxsize=32)
def _compiled(
    config: ModelConfig,
    section: TrainConfig,
    scale: float,
    penalty: str,
    projection: str,
    inner: str,
    strategy: str,
    mode: str,
) -> Run:
    optimizer = make_optimizer(section.steps, section.learning_rate, section.weight_decay, section.clip)
    step = make_step(config, optimizer, scale=scale, penalty=penalty, projection=projection, strategy=inner)
    return choose_driver(mode, section.batch_size)(make_stacked_step(step, strategy))
