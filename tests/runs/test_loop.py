"""Whole runs on a tiny model: what they leave behind, that they resume bit for bit, and how they stop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rr_jax.data.packing import pack_examples
from rr_jax.dynamics.interference import output_ratio
from rr_jax.evaluate.metric import Metric, values_of
from rr_jax.generation.generator import Generator
from rr_jax.lora import algebra
from rr_jax.lora.orthogonality import activations_by_layer, olora_by_layer
from rr_jax.models.decoder import forward
from rr_jax.random import derive_seed
from rr_jax.release.compose import Point
from rr_jax.reveal.collect import Collection
from rr_jax.runs import loop as rounds
from rr_jax.runs.checkpoint import Checkpoints
from rr_jax.runs.config_file import parse_config
from rr_jax.runs.results import Choice, Recall, RunSummary, Stop
from rr_jax.runs.stages import compose
from rr_jax.runs.stages import train as train_stage
from rr_jax.studies import experiment
from rr_jax.training.loop import TrainingDiverged, train
from tests import tiny

ROOT = Path(__file__).parents[2]


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
    """A run of this process, which has compiled it for the tests that follow; those that are killed have their own."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    experiment.run(parse_config(tiny.run_config(out, folder)))
    return out


class Died(BaseException):
    """As sudden as a signal to whoever catches errors."""


def test_a_run_that_dies_anywhere_resumes_to_the_same_bits(folder, uninterrupted, tmp_path, monkeypatch):
    """Twice, in this process; by signals that kill others, below."""
    config, saved = tiny.run_config(tmp_path / "killed", folder), []
    save = Checkpoints.save

    def save_and_die(self, step, stage):
        save(self, step, stage)
        saved.append(step)
        if saved in ([0, 1], [0, 1, 2, 3, 4, 5]):
            raise Died

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    for _ in range(2):
        with pytest.raises(Died):
            experiment.run(parse_config(config))
    assert not (tmp_path / "killed" / "report.html").exists()
    experiment.run(parse_config(config))
    assert saved == list(range(9))  # no stage was made twice
    ends_as(uninterrupted, tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("kill", [("before", 1), ("after", 2), ("before", 4), ("after", 6), ("before", 9)])
def test_a_killed_run_resumes_to_the_same_bits(folder, uninterrupted, tmp_path, kill):
    config = tiny.run_config(tmp_path / "killed", folder)
    died = script(config, *kill)
    assert died.returncode == -9, died.stderr
    assert not (tmp_path / "killed" / "report.html").exists()
    resumed = script(config)
    assert resumed.returncode == 0, resumed.stderr
    ends_as(uninterrupted, tmp_path / "killed")


def ends_as(uninterrupted, resumed):
    """Compares texts, and arrays bit by bit."""
    for name in ("summary.json", "metrics.jsonl", "revealed/round_01.jsonl", "revealed/round_02.jsonl"):
        assert (resumed / name).read_text() == (uninterrupted / name).read_text(), name
    whole, pieces = checkpoint_arrays(uninterrupted), checkpoint_arrays(resumed)
    assert whole.keys() == pieces.keys() == set(range(9))
    for step in whole:
        same(whole[step], pieces[step])


@pytest.mark.slow
def test_a_full_disk_keeps_the_earlier_stages_and_the_run_goes_on_later(folder, uninterrupted, tmp_path):
    config = tiny.run_config(tmp_path / "full", folder)
    refused = script(config, "full", 3)
    assert refused.returncode == 1, refused.stderr
    (line,) = (line for line in refused.stderr.splitlines() if "CheckpointError: checkpoint 2 in" in line)
    assert "earlier stages are kept: make room and run the same command again" in line
    for noise in ("ERROR:absl", "ERROR:asyncio", "Event loop is closed"):  # of Orbax's threads: the error says it all
        assert noise not in refused.stderr
    assert checkpoint_arrays(tmp_path / "full").keys() == {0, 1}
    experiment.run(parse_config(config))
    assert (tmp_path / "full" / "summary.json").read_text() == (uninterrupted / "summary.json").read_text()


def test_a_run_leaves_the_promised_files(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()} - {".lock"}  # stays: to remove it would be a race
    promised = "config.yaml manifest.json metrics.jsonl revealed checkpoints samples summary.json report.html"
    assert names == set(promised.split())
    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert summary["status"] == "complete"
    assert summary["stop"]["reason"] == "rounds_done"
    assert [entry["round"] for entry in summary["rounds"]] == [1, 2]
    for entry in summary["rounds"]:
        assert entry["layers"]["overlap"].keys() == entry["layers"]["update_cosine"].keys() == set(tiny.TARGETS)
    lines = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"base", "reveal", "train", "compose", "measure"}
    logged = {}
    for line in lines:
        if line["round"] == 2:
            logged |= line
    last = summary["rounds"][1]
    cosines = ("overlap", "update_cosine", "input_cosine", "output_cosine", "input_angles", "output_angles")
    for name in (*cosines, "olora", "frobenius"):  # each layer's, as the summary has them
        for module, values in last["layers"][name].items():
            assert [logged[f"{name}/{module}/{layer}"] for layer in range(len(values))] == values
            assert all(abs(value) <= 1 + 1e-6 or name not in cosines for value in values)
    for name in ("output_ratio", "gradient_cosine"):
        for module, values in last["layers"][name].items():
            assert [logged[f"interference/{name}/{module}/{layer}"] for layer in range(len(values))] == values
    manifest = json.loads((uninterrupted / "manifest.json").read_text())
    assert {"versions", "git_commit", "devices", "seed", "data", "seconds"} <= manifest.keys()


