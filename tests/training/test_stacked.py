"""Many trainings in one step give the numbers of as many separate ones."""

import dataclasses

import jax
import numpy as np
import pytest

from rr_jax.lora.activations import dominant_directions
from rr_jax.lora.adapter import init_adapter
from rr_jax.training.config import TrainConfig
from rr_jax.training.constraint import Constraint, References
from rr_jax.training.loop import TrainingDiverged, TrainJob, train
from rr_jax.training.stacked import train_stacked
from tests import tiny

SECTION = TrainConfig(steps=6, batch_size=4, seq_len=16)  # Adam turns noise of a tiny gradient into a share of the rate


def member(
    number, weight, *, count=12, rank=3, names=("forget", "retain"), length=16, penalty="normalized", **constraint
):
    """Its own start, rows, number of rows, order, numbers and lambda."""
    lines = []
    adapters = {
        name: init_adapter(jax.random.key(10 * number + j), tiny.CONFIG, rank, ["q", "down"])
        for j, name in enumerate(names)
    }
    data = {name: tiny.rows(100 * number + j, count + 3 * j, length) for j, name in enumerate(names)}
    section = SECTION.model_copy(update={"learning_rate": 3e-3 * (1 + number), "clip": 1.0 + number})
    return TrainJob(
        adapters, data, section, 2.0 - 0.5 * number, seed=number, log=lambda step, values: lines.append((step, values)),
        constraint=Constraint(penalty=penalty, penalty_weight=weight, **constraint),
    ), lines  # fmt: skip


def alone_of(job, params, log=None):
    return train(dataclasses.replace(job, log=log), params, tiny.CONFIG, "jit")


@pytest.mark.parametrize(("strategy", "mode"), [("map", "jit"), ("vmap", "jit"), ("map", "shard_map")])
def test_jobs_train_as_they_would_alone(strategy, mode):
    params = tiny.params()
    jobs, logs = zip(*(member(m, weight, count=9 + m) for m, weight in enumerate((0.0, 0.7, 8.0))), strict=True)
    together = train_stacked(jobs, params, tiny.CONFIG, strategy=strategy, mode=mode)
    for one, log, found in zip(jobs, logs, together, strict=True):
        lines = []
        alone = alone_of(one, params, lambda step, values, lines=lines: lines.append((step, values)))
        assert found.keys() == alone.keys()
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, alone)
        assert [step for step, _ in log] == [1, 2, 3, 4, 5, 6]
        for (_, ours), (_, theirs) in zip(log, lines, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
    assert logs[0][-1][1]["penalty"] > logs[2][-1][1]["penalty"]  # each under its own lambda


@pytest.mark.parametrize(
    "constraint",
    [
        {"penalty": "activations"},
        {"penalty": "none", "projection": "null_space"},
        {"penalty": "none", "projection": "complement"},
    ],
)
def test_each_member_has_its_own_directions_and_partner(constraint):
    params = tiny.params()
    members = []
    for m in range(2):
        directions = dominant_directions(params, tiny.rows(40 + m), tiny.CONFIG, ("q", "down"), 3)
        made = member(m, 0.3, **constraint)[0]
        members.append(dataclasses.replace(made, references=References(directions=directions)))
    together = train_stacked(members, params, tiny.CONFIG, strategy="map")
    for one, found in zip(members, together, strict=True):
        alone = alone_of(one, params)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, alone)
    if "projection" in constraint:  # and it was there
        name = constraint["projection"]
        others = (one.references.directions["q"].basis if name == "null_space" else found["retain"]["q"]["a"]
                  for one, found in zip(members, together, strict=True))  # fmt: skip
        for found, other in zip(together, others, strict=True):
            assert np.abs(np.einsum("lir,lik->lrk", found["forget"]["q"]["a"], other)).max() < 1e-5


def test_a_member_that_diverges_leaves_the_others_as_they_are():
    params, (good, good_log) = tiny.params(), member(0, 1.0)
    bad, bad_log = member(1, 1.0)
    bad.adapters["retain"] = jax.tree.map(lambda x: x * np.nan, bad.adapters["retain"])
    first, second = train_stacked([good, bad], params, tiny.CONFIG, strategy="map")
    assert second is None and not bad_log and len(good_log) == SECTION.steps
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), first, alone_of(good, params))
    with pytest.raises(TrainingDiverged):
        alone_of(bad, params)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"rank": 2}, "job 1 has adapters of shapes"),
        ({"names": ("forget",)}, "job 1 has adapters forget and rows forget"),
        ({"penalty": "olora"}, "job 1 is another step than job 0"),
        ({"length": 12}, "rows have lengths .*'forget of job 1': 12"),
    ],
)
def test_members_that_do_not_fit_are_refused(others, message):
    members = [member(0, 1.0)[0], member(1, 1.0, **others)[0]]
    with pytest.raises(ValueError, match=message):
        train_stacked(members, tiny.params(), tiny.CONFIG)
    with pytest.raises(ValueError, match="strategy is 'scan', expected vmap or map"):
        train_stacked(members[:1], tiny.params(), tiny.CONFIG, strategy="scan")
    with pytest.raises(ValueError, match="nothing to train"):
        train_stacked([], tiny.params(), tiny.CONFIG)
