"""A run folder as an object: what is in it is what the run left, and looking at it changes nothing."""

import json

import jax
import numpy as np
import pytest

import rr_jax
from rr_jax.models.hub import save
from rr_jax.runs import loop
from rr_jax.runs.config_file import parse_config
from rr_jax.runs.results import RunSummary
from tests import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save(tiny.model(), folder / "model")
    config = parse_config(tiny.run_config(folder / "run", folder / "model", rounds=1))
    summary = loop.run(config, task=tiny.EchoTask(tiny.weight_metrics))
    return folder / "run", summary


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_saved_run_holds_what_the_run_left_and_is_left_as_it_is(made, capfd):
    folder, summary = made
    (folder / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()  # of a run that is under way
    before = files(folder)
    run = rr_jax.load_run(folder)
    assert run.summary == summary and run.config.rounds == 1
    adapters = run.adapters(1)
    assert adapters.keys() == {"forget", "retain", "repair", "deltas"}
    lines = [json.loads(line) for line in (folder / "revealed" / "round_01.jsonl").read_text().splitlines()]
    assert [vars(one) for one in run.revealed(1)] == lines and len(lines) == summary.rounds[0].revealed
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in logged if line["stage"] == "train" and "nll/forget" in line]
    series = run.metrics["nll/forget"][1, "train"]
    assert series.steps.tolist() == [line["step"] for line in trained] == [1, 2, 3]
    assert series.values.tolist() == [line["nll/forget"] for line in trained]
    assert set(run.metrics["use"]) == {(0, "base"), (1, "measure")}
    assert series.steps.dtype == np.int64 and series.values.dtype == np.float64
    assert files(folder) == before
    assert not capfd.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, adapters["deltas"], loop.load_deltas(folder, 1)[0])


def test_its_repr_says_what_it_found(made):
    text = repr(rr_jax.load_run(made[0]))
    first, base, round_1, *_ = text.splitlines()
    assert first == f"run {made[0]}: echo, seed 0, complete"
    assert base.startswith("  base: forget ") and "\u00b1 0.000" in base
    assert round_1.startswith(f"  round 1: {made[1].rounds[0].revealed} revealed, strength ")
    assert f"stopped: {made[1].stop.explanation}" in text


def test_what_is_not_there_is_said_in_a_line(made, tmp_path):
    run = rr_jax.load_run(made[0])
    for call, message in (
        (lambda: run.adapters(0), "has no adapters of round 0; rounds with some: 1"),
        (lambda: run.adapters(7), "has no adapters of round 7"),
        (lambda: run.revealed(2), "round 2 searched for nothing"),
        (lambda: rr_jax.load_run(tmp_path), "is not a run folder"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    (tmp_path / "config.yaml").write_text((made[0] / "config.yaml").read_text())
    with pytest.raises(ValueError, match="has no summary.json yet"):
        rr_jax.load_run(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match=r"summary\.json: schema_version is None"):
        rr_jax.load_run(tmp_path)
    made[1].write(tmp_path)
    assert RunSummary.read(tmp_path) == made[1]
    with pytest.raises(ValueError, match="has no checkpoints"):
        rr_jax.load_run(tmp_path).adapters(1)