def test_every_round_can_be_rebuilt_and_round_0_is_the_base(uninterrupted, folder):
    base, _, _ = rounds.load_round(uninterrupted, 0)
    np.testing.assert_array_equal(base.params["layers"]["q"], tiny.params()["layers"]["q"])
    after, _, number = rounds.load_round(uninterrupted, 2)
    assert number == 2
    assert tiny.weight_metrics(Generator(after)) == values_of(RunSummary.read(uninterrupted).rounds[1].metrics)
    with pytest.raises(ValueError, match="has no round 7; finished rounds: 0, 1, 2"):
        rounds.load_round(uninterrupted, 7)


def test_a_folder_of_another_configuration_is_refused_naming_the_keys(uninterrupted, folder):
    other = parse_config(tiny.run_config(uninterrupted, folder, seed=1, dtype="bfloat16"))
    with pytest.raises(ValueError, match="differs in dtype, seed;"):
        rounds.run(other)


def test_nothing_revealed_says_how_to_widen_the_search(folder, tmp_path):
    config = tiny.run_config(tmp_path / "run", folder)
    config["reveal"]["collect"] |= {"size": 2000, "min_size": 1000}
    with pytest.raises(
        ValueError, match=r"nothing revealed: .* left out\).* widen the search with more reveal.search.gener"
    ):
        rounds.run(parse_config(config))


def test_a_round_outside_every_budget_is_not_applied(folder, tmp_path):
    config = tiny.run_config(tmp_path / "run", folder)
    config["release"]["strength"] = {"forget": [0.5], "degenerate_budget": 0.0, "utility_budget": 1.0}

    def only_the_base_is_useful(lm):
        base = np.array_equal(lm.params["layers"]["q"], tiny.params()["layers"]["q"])
        return {"forget": 1.0, "use": 1.0 if base else 0.1, "degenerate": 0.0}

    summary = rounds.run(parse_config(config), task=tiny.EchoTask(only_the_base_is_useful))
    assert summary.stop.reason == "outside_budgets"
    assert summary.selected_round == 0
    assert summary.rounds[0].accepted is False and summary.rounds[0].metrics is None
    assert RunSummary.read(tmp_path / "run") == summary


def test_a_strength_of_0_leaves_the_base_weights(folder, tmp_path):
    config = tiny.run_config(tmp_path / "run", folder, rounds=1)
    config["release"]["strength"] = {"forget": [0.0], "retain": [0.0], "utility_budget": 1.0}
    summary = rounds.run(parse_config(config))
    assert summary.rounds[0].accepted is True and summary.rounds[0].forget_strength == 0.0
    after, _, _ = rounds.load_round(tmp_path / "run", 1)
    jax.tree.map(np.testing.assert_array_equal, after.params, tiny.params())
    deltas, _, _ = rounds.load_deltas(tmp_path / "run", 1)
    assert set(algebra.compact(deltas)[1].values()) == {0.0}


