"""Whole runs on a tiny model: what they leave behind, that they resume bit for bit, and how they stop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rr_jax import rounds
from rr_jax.checkpoint import Checkpoints
from rr_jax.config import parse_config
from rr_jax.models.hub import save
from rr_jax.release.trainer import TrainingDiverged
from tests import tiny

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    save(tiny.model(), path)
    return path


@pytest.fixture
def echo(monkeypatch):
    def use(metrics):
        monkeypatch.setattr(rounds, "make_task", lambda section, tokenizer, seed: tiny.EchoTask(metrics))

    use(tiny.weight_metrics)
    return use


def script(config, *kill):
    command = [sys.executable, str(ROOT / "tests" / "resume_script.py"), json.dumps(config), *map(str, kill)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def checkpoint_arrays(out):
    checkpoints = Checkpoints(Path(out) / "checkpoints")
    try:
        return {step: checkpoints.restore(step) for step in checkpoints.saved()}
    finally:
        checkpoints.close()


def same(one, two):
    assert one.meta == two.meta
    assert one.arrays.keys() == two.arrays.keys()
    for name in one.arrays:
        for module, factors in one.arrays[name].items():
            for factor, value in factors.items():
                np.testing.assert_array_equal(value, two.arrays[name][module][factor])


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = script(tiny.run_config(out, folder))
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("kill", [("before", 1), ("after", 2), ("before", 4), ("after", 6), ("before", 9)])
def test_a_killed_run_resumes_to_the_same_bits(folder, uninterrupted, tmp_path, kill):
    config = tiny.run_config(tmp_path / "killed", folder)
    died = script(config, *kill)
    assert died.returncode == -9, died.stderr
    assert not (tmp_path / "killed" / "report.html").exists()
    resumed = script(config)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("summary.json", "metrics.jsonl", "revealed/round_01.jsonl", "revealed/round_02.jsonl"):
        assert (tmp_path / "killed" / name).read_text() == (uninterrupted / name).read_text(), name
    whole, pieces = checkpoint_arrays(uninterrupted), checkpoint_arrays(tmp_path / "killed")
    assert whole.keys() == pieces.keys() == set(range(9))
    for step in whole:
        same(whole[step], pieces[step])


def test_a_full_disk_keeps_the_earlier_stages_and_the_run_goes_on_later(folder, uninterrupted, tmp_path):
    config = tiny.run_config(tmp_path / "full", folder)
    refused = script(config, "full", 3)
    assert refused.returncode == 1, refused.stderr
    last = refused.stderr.strip().splitlines()[-1]
    assert "CheckpointError: checkpoint 2 in" in last
    assert "earlier stages are kept: make room and run the same command again" in last
    assert checkpoint_arrays(tmp_path / "full").keys() == {0, 1}
    resumed = script(config)
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "full" / "summary.json").read_text() == (uninterrupted / "summary.json").read_text()


def test_a_run_leaves_the_promised_files(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    promised = "config.yaml manifest.json metrics.jsonl revealed checkpoints samples summary.json report.html"
    assert names == set(promised.split())
    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert summary["status"] == "complete"
    assert summary["stop"]["reason"] == "rounds_done"
    assert [entry["round"] for entry in summary["rounds"]] == [1, 2]
    assert all(len(entry["overlap"]) == len(entry["update_cosine"]) == 7 for entry in summary["rounds"])
    lines = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"base", "reveal", "train", "compose", "measure"}
    manifest = json.loads((uninterrupted / "manifest.json").read_text())
    assert {"versions", "git_commit", "devices", "seed", "data", "seconds"} <= manifest.keys()


def test_every_round_can_be_rebuilt_and_round_0_is_the_base(uninterrupted, folder):
    base, _, _ = rounds.load_round(uninterrupted, 0)
    np.testing.assert_array_equal(base.params["layers"]["q"], tiny.params()["layers"]["q"])
    after, _, number = rounds.load_round(uninterrupted, 2)
    assert number == 2
    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert tiny.weight_metrics(after) == summary["rounds"][1]["metrics"]
    with pytest.raises(ValueError, match="has no round 7; finished rounds: 0, 1, 2"):
        rounds.load_round(uninterrupted, 7)


def test_a_folder_of_another_configuration_is_refused_naming_the_keys(uninterrupted, folder, echo):
    other = parse_config(tiny.run_config(uninterrupted, folder, seed=1, dtype="bfloat16"))
    with pytest.raises(ValueError, match="differs in dtype, seed;"):
        rounds.run(other)


def test_nothing_revealed_says_how_to_widen_the_search(folder, tmp_path, echo):
    config = tiny.run_config(tmp_path / "run", folder)
    config["reveal"]["collect"]["min_size"] = 1000
    with pytest.raises(ValueError, match=r"nothing revealed: .* widen the search with more reveal.bandit.iterations"):
        rounds.run(parse_config(config))


def test_a_round_outside_every_budget_is_not_applied(folder, tmp_path, echo):
    echo(lambda lm: {"forget": 1.0, "use": float(np.asarray(lm.params["layers"]["q"]).sum()), "degenerate": 0.0})
    config = tiny.run_config(tmp_path / "run", folder)
    config["release"]["eta"] = {"forget": [0.5], "degenerate_budget": 0.0, "utility_budget": 1.0}

    def only_the_base_is_useful(lm):
        base = np.array_equal(lm.params["layers"]["q"], tiny.params()["layers"]["q"])
        return {"forget": 1.0, "use": 1.0 if base else 0.1, "degenerate": 0.0}

    echo(only_the_base_is_useful)
    summary = rounds.run(parse_config(config))
    assert summary["stop"]["reason"] == "utility_floor"
    assert summary["selected_round"] == 0
    assert summary["rounds"][0]["accepted"] is False


def test_a_later_round_that_reveals_nothing_ends_the_run(folder, tmp_path, echo, monkeypatch):
    from rr_jax import stages

    collect = stages.collect
    monkeypatch.setattr(stages, "collect", lambda *a, round, **k: collect(*a, round=round, **k) if round == 1 else [])
    summary = rounds.run(parse_config(tiny.run_config(tmp_path / "run", folder)))
    assert summary["stop"] == {"reason": "nothing_revealed", "explanation": "round 2 revealed 0 examples, fewer than 2"}
    assert len(summary["rounds"]) == 1


def test_hashes_keep_no_text_and_the_run_still_ends(folder, tmp_path, echo):
    config = tiny.run_config(tmp_path / "run", folder, rounds=1, privacy={"keep_revealed": "hashes"})
    rounds.run(parse_config(config))
    lines = (tmp_path / "run" / "revealed" / "round_01.jsonl").read_text().splitlines()
    assert lines
    for line in lines:
        assert {"response_sha256", "context_sha256", "arm"} <= json.loads(line).keys()
        assert "response" not in json.loads(line)
    assert 1 not in checkpoint_arrays(tmp_path / "run")


def test_a_loss_that_is_not_a_number_names_stage_step_and_checkpoint(folder, tmp_path, echo):
    config = tiny.run_config(tmp_path / "run", folder)
    config["release"]["train"] = {"steps": 3, "batch_size": 2, "seq_len": 32, "learning_rate": 1e30, "clip": 1e30}
    with pytest.raises(TrainingDiverged, match=r"round 1, stage train: .* at step \d; the last good checkpoint is 1"):
        rounds.run(parse_config(config))


def test_only_what_the_model_generated_trains_the_forget_adapter(folder, tmp_path, echo, monkeypatch):
    """Every row that reaches the forget adapter is made of a revealed response; no task or data set has a say."""
    from rr_jax import stages
    from rr_jax.generation import text

    generated, trained = [], []
    generate, train = text.generate, stages.train

    def note_generated(*args, **kwargs):
        made = generate(*args, **kwargs)
        generated.extend(made)
        return made

    def note_trained(adapters, params, data, *args, **kwargs):
        if "forget" in data:
            trained.append(data["forget"])
        return train(adapters, params, data, *args, **kwargs)

    monkeypatch.setattr("rr_jax.reveal.search.generate", note_generated)
    monkeypatch.setattr(stages, "train", note_trained)
    rounds.run(parse_config(tiny.run_config(tmp_path / "run", folder)))
    assert len(trained) == 2
    decode = tiny.tokenizer().decode
    for rows in trained:
        weighted = 0
        for tokens, segments, weights in zip(*rows, strict=True):
            for segment in range(1, segments.max() + 1):
                counted = tokens[(segments == segment) & (weights > 0)]
                response = decode(counted, skip_special_tokens=True)
                assert any(response in text for text in generated), response
                weighted += 1
        assert weighted > 0
