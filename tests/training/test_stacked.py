"""Many trainings in one step give the numbers of as many separate ones."""

import jax
import numpy as np
import pytest

from rr_jax.lora.activations import dominant_directions
from rr_jax.lora.adapter import init_adapter
from rr_jax.training.config import TrainConfig
from rr_jax.training.loop import TrainingDiverged, train
from rr_jax.training.stacked import Member, train_many
from tests import tiny

SECTION = TrainConfig(steps=6, batch_size=4, seq_len=16)  # Adam turns noise of a tiny gradient into a share of the rate
SHARED = {"scale": 2.0, "penalty": "normalized"}


def member(number, weight, *, count=12, rank=3, names=("forget", "retain"), length=16):
    """Its own start, rows, number of rows, order and lambda."""
    lines = []
    adapters = {
        name: init_adapter(jax.random.key(10 * number + j), tiny.CONFIG, rank, ["q", "down"])
        for j, name in enumerate(names)
    }
    data = {name: tiny.rows(100 * number + j, count + 3 * j, length) for j, name in enumerate(names)}
    return Member(adapters, data, weight, number, lambda step, values: lines.append((step, values))), lines


@pytest.mark.parametrize(("strategy", "mode"), [("map", "jit"), ("vmap", "jit"), ("map", "shard_map")])
def test_members_train_as_they_would_alone(strategy, mode):
    params = tiny.params()
    members, logs = zip(*(member(m, weight, count=9 + m) for m, weight in enumerate((0.0, 0.7, 8.0))), strict=True)
    together = train_many(members, params, tiny.CONFIG, SECTION, strategy=strategy, mode=mode, **SHARED)
    for one, log, found in zip(members, logs, together, strict=True):
        lines = []
        alone = train(
            one.adapters, params, one.data, tiny.CONFIG, SECTION, penalty_weight=one.penalty_weight, seed=one.seed,
            log=lambda step, values, lines=lines: lines.append((step, values)), mode="jit", **SHARED,
        )  # fmt: skip
        assert found.keys() == alone.keys()
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, alone)
        assert [step for step, _ in log] == [1, 2, 3, 4, 5, 6]
        for (_, ours), (_, theirs) in zip(log, lines, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
    assert logs[0][-1][1]["orthogonality"] > logs[2][-1][1]["orthogonality"]  # each under its own lambda


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
    members = [
        member(m, 0.3)[0]._replace(
            directions=dominant_directions(params, tiny.rows(40 + m), tiny.CONFIG, ("q", "down"), 3)
        )
        for m in range(2)
    ]
    together = train_many(members, params, tiny.CONFIG, SECTION, scale=2.0, strategy="map", **constraint)
    for one, found in zip(members, together, strict=True):
        alone = train(
            one.adapters, params, one.data, tiny.CONFIG, SECTION, scale=2.0, penalty_weight=one.penalty_weight,
            directions=one.directions, seed=one.seed, **constraint,
        )  # fmt: skip
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, alone)
    if "projection" in constraint:  # and it was there
        name = constraint["projection"]
        others = (one.directions["q"].basis if name == "null_space" else found["retain"]["q"]["a"]
                  for one, found in zip(members, together, strict=True))  # fmt: skip
        for found, other in zip(together, others, strict=True):
            assert np.abs(np.einsum("lir,lik->lrk", found["forget"]["q"]["a"], other)).max() < 1e-5


def test_a_member_that_diverges_leaves_the_others_as_they_are():
    params, (good, good_log) = tiny.params(), member(0, 1.0)
    bad, bad_log = member(1, 1.0)
    bad.adapters["retain"] = jax.tree.map(lambda x: x * np.nan, bad.adapters["retain"])
    first, second = train_many([good, bad], params, tiny.CONFIG, SECTION, strategy="map", **SHARED)
    assert second is None and not bad_log and len(good_log) == SECTION.steps
    alone = train(good.adapters, params, good.data, tiny.CONFIG, SECTION, penalty_weight=1.0, seed=0, **SHARED)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), first, alone)
    with pytest.raises(TrainingDiverged):
        train(bad.adapters, params, bad.data, tiny.CONFIG, SECTION, seed=1, **SHARED)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"rank": 2}, "member 1 has adapters of shapes"),
        ({"names": ("forget",)}, "member 1 has adapters forget and rows forget"),
        ({"length": 12}, "rows have lengths .*'forget of member 1': 12"),
    ],
)
def test_members_that_do_not_fit_are_refused(others, message):
    members = [member(0, 1.0)[0], member(1, 1.0, **others)[0]]
    with pytest.raises(ValueError, match=message):
        train_many(members, tiny.params(), tiny.CONFIG, SECTION, **SHARED)
    with pytest.raises(ValueError, match="strategy is 'scan', expected vmap or map"):
        train_many(members[:1], tiny.params(), tiny.CONFIG, SECTION, strategy="scan", **SHARED)
    with pytest.raises(ValueError, match="nothing to train"):
        train_many([], tiny.params(), tiny.CONFIG, SECTION, **SHARED)