def test_both_strengths_are_chosen_from_the_product_by_the_rule_of_the_configuration(folder, tmp_path):
    def the_more_the_less(lm):  # how much of the update there is, so that only the largest strength reaches the target
        size = float(np.abs(np.asarray(lm.params["layers"]["q"]) - np.asarray(tiny.params()["layers"]["q"])).sum())
        return {"forget": 1.0 - size, "use": 1.0, "degenerate": 0.0}

    config = tiny.run_config(tmp_path / "run", folder, rounds=1)
    config["release"]["retain"]["place"] = "repair"
    config["release"]["strength"] = {
        "forget": [0.4, 0.2], "retain": [1.0, 0.0], "rule": "least_interference_at_target", "target": 0.999,
    }  # fmt: skip
    summary = rounds.run(parse_config(config), task=tiny.EchoTask(the_more_the_less))
    assert summary.rule == "least_interference_at_target" and "held-out" in summary.selection_rule
    (entry,) = summary.rounds
    grid = [(point.forget_strength, point.retain_strength) for point in entry.trade_off]
    assert grid == [(0.2, 0.0), (0.2, 1.0), (0.4, 0.0), (0.4, 1.0)]
    reached = [point for point in entry.trade_off if point.forget.value <= 0.999]
    best = min(reached, key=lambda point: point.retain_nll.value)
    assert (entry.forget_strength, entry.retain_strength) == (best.forget_strength, best.retain_strength)
    assert entry.rule == Choice(name="least_interference_at_target", fallback=None)
    assert 0 < entry.base_retain_nll.value != best.retain_nll.value
    done = checkpoint_arrays(tmp_path / "run")
    deltas, forget, repair = done[3].arrays["deltas"], done[2].arrays["forget"], done[3].arrays["repair"]
    for name in deltas:  # alpha / rank is 2
        np.testing.assert_array_equal(deltas[name]["a"], np.concatenate([forget[name]["a"], repair[name]["a"]], -1))
        parts = [-2 * best.forget_strength * forget[name]["b"], 2 * best.retain_strength * repair[name]["b"]]
        np.testing.assert_allclose(deltas[name]["b"], np.concatenate(parts, -2), rtol=1e-6)


def test_a_repair_is_trained_once_for_all_its_strengths(folder, tmp_path, monkeypatch):
    repair, repaired = compose.repair, []

    def counting(*args):
        repaired.append(args)
        return repair(*args)

    monkeypatch.setattr(compose, "repair", counting)
    for place, count in (("repair", 2), ("joint+repair", 4)):
        repaired.clear()
        config = tiny.run_config(tmp_path / place, folder, rounds=1)
        config["release"]["retain"]["place"] = place
        config["release"]["strength"] |= {"retain": [0.5, 1.0]}
        rounds.run(parse_config(config))
        assert len(repaired) == count


def noted_jobs(monkeypatch):
    """All trainings of runs from here on."""
    jobs = []

    def note(job, *args):
        jobs.append(job)
        return train(job, *args)

    for stage in (compose, train_stage):
        monkeypatch.setattr(stage, "train", note)
    return jobs


def reference_nll(lm, rows):
    """Mean loss of weighted tokens of rows with one segment after another, from logits of each segment on its own.

    What is filled up behind a segment is not seen from within it.
    """
    total = weight = 0.0
    read = jax.jit(forward)
    for tokens, segments, weights in zip(*map(np.asarray, rows), strict=True):
        for segment in range(1, segments.max() + 1):
            place = np.flatnonzero(segments == segment)
            alone = np.pad(tokens[place], (0, len(tokens) - len(place)))
            logits = np.asarray(read(lm.params, alone[None], lm.config)[0], np.float64)[: len(place)]
            log_z = np.log(np.exp(logits).sum(-1))
            for s in range(1, len(place)):
                total += weights[place[s]] * (log_z[s - 1] - logits[s - 1, tokens[place[s]]])
                weight += weights[place[s]]
    return total / weight


