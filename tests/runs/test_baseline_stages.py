"""Whole runs of baselines on a tiny model: their data, what they leave behind, and that they resume bit for bit."""

import json

import jax
import numpy as np
import pytest

from rr_jax.models.hub import save
from rr_jax.release.baselines import with_strength
from rr_jax.runs import loop as rounds
from rr_jax.runs.checkpoint import Checkpoints
from rr_jax.runs.config_file import parse_config
from rr_jax.tasks.base import Task
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    save(tiny.model(), path)
    return path


def baseline(out, folder, method, place="none", **section):
    tree = tiny.run_config(out, folder, rounds=1)
    tree["release"] |= {"method": method, "baseline": section}
    tree["release"]["retain"] |= {"place": place}
    return parse_config(tree)


def stages_of(out):
    checkpoints = Checkpoints(out / "checkpoints")
    try:
        return {step: checkpoints.restore(step) for step in checkpoints.saved()}
    finally:
        checkpoints.close()


@pytest.mark.parametrize(
    ("method", "place", "section"),
    [("npo", "none", {"examples": 3}), ("grad_diff", "after", {"optimizer": "sophia"}), ("task_vector", "none", {}),
     ("ext_sub", "none", {})],
)  # fmt: skip
def test_a_baseline_is_given_its_data_and_applied_by_its_rule(folder, tmp_path, method, place, section):
    config = baseline(tmp_path / "run", folder, method, place, **section)
    summary = rounds.run(config)
    assert (summary["method"], summary["forget_data"]) == (method, "true")
    (entry,) = summary["rounds"]
    assert entry["search"] == [] and entry["given"] == section.get("examples", 5)
    assert len(entry["trade_off"]) == 2 and entry["eta_forget"] in (0.2, 0.4)
    assert ("overlap" in entry) == (place == "after")
    done = stages_of(tmp_path / "run")
    assert done.keys() == {0, 2, 3, 4}  # nothing was revealed
    assert "forget" in json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]
    applied = with_strength(method, done[2].arrays, entry["eta_forget"], 2.0)
    for name, module in applied.items():
        rank = module["a"].shape[-1]
        found = done[3].arrays["deltas"][name]
        np.testing.assert_array_equal(found["a"][..., :rank], module["a"])
        np.testing.assert_array_equal(found["b"][..., :rank, :], module["b"])
        assert (found["a"].shape[-1] > rank) == (place == "after")
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"A baseline: {method.replace('_', ' ')}, trained on true forget data" in page
    assert f"{entry['given']} true forget examples" in page


def test_a_baseline_trains_on_what_ours_would_reveal(folder, tmp_path):
    class Refusing(tiny.EchoTask):
        def true_examples(self, count, seed):
            raise AssertionError("the true data was asked for")

    config = baseline(tmp_path / "run", folder, "grad_diff", forget_data="revealed")
    summary = rounds.run(config, task=Refusing(tiny.weight_metrics))
    assert summary["forget_data"] == "revealed"
    assert summary["rounds"][0]["revealed"] >= 2 and "given" not in summary["rounds"][0]
    assert stages_of(tmp_path / "run").keys() == set(range(5))


def test_a_baseline_without_its_data_is_one_line_and_leaves_nothing(folder, tmp_path):
    class Empty(tiny.EchoTask):
        def true_examples(self, count, seed):
            raise ValueError("task.retain_text: stories.txt has no text that holds what is to be forgotten")

    class Without(tiny.EchoTask):
        true_examples = Task.true_examples

    for kind, said in ((Empty, "task.retain_text: .* no text that"), (Without, "task echo has none")):
        with pytest.raises(ValueError, match=rf"release.method 'npo' needs the data to forget: {said}") as caught:
            rounds.run(baseline(tmp_path / "run", folder, "npo"), task=kind(tiny.weight_metrics))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stopped_at", [2, 3])
def test_an_interrupted_baseline_ends_with_the_same_bits(folder, tmp_path, monkeypatch, stopped_at):
    rounds.run(baseline(tmp_path / "whole", folder, "simnpo"))
    save_stage = Checkpoints.save

    def stop(self, step, stage):
        if step == stopped_at:
            raise KeyboardInterrupt
        save_stage(self, step, stage)

    config = baseline(tmp_path / "pieces", folder, "simnpo")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            rounds.run(config)
    rounds.run(config)
    for name in ("summary.json", "metrics.jsonl"):
        assert (tmp_path / "pieces" / name).read_text() == (tmp_path / "whole" / name).read_text(), name
    whole, pieces = stages_of(tmp_path / "whole"), stages_of(tmp_path / "pieces")
    assert whole.keys() == pieces.keys()
    for step in whole:
        assert whole[step].meta == pieces[step].meta
        jax.tree.map(np.testing.assert_array_equal, whole[step].arrays, pieces[step].arrays)


def test_ours_may_go_without_a_retain_adapter(folder, tmp_path):
    tree = tiny.run_config(tmp_path / "run", folder, rounds=1)
    tree["release"]["retain"]["place"] = "none"
    tree["release"]["orthogonality"] = {"penalty": "none"}
    summary = rounds.run(parse_config(tree))
    assert (summary["method"], summary["forget_data"]) == ("reveal_and_release", "revealed")
    assert "overlap" not in summary["rounds"][0]
    done = stages_of(tmp_path / "run")
    assert done[2].arrays.keys() == {"forget"}
    assert done[3].arrays["deltas"]["q"]["a"].shape[-1] == 2
