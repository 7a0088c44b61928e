"""Every choice of the release stage from outside the package, by path and by entry point, through a whole run."""

import sys

import numpy as np
import pytest

from rr_jax.evaluate.metric import values_of
from rr_jax.release.retain import Place
from rr_jax.reporting.page import write_report
from rr_jax.runs.config_file import dump_config, load_config, parse_config
from rr_jax.runs.loop import run
from rr_jax.runs.reuse import stage_key
from rr_jax.runs.saved import load_run
from rr_jax.training.constraint import PENALTIES
from tests import tiny

BOUNDED = """
import warnings
import jax.numpy as jnp
from pydantic import PositiveFloat
from rr_jax.data import Example
from rr_jax.models.loss import segment_nll
from rr_jax.release import Place
from rr_jax.training import Projection
from rr_jax.release.objectives.base import Objective
from rr_jax.training.loss import Term


class Bounded(Objective):
    '''Raises the NLL of each sequence's tokens up to a bound, in nats, and no further.'''

    name: str = "bounded"
    bound: PositiveFloat = 6.0

    def terms(self, params, adapter, rows, config, numbers):
        nll, weights = segment_nll(params, rows["forget"], config, adapters=adapter)
        present = weights > 0
        lacking = jnp.maximum(numbers["bound"] - nll / jnp.where(present, weights, 1.0), 0.0)
        return {"lacking": Term(jnp.sum(jnp.where(present, lacking, 0.0)), jnp.sum(present.astype(jnp.float32)))}


def written_apart(forget, retain):
    '''Mean square of what both adapters write in common.'''
    shared = [jnp.mean((forget[name]["b"] @ retain[name]["b"].mT) ** 2) for name in forget if name in retain]
    return jnp.mean(jnp.stack(shared))


class Lacking:
    name = "lacking"


class Lossless(Objective):
    name: str = "lossless"


with warnings.catch_warnings(action="ignore"):  # pydantic's, which says the same

    class Hiding(Bounded):
        rows: int = 3


NUMBER = 3


def given(request):
    '''Forget data of a file of one's own, whatever the task.'''
    return [Example("say it", f" word {index}") for index in range(request.count)]


ANCHOR_REPAIR = Place(trains_beside=True, adds_beside=False, repairs=True)
STILL = Projection(lambda adapter, bases: {name: one | {"b": 0.0 * one["b"]} for name, one in adapter.items()})


def nothing(request):
    return None


def texts(request):
    return ["text"]


def none_at_all(request):
    return []


class Unplaced:
    pass


def of_one(adapter):
    return 0.0
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module and an installed distribution with entry points."""
    (tmp_path / "stranger_release.py").write_text(BOUNDED)
    info = tmp_path / "stranger_release-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-release\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rr_jax.plugins]\nobjective.bounded = stranger_release:Bounded\npenalty.apart = stranger_release:written_apart\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("stranger_release", None)


def tree_of(out, folder, **release):
    tree = tiny.run_config(out, folder, rounds=1)
    tree["release"] |= release
    return tree


def test_an_objective_and_a_penalty_from_outside_go_through_a_run(stranger, folder, tmp_path):
    by_name = {"objective": {"name": "bounded", "bound": 4.0}, "orthogonality": {"penalty": "apart"}}
    config = parse_config(tree_of(tmp_path / "run", folder, **by_name))
    summary = run(config)
    assert summary.objective == "bounded" and summary.status == "complete"
    lines = [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "lacking/forget" in line]
    assert len(lines) == 3 and '"penalty"' in lines[0]
    assert load_config(tmp_path / "run" / "config.yaml") == config  # its section is written and read back
    assert "bound: 4.0" in dump_config(config)
    by_path = {
        "objective": {"name": "stranger_release:Bounded", "bound": 4.0},
        "orthogonality": {"penalty": "stranger_release:written_apart"},
    }
    again = run(parse_config(tree_of(tmp_path / "path", folder, **by_path)))
    assert values_of(again.rounds[0].metrics) == values_of(summary.rounds[0].metrics)


