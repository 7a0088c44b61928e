"""M trainings of equal shapes as one compiled step, over a leading axis M; the numbers are those of M calls of `train`.

On an accelerator `vmap` makes a few large matrix products out of many small ones. On a CPU, which small ones keep busy
already, it brings nothing and costs M times the memory; `map` goes through the members one after the other inside the
step, which is as fast as training them apart. Knows nothing of tasks, rounds and files.

Axes: M members, J adapters of a member, K sets of rows, B batch, S sequence.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rr_jax.lora.adapter import unstack_adapter
from rr_jax.models.config import ModelConfig
from rr_jax.models.spec import Adapter, Params
from rr_jax.training.loop import TrainingDiverged, TrainJob, check_jobs, take_steps
from rr_jax.training.step import compiled_step

STRATEGIES = ("vmap", "map")


def train_stacked(
    jobs: Sequence[TrainJob], params: Params, config: ModelConfig, *, strategy: str = "vmap", mode: str = "auto"
) -> list[dict[str, Adapter] | None]:
    """Returns what `train` makes of each job, in order; None for a job whose loss stopped being a number. That ends the
    job's log and does not touch the others.

    Args:
      jobs: at least one. They may differ in what is traced: numbers, seeds, rows, and the adapters' start.
      params, config, mode: as for `train`, the same for all.
      strategy: "vmap" computes the jobs together, "map" in turn.

    Raises:
      ValueError: an unknown strategy, no jobs, or jobs that do not fit each other.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}, expected {' or '.join(STRATEGIES)}")
    plan = check_jobs(jobs, config)
    own = [job.frozen({}) for job in jobs]
    starts = [plan.init_state(list(job.adapters.values()), frozen) for job, frozen in zip(jobs, own, strict=True)]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    frozen = (params, jax.tree.map(lambda *leaves: jnp.stack(leaves), *own))
    diverged: set[int] = set()

    def read(step: int, values: dict[str, Any]) -> None:
        for m, job in enumerate(jobs):
            if m in diverged:
                continue
            try:
                line = job.line(step, jax.tree.map(lambda value, m=m: value[m], values))
            except TrainingDiverged:
                diverged.add(m)
                continue
            if job.log is not None:
                job.log(step, line)

    def batch_at(index: int) -> dict[str, np.ndarray]:
        drawn = [job.batch_at(index) for job in jobs]
        return {key: np.stack([batch[key] for batch in drawn], axis=1) for key in drawn[0]}  # [B, M, K, S]

    run = compiled_step(plan, mode, jobs[0].section.batch_size, strategy)
    state = take_steps(run, state, frozen, batch_at, jobs[0].section.steps, mode=mode, read=read)
    trained = [unstack_adapter(stack) for stack in unstack_adapter(jax.device_get(state.adapters))]
    return [
        None if m in diverged else dict(zip(job.names, adapters, strict=True))
        for m, (job, adapters) in enumerate(zip(jobs, trained, strict=True))
    ]