# bfloat16 logits: the difference of two losses is good to some 1e-2, and is there
@pytest.mark.parametrize(
    ("dtype", "close"), [("float32", 1e-5), pytest.param("bfloat16", 0.02, marks=pytest.mark.slow)]
)
def test_interference_is_measured_on_held_out_texts_and_logged(folder, tmp_path, monkeypatch, dtype, close):
    jobs = noted_jobs(monkeypatch)
    config = parse_config(tiny.run_config(tmp_path / "run", folder, rounds=1, dtype=dtype))
    summary = rounds.run(config)
    (entry,) = summary.rounds
    task, base = tiny.EchoTask(tiny.weight_metrics), rounds.load_model(config)
    texts = task.retain_examples(
        2 * config.evaluate.validation, derive_seed(config.seed, "release/held_out"), "validation"
    )
    held_out = pack_examples(base.tokenizer, texts, config.release.train.seq_len)
    released, _, _ = rounds.load_round(tmp_path / "run", 1)
    increase = reference_nll(released, held_out) - reference_nll(base, held_out)
    assert entry.cost.retain_loss_increase.value == pytest.approx(increase, abs=close)
    gone = summary.base_validation["forget"].value - entry.validation["forget"].value
    assert (entry.cost.per_forgetting is not None) == (gone > 0)
    none = Metric(0.0, 48)
    point = Point(0.3, 1.0, Metric(0.2, 48, 0.12), none, none, Metric(1.5, 48, 0.04), retention={})
    before, cost = Metric(1.0, 40, 0.03), compose.cost_of(point, Metric(1.0, 40, 0.03), Metric(0.8, 48, 0.05))
    assert cost["retain_loss_increase"] == Metric(0.5, 40, pytest.approx(0.05))  # 0.04 and 0.03, squares added
    stderr = np.hypot(0.05 / 0.6, 0.5 / 0.6 * np.hypot(0.05, 0.12) / 0.6)
    assert cost["per_forgetting"] == Metric(pytest.approx(0.5 / 0.6), 40, pytest.approx(stderr))
    assert compose.cost_of(point, before, Metric(0.2, 48, 0.05)).keys() == {"retain_loss_increase"}  # nothing forgotten
    forget = checkpoint_arrays(tmp_path / "run")[2].arrays["forget"]
    ratio = output_ratio(base.params, forget, held_out, jobs[0].rows["forget"], base.config)
    for name, values in ratio.items():
        assert entry.layers["output_ratio"][name] == pytest.approx(values.tolist(), rel=1e-5)
    for name, module in forget.items():
        dense = [
            np.linalg.norm(a.astype(float) @ b.astype(float)) for a, b in zip(module["a"], module["b"], strict=True)
        ]
        assert entry.layers["norm_update"][name] == pytest.approx(dense, rel=1e-4)
        assert entry.layers["norm_a"][name] == pytest.approx([np.linalg.norm(a) for a in module["a"]], rel=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = {name for line in lines for name in line}
    assert {"interference/retain_loss_increase", "norm_a/q/0", "norm_update/q/1"} <= logged
    assert ("merge_error/q" in logged) == (dtype == "bfloat16")  # the loss of rounding
    repairs = [line for line in lines if "repair/penalty" in line]
    assert len(repairs) == 2 * 3 and all(line["repair/penalty"] > 0 for line in repairs)  # strengths, steps


@pytest.mark.parametrize("constraint", [{"penalty": "olora"}, {"penalty": "activations", "directions": 2}])
def test_what_each_training_is_held_apart_from(folder, tmp_path, monkeypatch, constraint):
    """The second round's forget adapter and repairs from the first's, each repair from the forget adapter of its round."""
    jobs = noted_jobs(monkeypatch)
    config = tiny.run_config(tmp_path / "run", folder)
    config["release"]["orthogonality"] = constraint | {"memory": constraint["penalty"] == "olora"}
    summary = rounds.run(parse_config(config))
    done = checkpoint_arrays(tmp_path / "run")
    forget = {round_index: done[number].arrays["forget"] for round_index, number in ((1, 2), (2, 6))}
    first, second = (job for job in jobs if job.names == ["forget", "retain"])
    assert first.references.memory is None
    repairs = [job for job in jobs if job.names == ["repair"]]
    assert len(repairs) == 4  # two strengths in each round
    for number, job in enumerate(repairs):
        jax.tree.map(np.testing.assert_array_equal, job.references.anchor, forget[1 + number // 2])
    assert [job.references.memory for job in repairs[:2]] == [None, None]
    if constraint["penalty"] == "olora":
        for later in (second, *repairs[2:]):
            for name, module in later.references.memory.items():
                dense, expected = (m["a"] @ m["b"] for m in (module, forget[1][name]))
                np.testing.assert_allclose(dense, expected, rtol=1e-6)
        assert first.references.directions is None and {job.constraint.penalty for job in repairs} == {"olora"}
        logged = {1: {}, 2: {}}
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
            logged.get(json.loads(line)["round"], {}).update(json.loads(line))
        assert not [name for name in logged[1] if name.startswith("memory/")]
        for name, values in olora_by_layer(forget[2], forget[1]).items():
            for layer, value in enumerate(values):
                assert logged[2][f"memory/olora/{name}/{layer}"] == pytest.approx(float(value))
    else:  # of what the forget adapter reads alone: a repair must read what it repairs
        assert first.references.directions.keys() == forget[1].keys()
        assert not any(job.references.memory for job in repairs)
        assert first.constraint.penalty == "activations" and {job.constraint.penalty for job in repairs} == {"none"}
        for name, values in activations_by_layer(forget[1], first.references.directions).items():
            np.testing.assert_allclose(summary.rounds[0].layers["activations"][name], values, rtol=1e-5)


def test_a_bfloat16_run_says_what_its_weights_lost_of_the_update(folder, tmp_path):
    config = tiny.run_config(tmp_path / "run", folder, rounds=1, dtype="bfloat16")
    config["release"] |= {"retain": {"place": "none"}, "strength": {"forget": [0.4], "utility_budget": 0.0}}
    config["release"]["orthogonality"] = {"penalty": "none"}
    (entry,) = rounds.run(parse_config(config)).rounds
    deltas, _, _ = rounds.load_deltas(tmp_path / "run", 1)
    lm = rounds.load_model(parse_config(config))
    expected = {name: float(value.max()) for name, value in algebra.merge_error(lm.params, deltas).items()}
    assert entry.merge_error == pytest.approx(expected)
    assert all(value > 0.0 for value in expected.values())


def test_a_later_round_that_reveals_nothing_ends_the_run(folder, tmp_path, monkeypatch):
    from rr_jax.runs.stages import reveal as stages

    collect = stages.collect

    def only_once(*args, round_index, **kwargs):
        return collect(*args, round_index=round_index, **kwargs) if round_index == 1 else Collection([], [])

    monkeypatch.setattr(stages, "collect", only_once)
    summary = rounds.run(parse_config(tiny.run_config(tmp_path / "run", folder)))
    assert summary.stop == Stop(reason="nothing_revealed", explanation="round 2 revealed 0 examples, fewer than 2")
    assert len(summary.rounds) == 1
    assert summary.residual == Recall(
        this_round=Metric(0.0, 5, 0.0, True), cumulative=summary.rounds[0].recall.cumulative
    )


def test_hashes_keep_no_text_anywhere_and_the_run_still_ends(folder, tmp_path, monkeypatch):
    from rr_jax.runs.stages import reveal as stages

    collect, texts = stages.collect, []

    def note(*args, **kwargs):
        collected = collect(*args, **kwargs)
        texts.extend(item.response for item in collected.revealed)
        texts.extend(item.text for item in collected.dropped)
        texts.extend(item.instruction for item in collected.revealed if item.kind == "written")
        return collected

    monkeypatch.setattr(stages, "collect", note)
    config = tiny.run_config(tmp_path / "run", folder, rounds=1, privacy={"keep_revealed": "hashes"})
    config["reveal"]["arms"]["path"] = "instruction"
    rounds.run(parse_config(config))
    lines = (tmp_path / "run" / "revealed" / "round_01.jsonl").read_text().splitlines()
    assert lines
    for line in lines:
        assert {"response_sha256", "context_sha256", "arm"} <= json.loads(line).keys()
        assert "response" not in json.loads(line)
    assert 1 not in checkpoint_arrays(tmp_path / "run")
    long = {text.strip() for text in texts if len(text.strip()) >= 8}  # shorter ones could stand anywhere by chance
    assert len(long) >= 4
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [
                text for text in long if text.encode() in content or json.dumps(text)[1:-1].encode() in content
            ], path


def test_re_revealing_follows_its_switch(folder, tmp_path):
    class Undisclosed(tiny.EchoTask):
        facts = frozenset("aeiouZ")  # the model has no Z: no round discloses everything

    searched = {}
    for when, gain in (("every_round", 0.0), ("first_round", 0.0), ("until_gain", 1.0), ("until_gain", 0.0)):
        config = tiny.run_config(tmp_path / f"{when}{gain}", folder, rounds=3)
        config["reveal"] |= {"when": when, "min_gain": gain}
        summary = rounds.run(parse_config(config), task=Undisclosed(tiny.weight_metrics))
        searched[when, gain] = [entry.round_index for entry in summary.rounds if entry.search]
        recalls = [entry.recall.cumulative.value for entry in summary.rounds if entry.search]
        assert recalls == sorted(recalls) and 0 < recalls[0] <= 1
    assert searched["every_round", 0.0] == searched["until_gain", 0.0] == [1, 2, 3]
    assert searched["first_round", 0.0] == [1]
    assert searched["until_gain", 1.0] == [1]  # round 1 disclosed less than everything new


def test_a_search_interrupted_in_the_middle_goes_on_and_ends_the_same(folder, uninterrupted, tmp_path, monkeypatch):
    from rr_jax.runs.stages import reveal as stages

    append, count, answered = stages.append_lines, [0], [0]

    def stop_after_two(path, lines):
        append(path, lines)
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt

    def counting(*args, **kwargs):
        answered[0] += 1
        return respond(*args, **kwargs)

    from rr_jax.reveal import search as module

    respond = module.respond
    monkeypatch.setattr(stages, "append_lines", stop_after_two)
    config = parse_config(tiny.run_config(tmp_path / "run", folder))
    with pytest.raises(KeyboardInterrupt):
        rounds.run(config)
    assert (tmp_path / "run" / "search_01.partial.jsonl").is_file()
    monkeypatch.setattr(stages, "append_lines", append)
    monkeypatch.setattr(module, "respond", counting)
    rounds.run(config)
    assert answered[0] == 1 + 3  # of round 1 the last of three batches, of round 2 all
    for name in ("summary.json", "metrics.jsonl", "revealed/round_01.jsonl"):
        assert (tmp_path / "run" / name).read_text() == (uninterrupted / name).read_text(), name
    assert not (tmp_path / "run" / "search_01.partial.jsonl").exists()


def test_a_run_until_reveal_measures_and_trains_nothing(folder, tmp_path):
    summary = rounds.run(parse_config(tiny.run_config(tmp_path / "run", folder, until="reveal", rounds=1)))
    assert summary.base == {} and summary.status == "complete"
    assert summary.rounds[0].revealed > 0
    assert checkpoint_arrays(tmp_path / "run").keys() == {1}


def test_a_gain_without_facts_and_a_proposer_that_is_not_there_are_refused(folder, tmp_path):
    class Blank(tiny.EchoTask):
        facts = frozenset()

    config = tiny.run_config(tmp_path / "run", folder)
    config["reveal"]["when"] = "until_gain"
    with pytest.raises(ValueError, match="'until_gain', but the task knows no facts"):
        rounds.run(parse_config(config), task=Blank(tiny.weight_metrics))
    config = tiny.run_config(tmp_path / "run", folder)
    config["reveal"]["arms"]["proposer"] = "no/such/model"
    with pytest.raises(ValueError, match="there is no folder no/such/model, and it cannot be a hub id"):
        rounds.run(parse_config(config))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number_names_stage_step_and_checkpoint(folder, tmp_path):
    config = tiny.run_config(tmp_path / "run", folder)
    config["release"]["train"] = {"steps": 3, "batch_size": 2, "seq_len": 32, "learning_rate": 1e30, "clip": 1e30}
    with pytest.raises(TrainingDiverged, match=r"round 1, stage train: .* at step \d; the last good checkpoint is 1"):
        rounds.run(parse_config(config))


def test_only_what_the_model_generated_trains_the_forget_adapter(folder, tmp_path, monkeypatch):
    """Every row that reaches the forget adapter is made of a revealed response; no task or data set has a say."""
    from rr_jax.generation import text

    generated, jobs = [], noted_jobs(monkeypatch)
    generate = text.generate

    def note_generated(*args, **kwargs):
        made = generate(*args, **kwargs)
        generated.extend(made)
        return made

    monkeypatch.setattr("rr_jax.reveal.candidates.generate", note_generated)
    rounds.run(parse_config(tiny.run_config(tmp_path / "run", folder)))
    trained = [job.rows["forget"] for job in jobs if "forget" in job.rows]
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
