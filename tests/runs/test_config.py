"""A configuration says in one line what is wrong with it, and reads back as it was written."""

import math

import pytest
import yaml
from scipy.stats import qmc

from rr_jax.release.objectives import Objective
from rr_jax.reveal.scorers import Scorer
from rr_jax.runs.config_file import dump_config, load_config, parse_config
from rr_jax.section import Section


def load(tmp_path, *overrides):
    (tmp_path / "config.yaml").write_text("task: {name: testbed/ner}\nout: runs/x\n")
    return load_config(tmp_path / "config.yaml", overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("release.train.learning_rate=.inf", "release.train.learning_rate: found inf, input should be a finite number"),
        (
            "release.strength.utility_budget=.nan",
            "release.strength.utility_budget: found nan, input should be a finite number",
        ),
        ("reveal.reward.fluency_margin=.inf", "reveal.reward.fluency_margin: found inf, input should be a finite"),
        ("reveal.reward.order=.nan", "reveal.reward.order: found nan, input should be greater than 0"),
        ("release.train.learning_rate=-1e-3", "release.train.learning_rate: found -0.001, input should be greater"),
        ("release.adapter.targets=[q, q]", r"release.adapter.targets: found \['q', 'q'\], expected each module once"),
        (
            "release.strength.forget=[-1]",
            r"release.strength.forget.0: found -1, input should be greater than or equal to 0",
        ),
        ("release.strength.retain=[]", r"release.strength.retain: found \[\], list should have at least 1 item"),
        ("release.strength.retain=1.0", "release.strength.retain: found 1.0, input should be a valid list"),
        (
            "release.strength.rule=best",
            "release.strength.rule: found 'best', input should be 'most_forgetting_within_budget' or",
        ),
        ("reveal.arms.dim=21202", "reveal.arms.dim: found 21202, input should be less than or equal to 21201"),
        ("seed=4294967296", "seed: found 4294967296, input should be less than 4294967296"),
        ("release=3", "release: found 3, expected a section with keys such as data, examples, objective"),
        ("release.train=fast", "release.train: found 'fast', expected a section with keys such as steps, batch_size"),
        ("task=3", "task: found 3, expected a name among custom, testbed/code, .*, or a section with name"),
        ("task.name=testbed/nerr", "task.name: there is no task 'testbed/nerr'; did you mean 'testbed/ner'"),
        ("task.name=zzz", "task.name: .* 'zzz'; expected one of custom, testbed/code, testbed/ner, testbed/toxicity"),
        ("task.name=ner", "task.name: there is no task 'ner'; it is testbed/ner now$"),
        ("task=code", "task: there is no task 'code'; it is testbed/code now$"),
        ("task={}", "task.name is missing, expected one of custom, testbed/code, testbed/ner, testbed/toxicity$"),
        ("task.forgets=person", "unknown key 'task.forgets'; did you mean 'forget'"),
        ("seed=[", "the value is not valid YAML"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, override, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty, expected keys and values"),
        ("- seed", "expected keys and values, found list"),
        ("task: {name: testbed/ner}\nout: x\nseed: 1\nseed: 2\n", "is not valid YAML .*the key 'seed' is given twice"),
        ("task: {name: testbed/ner, forget: person, forget: date}\nout: x\n", "the key 'forget' is given twice"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_line(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)


def test_a_key_may_replace_one_that_is_merged_in(tmp_path):
    text = "release: {train: &short {steps: 5, clip: 2.0}, retain: {repair: {<<: *short, steps: 7}}}"
    (tmp_path / "config.yaml").write_text(f"{text}\ntask: {{name: testbed/ner}}\nout: x\n")
    release = load_config(tmp_path / "config.yaml").release
    assert (release.train.steps, release.retain.repair.steps, release.retain.repair.clip) == (5, 7, 2.0)


@pytest.mark.parametrize("place", ["anchor", "none"])
def test_strengths_of_a_retain_adapter_that_is_not_added_are_refused(tmp_path, place):
    assert load(tmp_path, f"release.retain.place={place}").release.strength.retain == [1.0]
    message = rf"strength.retain is \[0.5, 1.0\], but retain.place '{place}' adds no retain adapter"
    with pytest.raises(ValueError, match=message):
        load(tmp_path, f"release.retain.place={place}", "release.strength.retain=[0.5, 1.0]")


def test_numbers_that_are_meant_are_taken(tmp_path):
    config = load(
        tmp_path, "release.train.learning_rate=5E-4", "reveal.reward.order=.inf", "release.strength.forget=[0, 1e-1]"
    )
    assert config.release.train.learning_rate == 0.0005
    assert config.release.strength.forget == [0.0, 0.1]
    assert math.isinf(config.reveal.reward.order)
    assert parse_config(yaml.safe_load(dump_config(config))) == config


def test_the_largest_dimension_is_scipys(tmp_path):
    assert load(tmp_path, f"reveal.arms.dim={qmc.Sobol.MAXDIM}").reveal.arms.dim == qmc.Sobol.MAXDIM


def test_one_key_of_a_section_leaves_the_others_at_their_defaults(tmp_path):
    """A default that differs from its section's own would be lost with the first key that is set."""

    def check(section, place):
        for name, field in type(section).model_fields.items():
            inner = getattr(section, name)
            if isinstance(inner, Section):
                plugged = field.annotation in (Objective, Scorer)  # the section is that of the choice that is named
                assert (plugged or field.annotation is type(inner)) and inner == type(inner)(), (*place, name)
                check(inner, (*place, name))

    check(load(tmp_path).release, ("release",))
    check(load(tmp_path).reveal, ("reveal",))
    repair = load(tmp_path, "release.retain.repair.batch_size=4").release.retain.repair
    assert (repair.steps, repair.learning_rate, repair.batch_size) == (50, 3e-3, 4)
