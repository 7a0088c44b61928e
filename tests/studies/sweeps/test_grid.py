"""A sweep runs every combination once, resumes, and states means with intervals."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from rr_jax.release.data import FORGET_DATA
from rr_jax.release.objectives import OBJECTIVES
from rr_jax.runs import loop as rounds
from rr_jax.runs.results import RunSummary
from rr_jax.studies.sweeps import figures, jobs
from rr_jax.studies.sweeps.grid import load_sweep, run_sweep
from rr_jax.studies.sweeps.rows import constraint_of, interference_of, metrics_of
from rr_jax.studies.sweeps.table import interval, table
from tests import records, tiny


@pytest.fixture
def sweep(folder, tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(tiny.run_config(tmp_path / "unused", folder)))
    tree = {
        "base": "base.yaml",
        "out": str(tmp_path / "sweep"),
        "seeds": [0, 1, 2],
        "overrides": {"rounds": 1},
        "axes": {
            "strategy": {
                "ucb": {"reveal.search.strategy": "neural_ucb"},
                "chance": {"reveal.search.strategy": "random"},
            },
            "pairing": {"none": {"release.pairing": "none"}, "shuffled": {"release.pairing": "shuffled"}},
        },
    }

    def write(**changes):
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tree | changes, sort_keys=False))
        return tmp_path / "sweep.yaml"

    return write


def test_the_grid_is_every_combination_with_every_seed(sweep):
    _, cells = load_sweep(sweep(), ["seeds=[3, 4]"])
    assert len(cells) == 8
    assert {(*cell.labels.values(), cell.seed) for cell in cells} == {
        (s, p, seed) for s in ("ucb", "chance") for p in ("none", "shuffled") for seed in (3, 4)
    }
    for cell in cells:
        assert cell.config.rounds == 1 and cell.config.seed == cell.seed
        assert cell.config.reveal.search.strategy == {"ucb": "neural_ucb", "chance": "random"}[cell.labels["strategy"]]
        assert cell.config.release.pairing == cell.labels["pairing"]
    assert len({cell.config.out for cell in cells}) == 8


def test_a_sweep_resumes_and_leaves_rows_a_table_and_figures(sweep, tmp_path, monkeypatch):
    path, ran = sweep(), []
    first = run_sweep(path, ["seeds=[0]"])
    assert len(first) == 4
    monkeypatch.setattr(jobs, "run", lambda config, **more: ran.append(config.out) or rounds.run(config, **more))
    rows = run_sweep(path, ["seeds=[0, 1]"])
    assert len(ran) == 4 and all(out.endswith("seed1") for out in ran)
    assert len(rows) == 8 and [row for row in rows if row["seed"] == 0] == first
    assert all(row["seconds"] > 0 for row in rows)

    written = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert written["axes"] == ["strategy", "pairing"]
    assert written["rows"] == rows
    promised = {"seed", "best_score", "collected_relevance", "recall", "forget", "worst_retention", "test/use"}
    assert promised <= rows[0].keys()
    for name in ("best_score.png", "cumulative_score.png", "trade_off.png"):
        assert (tmp_path / "sweep" / name).read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "sweep" / "sweep.md").read_text().splitlines()
    assert [line.startswith("| ucb | none | 2 |") for line in lines[:6]] == [False, False, True, False, False, False]
    assert lines[6] == "" and sum(line.startswith("The same in all runs: ") for line in lines) == 1
    assert "* worst_retention: share of the base's value that the worst utility metric keeps, test data" in lines
    summary = RunSummary.read(tmp_path / "sweep" / "runs" / "ucb-none-seed0").rounds[0]
    assert rows[0]["forget"] == summary.metrics["forget"].value
    assert rows[0]["best_score"] == max(arm.score for arm in summary.search)


def test_attacks_of_a_sweep_are_columns_and_a_figure_and_are_made_once(sweep, tmp_path, monkeypatch):
    made = []

    def attack(folder, *, steps, compared):
        assert not compared
        made.append(folder)
        forget = tuple(map(records.metric, (0.2, 0.4, 0.6)))
        relearn = {"steps": tuple(steps), "forget": forget, "degenerate": forget}
        asked = {"as_measured": 0.2, "prefill": 0.8, "few_shot": 0.3}
        prompts = {way: records.metrics(released=value) for way, value in asked.items()}
        selected = RunSummary.read(folder).selected_round
        records.attack(round_index=selected, relearn=relearn, prompts=prompts).write(folder)

    monkeypatch.setattr(jobs, "attack", attack)
    path = sweep(axes={"strategy": {"ucb": {}}})
    run_sweep(path, ["seeds=[0]"])  # finished, and not attacked
    assert not made
    rows = run_sweep(path, ["seeds=[0]", "attack_steps=[0, 2, 5]"])
    summary = RunSummary.read(made[0])
    before = summary.base[summary.forget_metric].value
    assert rows[0]["relearned_2"] == pytest.approx(0.4 / before)
    assert rows[0]["relearned_5"] == pytest.approx(0.6 / before)
    assert rows[0]["worst_variant"] == pytest.approx(0.8 / before)
    assert "relearned_0" not in rows[0]
    assert (tmp_path / "sweep" / "recovery.png").read_bytes().startswith(b"\x89PNG")
    assert "relearned_2" in (tmp_path / "sweep" / "sweep.md").read_text()
    assert run_sweep(path, ["seeds=[0]", "attack_steps=[0, 2, 5]"]) == rows and len(made) == 1
    run_sweep(path, ["seeds=[0]", "attack_steps=[0, 2, 6]"])
    assert len(made) == 2


def test_a_finished_run_of_another_configuration_is_not_taken_for_this_one(sweep):
    one = {"axes": {"x": {"only": {}}}}
    run_sweep(sweep(**one), ["seeds=[0]"])
    with pytest.raises(ValueError, match="was made by a configuration that differs in .*release.train.steps"):
        run_sweep(sweep(**one, overrides={"rounds": 1, "release.train.steps": 2}), ["seeds=[0]"])


def test_each_run_is_noted_and_that_no_strategy_chooses(sweep):
    few = {"one": {"reveal.collect.min_size": 2}, "many": {"reveal.collect.size": 900, "reveal.collect.min_size": 800}}
    overrides = {"rounds": 1, "until": "reveal", "reveal.search.generations": 4}
    path = sweep(axes={"size": few}, overrides=overrides)
    lines: list[str] = []
    run_sweep(path, ["seeds=[0]"], note=lines.append)
    assert lines[0].startswith("2 of 2 runs: the initial arms take all of reveal.search.generations")
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "run 1 of 2 (one, seed 0)", "run 2 of 2 (many, seed 0)",
    ]  # fmt: skip
    assert all("done (" in line for line in lines[1:])
    lines.clear()
    run_sweep(path, ["seeds=[0]"], note=lines.append)
    assert all(line.endswith("was there") for line in lines[1:]) and len(lines) == 3


def test_a_run_that_reveals_nothing_is_a_row_and_the_rest_goes_on(sweep, tmp_path):
    few = {"one": {"reveal.collect.min_size": 2}, "many": {"reveal.collect.size": 900, "reveal.collect.min_size": 800}}
    rows = run_sweep(sweep(axes={"size": few}), ["seeds=[0]"])
    assert [row["size"] for row in rows] == ["one", "many"]
    assert "failed" not in rows[0] and rows[1]["failed"].startswith("nothing revealed")
    assert "| many | 1, 1 failed |" in (tmp_path / "sweep" / "sweep.md").read_text()


def test_intervals_are_students():
    values = [1.0, 2.0, 4.0, 4.5]
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, mean - half, mean + half) == pytest.approx((np.mean(values), low, high))
    assert interval([2.0])[0] == 2.0 and np.isnan(interval([2.0])[1])


def test_the_table_shows_what_differs():
    rows = [
        {"a": label, "fixed": "f", "seed": seed, "x": x, "same": 1.0, "best_score": 0.5, "test/deep": x}
        for label, seed, x in (("one", 0, 1.0), ("one", 1, 3.0), ("two", 0, 5.0))
    ]
    assert table(rows, ["a", "fixed"]).splitlines() == [
        "| a | runs | x |",
        "| --- | --- | --- |",
        f"| one | 2 | 2.000 +- {stats.t.ppf(0.975, 1):.3f} |",
        "| two | 1 | 5.000 |",
        "",
        "The same in all runs: fixed f, same 1.000, best_score 0.500",
    ]
    assert (
        table(rows[:1], ["a", "fixed"]).splitlines()[2] == "| one | 1 | 0.500 |"
    )  # nothing to compare: the usual ones


def test_many_numbers_are_several_tables_of_the_same_lines():
    rows = [{"a": label, "seed": 0} | {f"n{i}": x + i for i in range(9)} for label, x in (("one", 0.0), ("two", 1.0))]
    first, second = table(rows, ["a"]).split("\n\n")
    assert first.splitlines()[0] == "| a | runs | n0 | n1 | n2 | n3 | n4 | n5 | n6 |"
    assert second.splitlines() == [
        "| a | runs | n7 | n8 |", "| --- | --- | --- | --- |", "| one | 1 | 7.000 | 8.000 |", "| two | 1 | 8.000 | 9.000 |"
    ]  # fmt: skip


def test_figures_tell_many_combinations_apart(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(figures, "_save", lambda path, figure: shown.update({path.name: figure}) or path)
    rows = [
        {"task": task, "only": "x", "weight": str(weight), "seed": seed, "forget_share": 0.1, "worst_retention": 0.9}
        for task in "abcd" for weight in range(30) for seed in (0, 1)
    ]  # fmt: skip
    figures.write_figures(tmp_path, rows, [], ["task", "only", "weight"])
    figure = shown["trade_off.png"]
    assert [axes.get_title() for axes in figure.axes] == list("abcd")
    assert figure.get_figwidth() < 15
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [str(weight) for weight in range(30)]


def test_no_name_of_a_legend_is_cut_off_and_recovery_is_marked_at_the_steps_taken(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(figures, "_save", lambda path, figure: shown.update({path.name: figure}) or path)
    rows = [
        {"task": task, "method": f"{'a long name of ' * (place % 3)}method {place}", "seed": seed, "forget_share": 0.1,
         "worst_retention": 0.9, "attack/steps": [0, 2, 5, 20], "attack/forget_share": [0.0, 0.1 * place, 0.9, 1.0]}
        for task in "xy" for place in range(14) for seed in range(2)
    ]  # fmt: skip
    figures.write_figures(tmp_path, rows, [], ["task", "method"])
    for figure in shown.values():
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert len(legend.get_texts()) == 14
    recovery = shown["recovery.png"]
    assert [text.get_text() for text in recovery.axes[0].get_xticklabels()] == ["0", "2", "5", "20"]
    np.testing.assert_allclose(recovery.axes[1].lines[3].get_ydata(), [0.0, 0.3, 0.9, 1.0])


def test_the_table_of_rivals_compares_like_with_like():
    """Every objective of the package, on both kinds of data, with one repair, constraint, budget and number of steps."""
    _, cells = load_sweep(Path(__file__).parents[3] / "configs" / "studies" / "rivals.yaml")
    releases = [cell.config.release for cell in cells]
    assert {(one.objective.name, one.data) for one in releases} == {
        (name, data) for name in OBJECTIVES.names() for data in FORGET_DATA.names()
    }
    for shared in ("adapter", "orthogonality", "retain", "strength", "optimizer"):
        assert len({str(getattr(one, shared)) for one in releases}) == 1, shared
    assert {one.train.steps for one in releases} == {50}
    assert all(one.place.repairs and 1.0 in one.strength.forget for one in releases)  # 1 is each method as published
    assert all(one.examples == cell.config.reveal.collect.size for one, cell in zip(releases, cells, strict=True))


def test_the_table_says_whether_the_true_data_was_used():
    rows = [{"a": "ours", "seed": 0, "true_data": False}, {"a": "theirs", "seed": 0, "true_data": True}]
    lines = table(rows, ["a"]).splitlines()
    assert lines[2:4] == ["| ours | 1 | no |", "| theirs | 1 | yes |"]
    assert lines[-1] == "* true_data: whether true forget data was given"


def test_what_only_strength_0_was_tried_of_was_given_no_data():
    for tried, given in (((0.0,), False), ((0.0, 0.5), True)):
        grid = tuple(records.point(strength, 0.8) for strength in tried)
        result = records.round_result(
            search=(), forget_strength=0.0, base_retain_nll=records.metric(1.0), trade_off=grid
        )
        assert metrics_of(records.summary(result, data="true"))["true_data"] is given


def test_a_mean_over_some_of_the_runs_says_over_how_many():
    rows = [{"a": "one", "seed": seed} | ({"x": float(seed)} if seed else {}) for seed in range(3)]
    rows += [{"a": "two", "seed": seed, "x": 200.0 + seed} for seed in range(3)]
    lines = table(rows, ["a"]).splitlines()
    assert lines[2] == f"| one | 3 | 1.500 +- {0.5 * stats.t.ppf(0.975, 1):.3f} (2 of 3) |"
    assert lines[3] == "| two | 3 | 201 +- 2 |"


def test_a_row_knows_what_held_the_adapters_apart(sweep):
    def constraint(**given):
        _, (cell,) = load_sweep(sweep(axes={"a": {"x": {"release.orthogonality": given}}}), ["seeds=[0]"])
        return tuple(constraint_of(cell.config).values())

    assert constraint(penalty="olora", penalty_weight=0.5) == ("olora", 0.5)
    assert constraint(penalty="olora", penalty_weight=0.5, projection="null_space") == ("olora + null_space", 0.5)
    assert constraint(penalty="none", projection="complement") == ("complement", 0.0)
    assert constraint(penalty="olora", penalty_weight=0.0) == ("none", 0.0)


def test_a_run_that_was_not_accepted_counts_as_the_base_model():
    none = records.round_result(search=(), trade_off=(), accepted=False, metrics=None, retention=None)
    base = records.metrics(f=0.8, free_perplexity=9.0, x_perplexity=2.0)
    changes = {"utility_metrics": {"x_perplexity": "lower"}, "selected_round": 0}
    row = metrics_of(records.summary(none, base=base, **changes))
    assert (row["forget_share"], row["worst_retention"], row["perplexity"], row["rounds"]) == (1.0, 1.0, 2.0, 0)
    assert "forget_share" not in metrics_of(
        records.summary(none, base={}, **changes)
    )  # only revealed: nothing was measured


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"sedes": [1]}, [], "unknown key 'sedes'; did you mean 'seeds'"),
        ({"seeds": "all"}, [], "seeds: found 'all', input should be a valid list"),
        ({}, ["seeds=["], "override 'seeds=\\[': the value is not valid YAML"),
        ({"seeds": []}, [], "expected at least one seed"),
        ({"axes": {"a": {}}}, [], "at least one value on each axis"),
        ({"axes": {}}, [], "expected at least one seed, one axis"),
        ({"attack_steps": [5, 2]}, [], r"attack_steps is \[5, 2\], expected growing numbers"),
        ({"seeds": [1, 1]}, [], r"seeds are \[1, 1\], expected each once"),
        ({"base": "no.yaml"}, [], "base is 'no.yaml', but there is no file .*no.yaml"),
        (
            {"axes": {"a": {"x": {"release.pairng": "none"}}}},
            [],
            "sweep.yaml, a 'x': .*unknown key 'release.pairng'; did you mean 'pairing'",
        ),
        (
            {"axes": {"a": {"x": {"seed": 3}}}},
            [],
            "axes.a.x has 'seed', which the sweep's own 'seeds' gives to every run",
        ),
        (
            {"overrides": {"out": "elsewhere"}},
            [],
            "overrides has 'out', which the sweep's own 'out' gives to every run",
        ),
        (
            {"axes": {"a": {"x y": {"rounds": 1}, "X_y": {"rounds": 2}}}},
            [],
            "'x y' and 'X_y' would share the folder .*X_y-seed0: give labels that differ in letters",
        ),
        (
            {"axes": {"a": {"x": {}, "y": {"rounds": 1}}}},
            [],
            "'x' and 'y' are the same configuration",
        ),
        (
            {
                "axes": {"a": {"x": {}, "y": {"release.orthogonality.projection": "complement"}}},
                "overrides": {"rounds": 1, "release.retain.place": "none", "release.orthogonality.penalty": "none"},
            },
            [],
            "sweep.yaml, a 'y': release.orthogonality.projection is 'complement', but .* no retain adapter",
        ),
        (
            {},
            ["rounds=2"],
            "override 'rounds=2': expected key=value with one of base, out, seeds, overrides, axes, stack, attack_steps",
        ),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said_before_anything_runs(sweep, tmp_path, changes, overrides, message):
    with pytest.raises(ValueError, match=message):
        run_sweep(sweep(**changes), overrides)
    assert not (tmp_path / "sweep").exists()


def test_interference_is_the_retain_loss_where_a_tenth_of_the_forget_metric_is_left():
    def point(strength, forget, nll, retain=1.0):
        return records.point(strength, forget, retain_strength=retain, retain_nll=nll)

    def result(*grid):
        layers = {"output_ratio": {"q": [0.5, 0.7], "v": [0.1, 0.1]}, "olora": {"q": [9.0]}}
        return records.round_result(base_retain_nll=records.metric(2.0), trade_off=grid, layers=layers)

    grid = (point(0.4, 0.02, 2.3), point(0.1, 0.6, 2.05), point(0.1, 0.6, 9.0, retain=2.0))
    row = interference_of(result(*grid), 0.8)
    assert row["curve/forget_share"] == pytest.approx([1.0, 0.75, 0.025])
    assert row["curve/retain_increase"] == pytest.approx([0.0, 0.05, 0.3])
    assert row["retain_increase"] == pytest.approx(0.05 + 0.25 * (0.75 - 0.1) / (0.75 - 0.025))
    assert row["output_ratio"] == pytest.approx((0.6 + 0.1) / 2) and not {"overlap", "olora"} & row.keys()
    assert "retain_increase" not in interference_of(result(*grid[1:]), 0.8)  # not so far down


def test_constraints_at_several_lambdas_are_drawn_against_it(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(figures, "_save", lambda path, figure: shown.update({path.name: figure}) or path)
    rows = [
        {"task": task, "constraint": f"{kind} {strength}", "seed": seed, "constraint/kind": kind,
         "constraint/lambda": strength, "overlap": 0.1 / (1 + strength) + seed / 1000,
         "retain_increase": 0.3 - strength / 10}
        for task in ("a", "b") for seed in (0, 1)
        for kind, strength in (("none", 0.0), ("olora", 2.0), ("olora", 0.5), ("complement", 0.0))
    ]  # fmt: skip
    figures.write_figures(tmp_path, rows, [], ["task", "constraint"])
    axes = shown["against_lambda.png"].axes
    assert [plot.get_title() for plot in axes] == ["a", "b", "", ""]
    labels = [handle.get_label() for handle in axes[0].get_legend_handles_labels()[0]]
    assert labels == ["none", "olora"]  # one lambda is no line
    (overlap,), (rise,) = axes[0].containers, axes[3].containers
    assert overlap[0].get_xdata().tolist() == [0.5, 2.0]
    np.testing.assert_allclose(overlap[0].get_ydata(), [0.1 / 1.5 + 5e-4, 0.1 / 3 + 5e-4])
    np.testing.assert_allclose(rise[0].get_ydata(), [0.25, 0.1])
    # where the same lambda stands for several settings, a mean over them would be of nothing
    shown.clear()
    mixed = [row | {"place": place} for row in rows for place in ("joint", "anchor")]
    figures.write_figures(tmp_path, mixed, [], ["task", "place", "constraint"])
    assert "against_lambda.png" not in shown


def test_figures_of_interference(tmp_path):
    rows = [
        {"task": task, "constraint": name, "seed": seed, "forget_share": 0.1, "worst_retention": 0.9}
        | ({} if name == "none" else {"retain_increase": 0.01 * seed})
        | {"curve/forget_share": [1.0, 0.5, 0.05], "curve/retain_increase": [0.0, 0.01, 0.02]}
        for task in ("a", "b") for name in ("none", "olora") for seed in (0, 1)
    ]  # fmt: skip
    written = figures.write_figures(tmp_path, rows, [], ["task", "constraint"])
    assert {path.name for path in written} == {"trade_off.png", "interference.png", "cost_of_forgetting.png"}
    assert "curve" not in table(rows, ["task", "constraint"])
