"""Whole runs of combinations that are not the default, of objective, data, place and optimizer; they resume bit for bit."""

import json

import jax
import numpy as np
import pytest

from rr_jax.runs import loop
from rr_jax.runs.checkpoint import Checkpoints
from rr_jax.runs.config_file import parse_config
from rr_jax.studies import experiment
from rr_jax.tasks.base import Task
from tests import tiny

UNCONSTRAINED = {"penalty": "none"}


def config_of(out, folder, objective, place="none", rounds=1, **release):
    tree = tiny.run_config(out, folder, rounds=rounds)
    apart = UNCONSTRAINED if place == "none" else {"penalty": "normalized"}
    tree["release"] |= {"objective": objective, "orthogonality": apart} | release
    tree["release"]["retain"] |= {"place": place}
    return parse_config(tree)


def stages_of(out):
    checkpoints = Checkpoints(out / "checkpoints")
    try:
        return {step: checkpoints.restore(step) for step in checkpoints.saved()}
    finally:
        checkpoints.close()


@pytest.mark.parametrize(
    ("objective", "place", "release"),
    [
        ("npo", "none", {"examples": 3}),
        ("grad_diff", "repair", {"optimizer": "sophia"}),
        ("negate", "none", {}),
        ("ext_sub", "joint", {}),
        ("simnpo", "joint+repair", {}),
    ],
)
def test_an_objective_is_given_its_data_and_applied_by_its_rule(folder, tmp_path, objective, place, release):
    config = config_of(tmp_path / "run", folder, objective, place, data="true", **release)
    summary = experiment.run(config)
    assert (summary.objective, summary.data) == (objective, "true")
    (entry,) = summary.rounds
    assert entry.search == () and entry.given == release.get("examples", 5)
    assert len(entry.trade_off) == 2 and entry.forget_strength in (0.2, 0.4)
    assert ("overlap" in entry.layers) == (place != "none")
    done = stages_of(tmp_path / "run")
    assert done.keys() == {0, 2, 3, 4}  # nothing was revealed
    assert "forget" in json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]
    expected = (
        {"forget"} | ({"retain"} if "joint" in place else set()) | ({"expert"} if objective == "ext_sub" else set())
    )
    assert done[2].arrays.keys() == expected
    change = config.release.objective.change(done[2].arrays, entry.forget_strength, 2.0)
    added = ("joint" in place) + ("repair" in place)  # each of rank 2 after the change
    for name, module in change.items():
        rank = module["a"].shape[-1]
        found = done[3].arrays["deltas"][name]
        np.testing.assert_array_equal(found["a"][..., :rank], module["a"])
        np.testing.assert_array_equal(found["b"][..., :rank, :], module["b"])
        assert found["a"].shape[-1] == rank + 2 * added
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"Objective {objective}, trained on the true forget data" in page
    assert f"{entry.given} true forget examples" in page


def test_an_objective_trains_on_what_is_revealed_for_several_rounds(folder, tmp_path):
    class Refusing(tiny.EchoTask):
        def true_examples(self, count, seed):
            raise AssertionError("the true data was asked for")

    config = config_of(tmp_path / "run", folder, "grad_diff", "anchor", rounds=2, pairing="same")
    summary = loop.run(config, task=Refusing(tiny.weight_metrics))
    assert (summary.data, len(summary.rounds)) == ("revealed", 2)
    assert summary.rounds[0].revealed >= 2 and summary.rounds[0].given is None
    done = stages_of(tmp_path / "run")
    assert done.keys() == set(range(9))
    for name, deltas in done[7].arrays["deltas"].items():  # of both rounds, the second trained on the first's weights
        np.testing.assert_array_equal(deltas["a"][..., :2], done[3].arrays["deltas"][name]["a"])
        assert deltas["a"].shape[-1] == 4


def test_without_its_data_a_run_is_one_line_and_leaves_nothing(folder, tmp_path):
    class Without(tiny.EchoTask):
        def true_examples(self, count, seed):
            raise ValueError("task.retain_text: stories.txt has no text that holds what is to be forgotten")

    class None_(tiny.EchoTask):
        true_examples = Task.true_examples

    for task, said in (
        (Without, "has no text that holds"),
        (None_, r"task echo has none \(its true_examples gives none\)"),
    ):
        config = config_of(tmp_path / "run", folder, "npo", data="true")
        with pytest.raises(
            ValueError, match=f"release.data is 'true', which needs the data to forget: .*{said}"
        ) as caught:
            loop.run(config, task=task(tiny.weight_metrics))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_an_objective_that_needs_retain_data_is_refused_without(folder, tmp_path):
    class Nothing(tiny.EchoTask):
        def retain_examples(self, count, seed, split="train"):
            return []

    for objective in ("ext_sub", "grad_diff"):
        config = config_of(tmp_path / "run", folder, objective)
        with pytest.raises(
            ValueError, match=f"release.objective {objective!r} trains on retain data, but task echo has"
        ):
            loop.run(config, task=Nothing(tiny.weight_metrics))
    config = config_of(tmp_path / "run", folder, "negate", "repair")
    with pytest.raises(ValueError, match="release.retain.place 'repair' trains on retain data, but task echo has none"):
        loop.run(config, task=Nothing(tiny.weight_metrics))
    apart = {"penalty": "activations", "directions": 2}
    config = config_of(tmp_path / "run", folder, "negate", orthogonality=apart)
    with pytest.raises(ValueError, match="release.orthogonality looks at retain data, but task echo has none"):
        loop.run(config, task=Nothing(tiny.weight_metrics))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stopped_at", [2, 3])
def test_an_interrupted_combination_ends_with_the_same_bits(folder, tmp_path, monkeypatch, stopped_at):
    loop.run(config_of(tmp_path / "whole", folder, "simnpo", data="true"))
    save_stage = Checkpoints.save

    def stop(self, step, stage):
        if step == stopped_at:
            raise KeyboardInterrupt
        save_stage(self, step, stage)

    config = config_of(tmp_path / "pieces", folder, "simnpo", data="true")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.run(config)
    loop.run(config)
    for name in ("summary.json", "metrics.jsonl"):
        assert (tmp_path / "pieces" / name).read_text() == (tmp_path / "whole" / name).read_text(), name
    whole, pieces = stages_of(tmp_path / "whole"), stages_of(tmp_path / "pieces")
    assert whole.keys() == pieces.keys()
    for step in whole:
        assert whole[step].meta == pieces[step].meta
        jax.tree.map(np.testing.assert_array_equal, whole[step].arrays, pieces[step].arrays)


def test_the_default_combination_may_go_without_a_retain_adapter(folder, tmp_path):
    summary = loop.run(config_of(tmp_path / "run", folder, "negate"))
    assert (summary.objective, summary.data) == ("negate", "revealed")
    assert "overlap" not in summary.rounds[0].layers
    done = stages_of(tmp_path / "run")
    assert done[2].arrays.keys() == {"forget"}
    assert done[3].arrays["deltas"]["q"]["a"].shape[-1] == 2
