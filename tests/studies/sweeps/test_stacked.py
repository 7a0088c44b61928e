"""Several runs trained in one step: which go together, and that they end as they would alone."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from rr_jax.models.spec import LINEAR_MODULES
from rr_jax.runs.checkpoint import Checkpoints
from rr_jax.runs.config_file import parse_config
from rr_jax.studies.sweeps import stacked
from rr_jax.studies.sweeps.grid import load_sweep, run_sweep
from rr_jax.studies.sweeps.stacked import stacks
from tests import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Where all sweeps are."""
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def sweep(folder, made):
    (made / "base.yaml").write_text(yaml.safe_dump(tiny.run_config(made / "unused", folder)))

    def write(name, **changes):
        weights = {str(weight): {"release.orthogonality.penalty_weight": weight} for weight in (0.0, 5.0)}
        tree = {
            "base": "base.yaml",
            "out": str(made / name),
            "seeds": [0, 1],
            "overrides": {"rounds": 1},
            "axes": {"weight": weights},
        }
        (made / f"{name}.yaml").write_text(yaml.safe_dump(tree | changes, sort_keys=False))
        return made / f"{name}.yaml"

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


@pytest.fixture
def sizes(monkeypatch):
    """How many runs each stacked training from here on has."""
    noted = []
    train_stacked = stacked.train_stacked
    monkeypatch.setattr(
        stacked,
        "train_stacked",
        lambda jobs, *rest, **more: noted.append(len(jobs)) or train_stacked(jobs, *rest, **more),
    )
    return noted


@pytest.mark.parametrize(
    ("strategy", "targets"),
    [("map", tiny.TARGETS), pytest.param("vmap", list(LINEAR_MODULES), marks=pytest.mark.slow)],
)
def test_stacked_runs_end_as_separate_ones(sweep, made, sizes, strategy, targets):
    lines, separate = [], f"not {strategy}"
    overrides = {"rounds": 1, "release.adapter.targets": targets}
    apart = run_sweep(sweep(separate, stack="off", overrides=overrides))
    assert sizes == []
    together = run_sweep(sweep(strategy, stack=strategy, overrides=overrides), note=lines.append)
    assert sizes == [4]  # over lambda and over seeds, whose rows differ in number
    assert lines[0].startswith(f"stack 1 of 1: 4 runs trained by {strategy}, with what comes before (")
    for one, other in zip(together, apart, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds"}:
            assert one[name] == pytest.approx(other[name], abs=1e-5), name
    ours, theirs = trained(made / strategy), trained(made / separate)
    assert len(ours) == 4 and ours.keys() == theirs.keys()
    for name, stage in ours.items():
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), stage.arrays, theirs[name].arrays)
        logs = [
            [json.loads(line) for line in (made / kind / "runs" / name / "metrics.jsonl").read_text().splitlines()]
            for kind in (strategy, separate)
        ]
        assert [list(line) for line in logs[0]] == [list(line) for line in logs[1]]
        manifest = json.loads((made / strategy / "runs" / name / "manifest.json").read_text())
        assert manifest["seconds"]["round 1, train"] > 0
    assert not np.array_equal(
        ours["0.0-seed0"].arrays["forget"]["q"]["a"], ours["5.0-seed0"].arrays["forget"]["q"]["a"]
    )
    run_sweep(sweep(strategy, stack=strategy, overrides=overrides))
    assert sizes == [4]  # all there


def test_what_is_not_one_step_trains_apart_and_one_line_says_so(sweep):
    axis = {str(steps): {"release.train.steps": steps} for steps in (2, 3)}
    path = sweep("steps", axes={"steps": axis}, seeds=[0])
    lines = []
    rows = run_sweep(path, note=lines.append)
    assert lines[0] == "trainings that are one step: none; not all, as they differ in release.train.steps"
    assert [row["steps"] for row in rows] == ["2", "3"] and not any("stack" in line for line in lines)


@pytest.mark.slow
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
