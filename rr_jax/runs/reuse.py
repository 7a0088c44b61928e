"""Which configuration keys each stage reads, and stages of the first round taken over from runs in which those are equal.

Copies files, never computes; what is taken over is bit for bit what the run would have computed, and is there whole or
not at all. Knows configurations and run folders; never what a stage does.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rr_jax.runs.checkpoint import STAGES, stage_number
from rr_jax.runs.config import RunConfig
from rr_jax.runs.config_file import plain
from rr_jax.runs.folder import parsed_lines, read_json, read_lines, read_run, write_json, write_lines

# What a stage of the first round, and all that it builds on, does NOT read. Said this way round so that a new key counts
# as read, and costs time rather than exactness, until somebody looks.
_LOOP = (  # rounds.py decides by, or attacks.py reads
    "out", "rounds", "until", "reveal.when", "reveal.min_gain", "reveal.collect.min_size", "evaluate.relearning_rate",
)  # fmt: skip
UNREAD: dict[str, tuple[str, ...]] = {
    "base": (*_LOOP, "seed", "reveal", "release", "parallel", "privacy", "evaluate.guard"),
    "reveal": (*_LOOP, "evaluate", "release", "parallel"),
    "train": (
        *_LOOP,
        "evaluate.test",
        "evaluate.guard",
        "evaluate.metrics",
        "release.strength",
        "release.retain.repair",
    ),
    "compose": (*_LOOP, "evaluate.test"),
    "measure": _LOOP,
}
# nor does "train" where the constraint has nothing to act on, or where true data is given
UNREAD_ALONE = ("release.orthogonality",)
UNREAD_GIVEN = ("reveal", "release.pairing")
FILES: dict[str, tuple[str, ...]] = {  # beside the checkpoint and the lines of metrics.jsonl
    "base": ("samples/base.jsonl",),
    "reveal": ("revealed/round_01.jsonl", "revealed/round_01_left_out.jsonl"),
    "train": (),
    "compose": (),
    "measure": ("samples/round_01.jsonl",),
}


def needed_stages(config: RunConfig) -> list[str]:
    """Returns the stages up to the end of the first round that a run computes and saves, in order."""
    if config.until == "reveal":
        return ["reveal"] if config.privacy.keep_revealed == "text" else []
    reveals = config.release.source.reveals and config.privacy.keep_revealed == "text"
    return ["base", *(stage for stage in STAGES if stage != "reveal" or reveals)]


def stage_key(config: RunConfig, stage: str) -> str:
    """Returns all that a stage of the first round reads, as JSON: runs of equal keys share the stage."""
    tree, keys = plain(config), UNREAD[stage]
    if stage == "train":
        release = config.release
        tree["release"]["retain"]["place"] = release.place.trains_beside  # which of the places it is matters later
        keys += () if release.orthogonality.acts_on(pair=release.place.trains_beside) else UNREAD_ALONE
        keys += () if release.source.reveals else UNREAD_GIVEN
    return json.dumps(without(tree, keys), sort_keys=True)


def without(tree: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Returns a tree of plain values, without the dotted keys; the tree itself is used up."""
    for key in keys:
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.get(parent, {})
        node.pop(leaf, None)
    return tree


def stage_path(folder: Path, stage: str) -> Path:
    """Returns the checkpoint of a stage of the first round, which is there if and only if the stage is finished."""
    return folder / "checkpoints" / str(stage_number(1, stage))


def borrow(folder: Path, config: RunConfig, siblings: Sequence[Path]) -> list[str]:
    """Takes over what siblings have finished of the first round, and returns the stages' names.

    Side files come first and the checkpoint last, by renaming: a process killed in between leaves a stage that is
    not there, and what it left is replaced.

    Args:
      folder: of a run that is not under way, with its manifest.
      config: of that run.
      siblings: run folders; any state and any configuration will do, and this folder itself.
    """
    scratch = folder / ".borrowed.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    taken = []
    for stage in needed_stages(config):
        if stage_path(folder, stage).exists():
            continue
        key = stage_key(config, stage)
        source = next((one for one in siblings if _has(one, stage, key) and _made_alike(one, folder)), None)
        if source is not None:
            scratch.mkdir(exist_ok=True)
            _take(stage, source, folder, scratch)
            taken.append(stage)
    shutil.rmtree(scratch, ignore_errors=True)
    return taken


def _has(sibling: Path, stage: str, key: str) -> bool:
    """Returns whether a run has finished a stage, with its files, and its configuration has that key."""
    if not all(path.exists() for path in (stage_path(sibling, stage), *(sibling / name for name in FILES[stage]))):
        return False
    try:
        return stage_key(read_run(sibling), stage) == key
    except ValueError:  # of another version of this package
        return False


def _made_alike(one: Path, other: Path) -> bool:
    """Returns whether both runs were begun with the same versions on the same devices."""
    left, right = (read_json(folder / "manifest.json") for folder in (one, other))
    return all(left[name] == right[name] for name in ("versions", "devices"))


def _take(stage: str, source: Path, folder: Path, scratch: Path) -> None:
    for name in FILES[stage]:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, scratch / "file")
        os.replace(scratch / "file", folder / name)
    if stage == "reveal":  # a search of its own that was interrupted
        (folder / "search_01.partial.jsonl").unlink(missing_ok=True)
    round_index = 0 if stage == "base" else 1
    lines = (line for _, line in parsed_lines(source / "metrics.jsonl"))
    of_stage = [line for line in lines if isinstance(line, dict) and _is_of(line, round_index, stage)]
    others = [line for line in read_lines(folder / "metrics.jsonl") if not _is_of(line, round_index, stage)]
    write_lines(folder / "metrics.jsonl", others + of_stage)
    there, here = (read_json(path / "manifest.json") for path in (source, folder))
    name = f"round {round_index}, {stage}"
    for entry, value in (
        ("seconds", there.get("seconds", {}).get(name)),  # what it took there, so that runs can be compared
        ("taken_over", there.get("taken_over", {}).get(name, source.name)),
    ):
        here[entry] = here.get(entry, {}) | ({} if value is None else {name: value})
    write_json(folder / "manifest.json", here)
    shutil.copytree(stage_path(source, stage), scratch / "checkpoint")
    stage_path(folder, stage).parent.mkdir(exist_ok=True)
    os.replace(scratch / "checkpoint", stage_path(folder, stage))


def _is_of(line: dict[str, Any], round_index: int, stage: str) -> bool:
    return (line.get("round"), line.get("stage")) == (round_index, stage)
