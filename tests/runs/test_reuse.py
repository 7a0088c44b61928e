"""Stages taken over from another run: the table of what stages read is true, and nothing differs afterwards."""

import dataclasses
import itertools
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from rr_jax.evaluate.metric import from_plain
from rr_jax.runs import loop as rounds
from rr_jax.runs import reuse
from rr_jax.runs.checkpoint import STAGES, Checkpoints
from rr_jax.runs.config_file import parse_config, plain
from rr_jax.runs.folder import start_folder
from rr_jax.runs.reuse import FILES, UNREAD, UNREAD_ALONE, borrow, needed_stages, stage_key, stage_path
from rr_jax.runs.stages.base import base_stage
from rr_jax.runs.stages.compose import compose_stage
from rr_jax.runs.stages.measure import measure_stage
from rr_jax.runs.stages.reveal import reveal_stage
from rr_jax.runs.stages.train import train_stage
from rr_jax.section import Section
from rr_jax.tasks.base import Revealed
from tests import tiny


def configured(out, folder, **changes):
    """The tiny run with dotted keys changed (a double underscore is a dot)."""
    tree = tiny.run_config(out, folder)
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return parse_config(tree)


@pytest.fixture(scope="module")
def first(folder, tmp_path_factory):
    """A finished run that others take stages from."""
    config = configured(tmp_path_factory.mktemp("runs") / "first", folder, rounds=1)
    rounds.run(config)
    return config


class Watched:
    """A section that notes which of its keys are looked at."""

    def __init__(self, section, seen, prefix=""):
        self._section, self._seen, self._prefix = section, seen, prefix

    def __getattr__(self, name):
        if isinstance(getattr(type(self._section), name, None), property):
            return getattr(type(self._section), name).fget(self)
        value = getattr(self._section, name)
        if isinstance(value, Section):
            return Watched(value, self._seen, f"{self._prefix}{name}.")
        self._seen.add(self._prefix + name)
        return value


def under(key, prefixes):
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


@pytest.mark.parametrize("place", ["joint+repair", "repair"])
def test_no_stage_reads_a_key_that_it_is_said_not_to_read(folder, tmp_path, place):
    config = configured(tmp_path / "run", folder, release__retain__place=place)
    seen = {}
    with rounds.open_run(config) as (context, _):

        def watched(stage):
            return dataclasses.replace(context, config=Watched(config, seen.setdefault(stage, set())))

        base = base_stage(watched("base")).meta
        revealed = [Revealed(**one) for one in reveal_stage(watched("reveal"), 1, None).meta["revealed"]]
        trained = train_stage(watched("train"), 1, None, revealed)
        composed = compose_stage(watched("compose"), 1, None, trained, from_plain(base["validation"]))
        measure_stage(watched("measure"), 1, composed.arrays["deltas"], revealed, from_plain(base["test"]))
    assert seen.keys() == UNREAD.keys() == FILES.keys() == {"base", *STAGES}
    for stage, keys in seen.items():
        assert not {key for key in keys if under(key, UNREAD[stage])}, stage
    # a stage reads what those before it read, too, all but the sizes of the base model's measurement
    assert {"evaluate.test", "evaluate.validation"} <= seen["base"]
    assert "reveal.search.generations" in seen["reveal"] and "release.train.steps" in seen["train"]
    for earlier, later in itertools.pairwise(STAGES):
        assert {key for key in UNREAD[later] if not under(key, UNREAD[earlier])} == set()


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"rounds": 2}, "base reveal train compose measure"),
        ({"release__strength__retain": [0.5]}, "base reveal train"),
        ({"release__retain__repair": {"steps": 9}}, "base reveal train"),
        ({"release__retain__place": "anchor"}, "base reveal train"),
        ({"release__retain__place": "repair"}, "base reveal"),
        ({"release__orthogonality__penalty_weight": 9.0}, "base reveal"),
        ({"release__adapter__rank": 3}, "base reveal"),
        ({"release__objective": "npo"}, "base reveal"),
        ({"release__data": "true"}, "base"),
        ({"evaluate__guard": "oracle_watcher"}, "base reveal train"),
        ({"parallel__mode": "jit"}, "base reveal"),
        ({"reveal__bandit__fit_steps": 9}, "base"),
        ({"seed": 3}, "base"),
        ({"privacy__keep_revealed": "hashes"}, "base"),
        ({"evaluate__test": 9}, "reveal train compose"),
        ({"until": "reveal"}, "reveal"),
        ({"dtype": "bfloat16"}, ""),
        ({"task": {"name": "testbed/code"}}, ""),
    ],
)
def test_what_runs_share(changes, shared):
    one, other = configured("one", "m"), configured("other", "m", **changes)
    common = set(needed_stages(one)) & set(needed_stages(other))
    assert {stage for stage in common if stage_key(one, stage) == stage_key(other, stage)} == set(shared.split())


def test_without_a_retain_adapter_beside_it_lambda_does_not_matter_to_the_forget_adapter():
    repair = {"release__retain__place": "repair"}
    one, other = (
        configured("one", "m", **repair),
        configured("two", "m", release__orthogonality__penalty_weight=9.0, **repair),
    )
    assert stage_key(one, "train") == stage_key(other, "train")
    assert stage_key(one, "compose") != stage_key(other, "compose")
    assert under("release.orthogonality.penalty_weight", UNREAD_ALONE)


def test_a_key_that_nobody_has_looked_at_counts_as_read():
    tree = plain(configured("one", "m"))
    known = {key for stage in UNREAD.values() for key in stage} | set(UNREAD_ALONE)
    for key in known:  # and what is listed is there: a renamed key would silently count as read
        node = tree
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def stages_of(config):
    checkpoints = Checkpoints(stage_path(Path(config.out), "base").parent)
    try:
        return {step: checkpoints.restore(step) for step in checkpoints.saved()}
    finally:
        checkpoints.close()


