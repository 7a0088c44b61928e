"""The first train stage of several runs at once: which runs can be stacked, and the stacked training itself.

Every run keeps its folder, its log and its checkpoints, and goes on by itself afterwards as if it had been interrupted
right there. Knows runs and their stages; never why there are several.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rr_jax.runs.checkpoint import Checkpoints, stage_number
from rr_jax.runs.config import RunConfig
from rr_jax.runs.config_file import differing_keys
from rr_jax.runs.context import Context
from rr_jax.runs.folder import note_seconds
from rr_jax.runs.lock import locked
from rr_jax.runs.loop import Progress, load_model, open_run
from rr_jax.runs.reuse import needed_stages, stage_key, stage_path, without
from rr_jax.runs.rounds import saved_or_computed
from rr_jax.runs.stages.base import base_stage
from rr_jax.runs.stages.reveal import reveal_stage
from rr_jax.runs.stages.train import Prepared, finish_training, prepare_training
from rr_jax.tasks.base import Revealed
from rr_jax.training.stacked import train_stacked

# What may differ between the members of a stack: it decides about rows, orders and numbers, never about what is compiled.
PER_MEMBER = (
    "seed", "task", "reveal", "privacy", "release.data", "release.examples", "release.pairing", "release.retain.examples",
    "release.orthogonality.penalty_weight", "release.train.learning_rate", "release.train.weight_decay",
    "release.train.clip", "release.adapter.alpha",
)  # fmt: skip


def stacks(configs: Sequence[RunConfig]) -> tuple[list[list[int]], list[str]]:
    """Finds groups of two or more runs whose first trainings differ, have not been made, and can be one step.

    Returns:
      indices into `configs` of the members of each group, and the keys for which not all that are to be trained are one
      group.
    """
    groups: dict[str, dict[str, int]] = {}  # what is compiled -> what is trained -> the first run that asks for it
    for index, config in enumerate(configs):
        needed = needed_stages(config)
        rows_kept = "reveal" in needed or not config.release.source.reveals
        trains = "train" in needed and rows_kept and config.release.objective.stacks
        if trains and not stage_path(Path(config.out), "train").exists():
            key = stage_key(config, "train")
            groups.setdefault(_compiled_key(config, key), {}).setdefault(key, index)
    keys = [json.loads(key) for key in groups]
    differing = sorted({name for other in keys[1:] for name in differing_keys(keys[0], other)})
    return [list(group.values()) for group in groups.values() if len(group) > 1], differing


def _compiled_key(config: RunConfig, train_key: str) -> str:
    """Returns, of what the train stage reads, what makes it another step."""
    tree = without(json.loads(train_key), PER_MEMBER)
    tree["release"]["objective"] = config.release.objective.static().model_dump(mode="json")
    return json.dumps(tree, sort_keys=True)


def train_together(
    configs: Sequence[RunConfig], strategy: str, siblings: Sequence[Path] = (), progress: Progress | None = None
) -> int:
    """Brings a group of `stacks` to the end of its first train stage, and returns how many were trained together.

    A run that reveals too little, or whose training diverges, is left as it is: it says so itself when it is run.

    Args:
      configs: of the runs.
      strategy: as for `train_stacked`.
      siblings, progress: as for `rounds.run`.

    Raises:
      ValueError: as `rounds.run`.
    """
    lm = load_model(configs[0], progress)
    kept: list[tuple[Context, Prepared, float]] = []
    for config in configs:
        with open_run(config, progress, siblings, lm) as (context, checkpoints):
            stage = saved_or_computed(context, checkpoints)
            stage(0, "base", partial(base_stage, context))
            revealed: list[Revealed] = []
            if config.release.source.reveals:
                found = stage(1, "reveal", partial(reveal_stage, context, 1, None)).meta
                revealed = [Revealed(**item) for item in found["revealed"]]
                if len(revealed) < config.reveal.collect.min_size:
                    continue
            if stage_number(1, "train") in checkpoints.saved():
                continue
            start = time.perf_counter()
            prepared = prepare_training(context, 1, lm.params, revealed)
            kept.append((context, prepared, time.perf_counter() - start))
    if not kept:
        return 0
    context = kept[0][0]
    release, of = context.config.release, len(kept)

    def log(context: Context, step: int, values: dict[str, float]) -> None:
        context.log(1, "train", step, values)
        if progress is not None and context is kept[-1][0]:
            progress(f"training the adapters of {of} runs", step, release.train.steps)

    start = time.perf_counter()
    jobs = [dataclasses.replace(prepared.job, log=partial(log, of_run)) for of_run, prepared, _ in kept]
    mode = context.config.parallel.mode
    trained = train_stacked(jobs, lm.params, lm.config, strategy=strategy, mode=mode)
    share = (time.perf_counter() - start) / of
    for (context, prepared, before), adapters in zip(kept, trained, strict=True):
        if adapters is None:
            continue
        start = time.perf_counter()
        result = finish_training(context, 1, lm.params, prepared, adapters)
        with locked(context.folder):
            checkpoints = Checkpoints(context.folder / "checkpoints")
            try:
                checkpoints.save(stage_number(1, "train"), result)
            finally:
                checkpoints.close()
            note_seconds(context.folder, "round 1, train", before + share + time.perf_counter() - start)
    return of
