"""The trade-off surface of finished tiny runs: it goes through the models that the rounds left, and never test data."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from rr_jax.data.packing import pack_examples
from rr_jax.evaluate.metric import values_of
from rr_jax.evaluate.nll import mean_nll
from rr_jax.generation.generator import Generator
from rr_jax.random import derive_seed
from rr_jax.runs import loop as rounds
from rr_jax.runs.config_file import parse_config
from rr_jax.runs.results import RunSummary, SurfaceResult
from rr_jax.studies.surface import draw_surface
from tests import tiny
from tests.command import rr_jax

TASK = tiny.EchoTask(tiny.weight_metrics)


def run(out, folder, place, rounds_=1, **changes):
    config = tiny.run_config(out, folder, rounds=rounds_, **changes)
    config["release"]["retain"] |= {"place": place}
    if place == "none":
        config["release"]["orthogonality"] = {"penalty": "none"}
    config["release"]["train"] = config["release"]["train"] | {"learning_rate": 0.03}
    rounds.run(parse_config(config))
    return out


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "two", folder, "joint+repair", 2)


def held_out(config):
    """The rows to keep, made again from what they are said to be."""
    examples = TASK.retain_examples(
        2 * config.evaluate.validation, derive_seed(config.seed, "release/held_out"), "validation"
    )
    return pack_examples(tiny.tokenizer(), examples, config.release.train.seq_len)


def test_the_corners_are_the_models_of_the_rounds(made):
    entry = RunSummary.read(made).rounds[1]
    chosen = [entry.forget_strength, entry.retain_strength]
    found = draw_surface(made, 2, forget_strength=[0.0, chosen[0]], retain_strength=[0.0, chosen[1]], metrics=True)
    assert found == SurfaceResult.read(made)
    assert [found.chosen.forget_strength, found.chosen.retain_strength] == chosen
    for name in ("forget_nll", "retain_nll"):
        np.testing.assert_allclose(getattr(found, name)[1][1], getattr(found.chosen, name), rtol=1e-5)
        assert np.shape(getattr(found, name)) == (2, 2) and np.ptp(getattr(found, name)) > 1e-3
    before, config, _ = rounds.load_round(made, 1)
    np.testing.assert_allclose(
        found.retain_nll[0][0], mean_nll(before.params, held_out(config), before.config), rtol=1e-5
    )
    point = next(p for p in entry.trade_off if [p.forget_strength, p.retain_strength] == chosen)
    np.testing.assert_allclose(found.chosen.retain_nll, point.retain_nll.value, rtol=1e-6)
    np.testing.assert_allclose(found.chosen.forget_nll, entry.loss["training_prompt_subtracted"].value, rtol=1e-5)
    assert found.metrics.split == "validation"
    for name, corner in values_of(entry.validation).items() - {("degenerate", 0.0)}:
        np.testing.assert_allclose(found.metrics.values[name][1][1], corner, rtol=1e-6)
    np.testing.assert_allclose(
        found.metrics.values["forget"][0][0], tiny.weight_metrics(Generator(before))["forget"], rtol=1e-6
    )
    assert found.rows["retain"].plain() == {"from": "validation", "examples": 96, "rows": len(held_out(config).tokens)}
    assert found.rows["forget"].examples == entry.revealed


def test_grids_go_to_one_and_a_half_times_the_chosen_strengths(made):
    summary = RunSummary.read(made)
    found = draw_surface(made)
    entry = summary.selected
    assert found.round_index == summary.selected_round
    np.testing.assert_allclose(found.forget_strength, np.linspace(0, 1.5 * entry.forget_strength, 9), atol=1e-6)
    np.testing.assert_allclose(found.retain_strength, np.linspace(0, 1.5 * entry.retain_strength, 5), atol=1e-6)
    picture = (made / "surface.svg").read_text()
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    for text in (
        "on forget rows",
        "on texts to keep",
        "forget_strength",
        "retain_strength",
        "before the round",
        "chosen",
    ):
        assert text in picture
    draw_surface(made)
    assert (made / "surface.svg").read_text() == picture


def test_neither_test_data_nor_what_was_trained_on_is_asked_for(made):
    asked = []

    class Asked(tiny.EchoTask):
        def retain_examples(self, count, seed, split="train"):
            asked.append(split)
            return super().retain_examples(count, seed, split)

        def evaluate(self, *args, **kwargs):
            raise AssertionError("no metric was asked for")

    draw_surface(made, 1, forget_strength=[0.0, 0.2], retain_strength=[0.0, 1.0], task=Asked(tiny.weight_metrics))
    assert asked == ["validation"]


def test_without_a_retain_adapter_the_surface_is_a_curve(folder, tmp_path):
    out = run(tmp_path / "run", folder, "none")
    found = draw_surface(out, 1)
    assert found.retain_strength == (0.0,) and found.retain_adapter is None
    assert np.shape(found.retain_nll) == (9, 1)
    picture = (out / "surface.svg").read_text()
    assert "before the round" in picture and "chosen" in picture
    assert "Loss on forget rows (revealed, under other prompts)" in picture
    assert "Loss over both strengths" in (out / "report.html").read_text()
    with pytest.raises(ValueError, match="--retain is 0, 1, but no retain adapter of that round was added"):
        draw_surface(out, 1, retain_strength=[0.0, 1.0])


def test_a_choice_that_is_not_on_the_curve_is_not_marked(made):
    found = draw_surface(made, 1, forget_strength=[0.0])
    assert found.chosen.forget_strength > 0 and len(found.retain_strength) == 5
    assert "chosen" not in (made / "surface.svg").read_text()


@pytest.mark.parametrize(("objective", "place"), [("npo", "repair"), ("negate", "none")])
def test_every_objective_with_strengths_from_0_has_a_surface(folder, tmp_path, objective, place):
    config = tiny.run_config(tmp_path / "run", folder, rounds=1)
    config["release"] |= {"objective": objective, "data": "true"}
    config["release"] |= {"orthogonality": {"penalty": "none"}} if place == "none" else {}
    config["release"]["retain"] |= {"place": place}
    (entry,) = rounds.run(parse_config(config)).rounds
    retain = [0.0] if place == "none" else [0.0, entry.retain_strength]
    found = draw_surface(tmp_path / "run", 1, forget_strength=[0.0, entry.forget_strength], retain_strength=retain)
    for name in ("forget_nll", "retain_nll"):
        np.testing.assert_allclose(getattr(found, name)[-1][-1], getattr(found.chosen, name), rtol=1e-5)
    assert found.rows["forget"].source == "the true forget data"


def test_what_cannot_be_drawn_is_one_line(folder, made, tmp_path):
    ext_sub = tiny.run_config(tmp_path / "ext_sub", folder, rounds=1)
    ext_sub["release"] |= {"objective": "ext_sub", "orthogonality": {"penalty": "none"}}
    ext_sub["release"]["retain"] |= {"place": "none"}
    rounds.run(parse_config(ext_sub))
    hashes = run(tmp_path / "hashes", folder, "none", privacy={"keep_revealed": "hashes"})
    nothing = run(tmp_path / "nothing", folder, "none")
    summary = json.loads((nothing / "summary.json").read_text())
    (nothing / "summary.json").write_text(json.dumps(summary | {"selected_round": 0}))
    for arguments, options, message in (
        ((made, 0), {}, "two: round 0 is the base model, which has no adapters to scale"),
        ((nothing, None), {}, "no round was selected: none kept within the budgets; round 0 is the base model"),
        ((made, 7), {}, "has no round 7"),
        ((made, 1), {"forget_strength": [0.1, 0.2]}, "--forget is 0.1, 0.2, expected 0 among them"),
        ((made, 1), {"retain_strength": [1.0]}, "--retain is 1, expected 0 among them"),
        ((tmp_path / "ext_sub", 1), {}, "release.objective is 'ext_sub': its strength 0 is its expert"),
        ((hashes, 1), {}, "did not keep what was revealed"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            draw_surface(*arguments, **options)
        assert "\n" not in str(caught.value)
    assert not (hashes / "surface.json").exists()


def test_the_command_line_says_where_it_is_or_what_is_wrong(made):
    done = rr_jax("surface", made, "--round", 1, "--forget", "0,0.1,0.2", "--retain", "0,1")
    assert done.returncode == 0, done.stderr
    assert f"round 1 of {made}, 3 x 2 points: surface.json and surface.svg are in {made}" in done.stdout
    for arguments, message in (
        (("--forget", "0.1,0.2"), "rr-jax: --forget is 0.1, 0.2, expected 0 among them"),
        (("--forget", "0,much"), "rr-jax: --forget is '0,much', expected numbers such as"),
    ):
        done = rr_jax("surface", made, *arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert message in done.stderr