def test_data_a_place_and_a_projection_from_outside_go_through_a_run(stranger, folder, tmp_path):
    release = {
        "data": "stranger_release:given",
        "examples": 5,
        "retain": {"place": "stranger_release:ANCHOR_REPAIR", "repair": {"steps": 2, "batch_size": 2}},
        "orthogonality": {"penalty": "none", "projection": "stranger_release:STILL"},
    }
    config = parse_config(tree_of(tmp_path / "run", folder, **release))
    summary = run(config)
    assert (summary.data, summary.status) == ("stranger_release:given", "complete")
    assert summary.rounds[0].revealed == 0  # nothing was searched for
    adapters = load_run(tmp_path / "run").adapters(1)
    assert adapters.keys() >= {"forget", "retain", "repair"}
    assert not any(np.any(module["b"]) for module in adapters["forget"].values())  # the projection held it still
    assert any(np.any(module["b"]) for module in adapters["retain"].values())
    assert "the examples of given" in write_report(tmp_path / "run").read_text()
    assert load_config(tmp_path / "run" / "config.yaml") == config


def test_a_penalty_is_a_plain_function_of_two_adapters(stranger):
    penalty = PENALTIES.get("stranger_release:written_apart")
    one, other = ({"q": {"a": np.ones((1, 3, 2)), "b": np.full((1, 2, 2), value)}} for value in (1.0, 2.0))
    assert penalty.looks_at == "pair"
    np.testing.assert_allclose(penalty.value(one, other), (2 * 1.0 * 2.0) ** 2)


@pytest.mark.parametrize("given", ["nothing", "texts", "none_at_all"])
def test_forget_data_that_is_none_is_one_line(stranger, folder, tmp_path, given):
    config = parse_config(tree_of(tmp_path / "run", folder, data=f"stranger_release:{given}"))
    with pytest.raises(
        ValueError, match=rf"release.data: stranger_release:{given} gives .*, expected at least one rr_jax"
    ):
        run(config)
    assert not (tmp_path / "run").exists()


def test_a_place_adds_no_adapter_that_nobody_trains():
    with pytest.raises(ValueError, match="adds_beside adds an adapter that is trained beside"):
        Place(trains_beside=False, adds_beside=True, repairs=False)


def test_numbers_of_an_objective_from_outside_are_traced(stranger, folder, tmp_path):
    configs = [
        parse_config(tree_of(tmp_path / "a", folder, objective={"name": "bounded", "bound": b})) for b in (2.0, 3.0)
    ]
    objectives = [config.release.objective for config in configs]
    assert objectives[0].static() == objectives[1].static() and objectives[0].numbers() == {"bound": 2.0}
    assert stage_key(configs[0], "train") != stage_key(configs[1], "train")


@pytest.mark.parametrize(
    ("release", "message"),
    [
        ({"objective": "stranger_release:Lacking"}, "expected a subclass of rr_jax.release.objectives.base.Obj"),
        ({"objective": "stranger_release:Lossless"}, "Lossless lacks terms, which every objective has"),
        (
            {"objective": "stranger_release:Hiding"},
            "has a key 'rows', which is the name of something that every objective",
        ),
        (
            {"orthogonality": {"penalty": "stranger_release:of_one"}},
            r"takes \(adapter\), expected a function \(adapter, o",
        ),
        ({"optimizer": "stranger_release:NUMBER"}, r"is a int, expected a function \(numbers, schedule\)"),
        ({"data": "stranger_release:NUMBER"}, r"is a int, expected a function \(request\)"),
        ({"data": "revaled"}, "release.data: found 'revaled', there is no data 'revaled'; did you mean 'revealed'"),
        ({"retain": {"place": "stranger_release:given"}}, "is a function, expected a rr_jax.release.Place"),
        (
            {"retain": {"place": "joined"}},
            "retain.place: found 'joined', there is no place 'joined'; did you mean 'joint'",
        ),
        (
            {"orthogonality": {"projection": "stranger_release:of_one"}},
            r"takes \(adapter\), expected a function \(adapter, bases\)",
        ),
        (
            {"orthogonality": {"projection": "stranger_release:Unplaced"}},
            "is a class, expected a rr_jax.training.constraint.Projection or a function",
        ),
        ({"objective": "no_such_module:X"}, "cannot be imported from 'no_such_module:X'"),
        (
            {"objective": {"name": "bounded", "bound": -1.0}},
            "release.objective.bound: found -1.0, input should be greater",
        ),
        ({"objective": {"name": "bounded", "bond": 1.0}}, "unknown key 'release.objective.bond'; did you mean 'bound'"),
        ({"orthogonality": {"penalty": "apat"}}, "there is no penalty 'apat'; did you mean 'apart'"),
        ({"orthogonality": {"penalty": "stranger_release:Lacking"}}, "expected a rr_jax.training.constraint.Penalty"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_one_line(stranger, tmp_path, release, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_config(tree_of(tmp_path / "run", "none", **release))
    assert "\n" not in str(caught.value)
