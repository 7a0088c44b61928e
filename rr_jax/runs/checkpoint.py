"""Orbax behind four verbs: which stages are saved, save one, restore one, close.

A stage is saved whole or not at all: Orbax writes to a temporary folder and renames it, so a killed process or a full
disk leaves the previous stage as the newest. A checkpoint that exists and cannot be read is an error, never a reason
to start again.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

Tree = dict[str, Any]
STAGES = ("reveal", "train", "compose", "measure")  # of a round, in order


def stage_number(round_index: int, stage: str) -> int:
    """Returns the checkpoint step of a stage; the base model's measurement is 0."""
    return 0 if stage == "base" else 1 + (round_index - 1) * len(STAGES) + STAGES.index(stage)


class Stage(NamedTuple):
    """Holds what one stage leaves behind: arrays (a tree of dictionaries, may be empty) and plain JSON values."""

    arrays: Tree
    meta: dict[str, Any]


class CheckpointError(ValueError):
    """Says that a checkpoint could not be written or read."""


class Checkpoints:
    """Keeps the checkpoints of one run folder, one step a stage; `read_only` leaves the folder as it is."""

    def __init__(self, folder: Path, read_only: bool = False) -> None:
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=False,
            create=not read_only,  # Orbax's own read_only would say so on stderr each time
        )
        self.folder = folder
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def saved(self) -> list[int]:
        """Returns the steps with a complete checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, stage: Stage) -> None:
        """Saves a stage.

        Raises:
          CheckpointError: when the disk refuses; what was saved before is still there.
        """
        arrays = jax.tree.map(np.asarray, stage.arrays)
        shapes = {
            jax.tree_util.keystr(path, simple=True, separator="/"): [list(leaf.shape), str(leaf.dtype)]
            for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
        }
        items: dict[str, Any] = {"meta": ocp.args.JsonSave({"stage": stage.meta, "shapes": shapes})}
        if shapes:
            items["arrays"] = ocp.args.StandardSave(arrays)
        try:
            with _threads_silenced():
                # force: a stage may come after a later one, which was taken over from another run
                self._manager.save(step, args=ocp.args.Composite(**items), force=True)
                self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} could not be written ({_first_line(error)}); earlier stages are "
                "kept: make room and run the same command again"
            ) from error

    def restore(self, step: int) -> Stage:
        """Reads a stage back: numpy arrays of the saved shapes and dtypes.

        Raises:
          CheckpointError: when it cannot be read.
        """
        try:
            saved = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            abstract: Tree = {}
            for path, (shape, dtype) in saved["shapes"].items():
                *parents, leaf = path.split("/")
                node = abstract
                for parent in parents:
                    node = node.setdefault(parent, {})
                node[leaf] = np.zeros(shape, dtype)
            if not abstract:
                return Stage({}, saved["stage"])
            args = ocp.args.Composite(arrays=ocp.args.StandardRestore(abstract))
            return Stage(self._manager.restore(step, args=args)["arrays"], saved["stage"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} cannot be read ({_first_line(error)}); remove "
                f"{self.folder / str(step)} to compute that stage again"
            ) from error

    def close(self) -> None:
        """Ends the manager's threads."""
        self._manager.close()


@contextmanager
def _threads_silenced() -> Iterator[None]:
    """Drops what Orbax's threads say while it saves: each logs a traceback of the error that the save raises anyway.
    and after a failure the writes still under way report to an event loop that is closed. They may come later, so
    after a failure it stays so."""
    loggers, hook = [logging.getLogger(name) for name in ("absl", "asyncio")], sys.unraisablehook

    def other(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    for logger in loggers:
        logger.disabled = True
    sys.unraisablehook = other
    yield
    for logger in loggers:
        logger.disabled = False
    sys.unraisablehook = hook


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
