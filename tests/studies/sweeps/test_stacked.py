"""Several runs trained in one step: which go together, and that they end as they would alone."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from rr_jax.runs.checkpoint import Checkpoints
from rr_jax.runs.config_file import parse_config
from rr_jax.studies.sweeps import stacked
from rr_jax.studies.sweeps.grid import load_sweep, run_sweep
from rr_jax.studies.sweeps.stacked import stacks
from tests import tiny


@pytest.fixture
def sweep(folder, tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(tiny.run_config(tmp_path / "unused", folder)))

    def write(name, **changes):
        weights = {str(weight): {"release.orthogonality.penalty_weight": weight} for weight in (0.0, 5.0)}
        tree = {
            "base": "base.yaml",
            "out": str(tmp_path / name),
            "seeds": [0, 1],
            "overrides": {"rounds": 1},
            "axes": {"weight": weights},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree | changes, sort_keys=False))
        return tmp_path / f"{name}.yaml"

    return write


def trained(path):
    """The adapters of each run of a sweep's first train stage."""
    found = {}
    for run in sorted((path / "runs").iterdir()):
        checkpoints = Checkpoints(run / "checkpoints")
        try:
            found[run.name] = checkpoints.restore(2)
        finally:
            checkpoints.close()
    return found


@pytest.mark.parametrize("strategy", ["map", "vmap"])
def test_stacked_runs_end_as_separate_ones(sweep, tmp_path, monkeypatch, strategy):
    sizes, lines = [], []
    train_stacked = stacked.train_stacked
    monkeypatch.setattr(
        stacked,
        "train_stacked",
        lambda jobs, *rest, **more: sizes.append(len(jobs)) or train_stacked(jobs, *rest, **more),
    )
    together = run_sweep(sweep("together", stack=strategy), note=lines.append)
    assert sizes == [4]  # over lambda and over seeds, whose rows differ in number
    assert lines[0].startswith(f"stack 1 of 1: 4 runs trained by {strategy}, with what comes before (")
    apart = run_sweep(sweep("apart", stack="off"))
    assert sizes == [4]
    for one, other in zip(together, apart, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds"}:
            assert one[name] == pytest.approx(other[name], abs=1e-5), name
    ours, theirs = trained(tmp_path / "together"), trained(tmp_path / "apart")
    assert len(ours) == 4 and ours.keys() == theirs.keys()
    for name, stage in ours.items():
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), stage.arrays, theirs[name].arrays)
        logs = [
            [json.loads(line) for line in (tmp_path / kind / "runs" / name / "metrics.jsonl").read_text().splitlines()]
            for kind in ("together", "apart")
        ]
        assert [list(line) for line in logs[0]] == [list(line) for line in logs[1]]
        manifest = json.loads((tmp_path / "together" / "runs" / name / "manifest.json").read_text())
        assert manifest["seconds"]["round 1, train"] > 0
    assert not np.array_equal(
        ours["0.0-seed0"].arrays["forget"]["q"]["a"], ours["5.0-seed0"].arrays["forget"]["q"]["a"]
    )
    run_sweep(sweep("together", stack=strategy))
    assert sizes == [4]  # all there


def test_other_shapes_train_apart_and_one_line_says_so(sweep):
    ranks = {str(rank): {"release.adapter.rank": rank} for rank in (1, 2)}
    path = sweep("ranks", axes={"rank": ranks}, seeds=[0])
    lines = []
    rows = run_sweep(path, note=lines.append)
    assert lines[0] == "trainings that are one step: none; not all, as they differ in release.adapter.rank"
    assert [row["rank"] for row in rows] == ["1", "2"] and not any("stack" in line for line in lines)


def test_a_run_that_reveals_too_little_leaves_the_stack_and_says_so_itself(sweep):
    few = {"one": {}, "many": {"reveal.collect.size": 900, "reveal.collect.min_size": 800}}
    rows = run_sweep(sweep("few", axes={"size": few}))
    assert [("failed" in row) for row in rows] == [False, False, True, True]


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ({"release.orthogonality.penalty_weight": 3.0}, [[0, 1, 2, 3]]),
        ({"release.pairing": "neutral"}, [[0, 1, 2, 3]]),
        ({"reveal.search.strategy": "random"}, [[0, 1, 2, 3]]),
        ({"release.adapter.rank": 1}, [[0, 1], [2, 3]]),
        ({"release.train.learning_rate": 1.0e-3}, [[0, 1, 2, 3]]),
        ({"release.train.steps": 4}, [[0, 1], [2, 3]]),
        ({"release.retain.place": "anchor"}, [[0, 1]]),  # the same trainings, once for each seed
        ({"release.retain.place": "repair"}, [[0, 1], [2, 3]]),
        ({"release.objective": "npo"}, [[0, 1], [2, 3]]),
        ({"release.objective": {"name": "negate"}, "release.data": True}, [[0, 1, 2, 3]]),
        ({"privacy.keep_revealed": "hashes"}, [[0, 1]]),
        ({"until": "reveal"}, [[0, 1]]),
    ],
)
def test_what_goes_together(sweep, axis, expected):
    _, cells = load_sweep(sweep("cells", axes={"x": {"as it is": {}, "changed": axis}}))
    groups, _ = stacks([cell.config for cell in cells])
    assert groups == expected


def test_trained_runs_are_left_alone(folder, tmp_path):
    configs = [parse_config(tiny.run_config(tmp_path / str(seed), folder, seed=seed)) for seed in (0, 1, 2)]
    assert stacks(configs) == ([[0, 1, 2]], [])
    (Path(configs[1].out) / "checkpoints" / "2").mkdir(parents=True)
    assert stacks(configs) == ([[0, 2]], [])
