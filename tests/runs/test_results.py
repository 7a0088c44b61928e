"""Records survive their file, and a file that is not one is refused in a line that names it."""

import json
import math

import pydantic
import pytest

from rr_jax.evaluate.metric import Metric
from rr_jax.runs.results import AttackResult, Recall, RunSummary
from tests.records import arm, attack, metrics, point, round_result, summary


def test_a_summary_and_attacks_survive_their_files(tmp_path):
    odd = metrics(f=0.1, u=0.7) | {"p": Metric(math.inf, 3)}
    recall = Recall(this_round=Metric(0.5, 4, 0.25), cumulative=Metric(0.5, 4, 0.25))
    made = summary(round_result(search=(arm(shift=Metric(0.5, 3, 0.1)),), metrics=odd, recall=recall))
    found = attack(quantize={"4": odd}, quantize_base={"4": odd})
    for one in (made, found):
        one.write(tmp_path)
        assert type(one).read(tmp_path) == one
    plain = json.loads((tmp_path / "summary.json").read_text())
    assert plain["schema_version"] == 1
    assert plain["rounds"][0]["round"] == 1 and plain["rounds"][0]["recall"]["round"]["value"] == 0.5
    assert plain["rounds"][0]["metrics"]["f"] == {"value": 0.1, "n": 48, "stderr": 0.0, "share": False}


def test_a_record_is_frozen_and_knows_its_keys():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        summary().status = "running"
    with pytest.raises(pydantic.ValidationError, match="forgett"):
        summary(forgett=1)
    with pytest.raises(pydantic.ValidationError):
        point(0.4, 0.1, retain_strength="1.2")  # never coerced


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"is not valid JSON"),
        ("[1]", r"expected a JSON object, found list"),
        ("{}", r"schema_version is None, expected 1: another version of rr-jax wrote it"),
        ('{"schema_version": 99}', r"schema_version is 99, expected 1"),
        ('{"schema_version": 1}', r"field required, found .* more\)"),
    ],
)
@pytest.mark.parametrize("kind", [RunSummary, AttackResult])
def test_a_file_that_is_no_result_is_refused_in_one_line_that_names_it(tmp_path, kind, text, message):
    (tmp_path / kind.FILE).write_text(text)
    with pytest.raises(ValueError, match=rf"{kind.FILE}: (\w+: )?{message}") as caught:
        kind.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_metric_without_n_in_a_file_is_named(tmp_path):
    plain = summary().plain()
    plain["base"]["f"] = 0.9
    (tmp_path / "summary.json").write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=r"summary.json: base\.f: .*, found '0\.9'") as caught:
        RunSummary.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_the_file_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"has no summary.json yet: finish a round first"):
        RunSummary.read(tmp_path)
    with pytest.raises(ValueError, match=r"has no attacks.json yet: attack it first"):
        AttackResult.read(tmp_path)


def test_the_selected_round_is_one_that_was_measured():
    refused = round_result(2, accepted=False, metrics=None)
    found = summary(round_result(), refused)
    assert found.selected == found.rounds[0] and found.measured == (found.rounds[0],)
    assert summary(selected_round=0).selected is None
    assert found.shown_metrics == ("f", "u")