def same_run(one, other):
    """Everything that a run leaves, but for times and names of folders."""
    left, right = Path(one.out), Path(other.out)
    names = {str(path.relative_to(left)) for path in left.rglob("*") if "checkpoints" not in path.parts}
    assert names == {str(path.relative_to(right)) for path in right.rglob("*") if "checkpoints" not in path.parts}
    for name in names - {"config.yaml", "manifest.json", "report.html"}:
        if (left / name).is_file():
            assert (left / name).read_bytes() == (right / name).read_bytes(), name
    ours, theirs = stages_of(one), stages_of(other)
    assert ours.keys() == theirs.keys()
    for step in ours:
        assert ours[step].meta == theirs[step].meta
        jax_tree_equal(ours[step].arrays, theirs[step].arrays)


def jax_tree_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"release__orthogonality__penalty_weight": 9.0, "rounds": 1}, ["round 0, base", "round 1, reveal"]),
        ({"evaluate__test": 9, "rounds": 1}, ["round 1, compose", "round 1, reveal", "round 1, train"]),
        ({"rounds": 2}, [f"round {0 if s == 'base' else 1}, {s}" for s in sorted(FILES)]),
    ],
)
def test_a_run_with_stages_of_another_is_the_run_that_computed_them(folder, first, tmp_path, changes, taken):
    alone = configured(tmp_path / "alone", folder, **changes)
    helped = configured(tmp_path / "helped", folder, **changes)
    assert rounds.run(alone) == rounds.run(helped, siblings=[tmp_path / "none", Path(first.out)])
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("alone", "helped")]
    assert sorted(lines[0]) == sorted(lines[1])
    if "evaluate__test" not in changes:  # else the stages come in another order
        same_run(alone, helped)
    manifest = json.loads((tmp_path / "helped" / "manifest.json").read_text())
    assert sorted(manifest["taken_over"]) == sorted(taken)
    assert set(manifest["taken_over"].values()) == {"first"}
    assert all(manifest["seconds"][name] > 0 for name in manifest["taken_over"] if "base" not in name)


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it, and nothing is tidied up."""


def test_a_copy_that_is_cut_off_anywhere_is_made_good(folder, first, tmp_path, monkeypatch):
    """The process ends right before or right after any of the renames, or within the copy of a checkpoint."""
    replace, copytree = os.replace, shutil.copytree
    calls = [0]

    def cut(when, number):
        def replacing(source, target):
            calls[0] += 1
            if calls[0] == number and when == "before":
                raise Killed
            replace(source, target)
            if calls[0] == number and when == "after":
                raise Killed

        def copying(source, target, *rest, **options):  # of a folder in the folder, too
            calls[0] += 1
            if calls[0] == number:
                Path(target).mkdir()
                (Path(target) / "half").write_text("")
                raise Killed
            return copytree(source, target, *rest, **options)

        monkeypatch.setattr(os, "replace", replacing)
        monkeypatch.setattr(shutil, "copytree", copying)
        calls[0] = 0

    def begun(name):
        config = configured(tmp_path / name, folder, rounds=2)
        start_folder(tmp_path / name, config, {})
        return config

    def content(name):
        return {
            str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()
        }

    whole = begun("whole")
    cut("never", 0)
    assert borrow(tmp_path / "whole", whole, [Path(first.out)]) == needed_stages(whole)
    total = calls[0]
    expected = content("whole")
    del expected["config.yaml"]  # `out` differs
    assert total > 15
    for number in range(1, total + 1):
        for when in ("before", "after"):
            name = f"{when}{number}"
            cut("never", 0)
            config = begun(name)
            cut(when, number)
            with pytest.raises(Killed):
                borrow(tmp_path / name, config, [Path(first.out)])
            cut("never", 0)
            borrow(tmp_path / name, config, [Path(first.out)])
            found = content(name)
            del found["config.yaml"]
            assert found == expected, name
    monkeypatch.undo()


def test_a_run_that_may_keep_hashes_alone_takes_no_text(folder, first, tmp_path):
    changes = {"rounds": 1, "privacy__keep_revealed": "hashes"}
    siblings = [Path(first.out), tmp_path / "hashed"]
    alone = rounds.run(configured(tmp_path / "hashed", folder, **changes))
    helped = configured(tmp_path / "helped", folder, release__strength__retain=[0.5], **changes)
    rounds.run(helped, siblings=siblings)
    assert alone.status == "complete"
    manifest = json.loads((tmp_path / "helped" / "manifest.json").read_text())
    assert manifest["taken_over"] == {"round 0, base": "first", "round 1, train": "hashed"}
    texts = [
        json.loads(line)["response"]
        for line in (Path(first.out) / "revealed" / "round_01.jsonl").read_text().splitlines()
    ]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "helped").rglob("*") if path.is_file())
    assert texts and not any(text.strip().encode() in kept for text in texts if len(text.strip()) > 5)


def test_nothing_is_taken_from_a_run_made_otherwise(folder, first, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(first.out, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["versions"]["jax"] = "0.0"
    (other / "manifest.json").write_text(json.dumps(manifest))
    config = configured(tmp_path / "run", folder, rounds=2)
    start_folder(tmp_path / "run", config, {})
    assert borrow(tmp_path / "run", config, [other, tmp_path / "run"]) == []
    assert not (tmp_path / "run" / ".borrowed.tmp").exists()
    assert reuse.borrow(tmp_path / "run", config, [other, Path(first.out)]) == needed_stages(config)
