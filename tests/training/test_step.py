"""The training step against plain formulas, and the loop's promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.lora.activations import dominant_directions
from rr_jax.lora.adapter import init_adapter, scale_adapter
from rr_jax.lora.orthogonality import overlap_by_layer
from rr_jax.training.config import TrainConfig
from rr_jax.training.constraint import Constraint, References
from rr_jax.training.loop import TrainingDiverged, TrainJob
from rr_jax.training.loop import train as train_job
from rr_jax.training.optimizer import adamw, hyperparameters, make_schedule
from rr_jax.training.step import compiled_step, make_step
from tests import tiny
from tests.jitted import forward

TARGETS = ["q", "v", "down"]
SCALE = 2.0


def adapters(count):
    return [init_adapter(jax.random.key(i), tiny.CONFIG, 3, TARGETS) for i in range(count)]


def job(adapters, data, section, *, anchor=None, memory=None, directions=None, constant=False, log=None, **constraint):
    """The adapters, each on the rows of its own name, under a constraint."""
    return TrainJob(
        adapters, data, section, SCALE, constraint=Constraint(**{"penalty": "none"} | constraint),
        references=References(anchor, memory, directions), constant=constant, log=log,
    )  # fmt: skip


def train(adapters, params, data, section, *, watch=None, watch_after=(), **options):
    return train_job(job(adapters, data, section, **options), params, tiny.CONFIG, watch=watch, watch_after=watch_after)


def batch(*packed, size=8):
    return {
        name: jnp.asarray(np.stack([getattr(p, name)[:size] for p in packed], axis=1))
        for name in ("tokens", "segment_ids", "weights")
    }


def reference_nll(params, packed, adapter, size=8):
    """Token by token in float64 from the logits of each segment on its own."""
    total, weight = 0.0, 0.0
    for tokens, segments, weights in zip(*(np.asarray(a)[:size] for a in packed), strict=True):
        for segment in (1, 2):
            place = np.flatnonzero(segments == segment)
            logits = forward(params, tokens[None, place], tiny.CONFIG, adapters=scale_adapter(adapter, SCALE))
            logits = np.asarray(logits, np.float64)[0]
            for s in range(1, len(place)):
                row = logits[s - 1]
                log_z = np.log(np.sum(np.exp(row - row.max()))) + row.max()
                total += weights[place[s]] * (log_z - row[tokens[place[s]]])
                weight += weights[place[s]]
    return total / weight


@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_losses_of_a_stack_are_those_of_each_adapter_alone(strategy):
    params, data, stack = tiny.params(), {"one": tiny.rows(1), "two": tiny.rows(2)}, adapters(2)
    section = TrainConfig(steps=10, learning_rate=1e-2)
    made = job(dict(zip(data, stack, strict=True)), data, section, penalty="normalized", penalty_weight=0.5)
    plan, frozen = dataclasses.replace(made.plan(tiny.CONFIG), strategy=strategy), made.frozen(params)
    _, metrics = jax.jit(make_step(plan))(plan.init_state(stack, frozen), frozen, batch(*data.values()))
    for j, name in enumerate(data):
        np.testing.assert_allclose(metrics["loss"][j], reference_nll(params, data[name], stack[j]), rtol=1e-5)
        assert metrics["terms"][f"nll/{j}"] == metrics["loss"][j]


def test_without_a_penalty_training_together_equals_training_apart():
    params, data, stack = tiny.params(), {"forget": tiny.rows(1), "retain": tiny.rows(2)}, adapters(2)
    section = TrainConfig(steps=5, batch_size=4, seq_len=16, learning_rate=1e-2)
    pair = dict(zip(data, stack, strict=True))
    together = train(pair, params, data, section)
    for name in data:
        alone = train({name: pair[name]}, params, {name: data[name]}, section)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), together[name], alone[name])


def test_the_penalty_separates_the_adapters_and_the_loss_still_falls():
    params, data, stack = tiny.params(), {"forget": tiny.rows(1), "retain": tiny.rows(2)}, adapters(2)
    section = TrainConfig(steps=40, batch_size=8, seq_len=16, learning_rate=2e-2)
    overlaps, losses = {}, {}
    for weight in (0.0, 5.0):
        lines = []
        train(
            dict(zip(data, stack, strict=True)), params, data, section, penalty="normalized",
            penalty_weight=weight, log=lambda step, values, lines=lines: lines.append(values),
        )  # fmt: skip
        overlaps[weight] = lines[-1]["penalty"]
        losses[weight] = lines[0]["nll/forget"] - lines[-1]["nll/forget"]
    assert overlaps[5.0] < 0.5 * overlaps[0.0]
    assert losses[5.0] > 0.05


def test_an_anchor_holds_a_single_adapter_apart():
    params, data, (free, anchor) = tiny.params(), {"repair": tiny.rows(1)}, adapters(2)
    section = TrainConfig(steps=40, batch_size=8, seq_len=16, learning_rate=2e-2)
    last = {}
    for weight in (0.0, 5.0):
        train(
            {"repair": free}, params, data, section, penalty="normalized",
            penalty_weight=weight, anchor=anchor, log=lambda step, values, w=weight: last.update({w: values}),
        )  # fmt: skip
    assert last[5.0]["penalty"] < 0.5 * last[0.0]["penalty"]


def test_changing_numbers_does_not_recompile():
    """Learning rate, decay, clip, scale and lambda are traced: a sweep over them compiles once."""
    data, (one, other) = {"forget": tiny.rows(1), "retain": tiny.rows(2)}, adapters(2)
    plans = []
    for number, weight in ((1e-2, 0.1), (2e-2, 3.0)):
        section = TrainConfig(steps=4, batch_size=4, seq_len=16, learning_rate=number, weight_decay=number, clip=number)
        made = job({"forget": one, "retain": other}, data, section, penalty="olora", penalty_weight=weight)
        made = dataclasses.replace(made, scale=weight)
        train_job(made, tiny.params(), tiny.CONFIG, "jit")
        plans.append(made.plan(tiny.CONFIG))
    assert plans[0] == plans[1]
    assert compiled_step(plans[0], "jit", 4)._cache_size() == 1


def sizes_of_updates(section, schedule):
    """Sizes of the updates of an even gradient, of which Adam takes the sign."""
    optimizer, weights = adamw(hyperparameters(section, 1.0, 0.0), schedule), {"w": jnp.ones((1,))}
    state, sizes, update = optimizer.init(weights), [], jax.jit(optimizer.update)
    for _ in range(section.steps):
        updates, state = update({"w": jnp.ones((1,))}, state, weights)
        sizes.append(float(-updates["w"][0]))
    return sizes


def test_the_schedule_warms_up_and_decays():
    sizes = sizes_of_updates(TrainConfig(steps=100, learning_rate=1.0, clip=1e9), make_schedule(100))
    assert sizes[0] == 0.0
    assert np.argmax(sizes) in (10, 11)
    assert sizes[-1] < 0.12


def test_a_constant_rate_makes_every_step_the_same_size():
    sizes = sizes_of_updates(TrainConfig(steps=20, learning_rate=0.25, clip=1e9), lambda step: 1.0)
    np.testing.assert_allclose(sizes, 0.25, rtol=1e-4)


def test_what_is_watched_of_a_constant_training_is_what_a_shorter_one_ends_with():
    params, data, (start, _) = tiny.params(), {"one": tiny.rows(1)}, adapters(2)
    seen = {}

    def fit(steps, **options):
        section = TrainConfig(steps=steps, batch_size=4, seq_len=16, learning_rate=1e-2)
        return train({"one": start}, params, data, section, **options)["one"]

    last = fit(5, constant=True, watch=lambda step, found: seen.update({step: found["one"]}), watch_after=(2, 5))
    assert seen.keys() == {2, 5}
    jax.tree.map(np.testing.assert_array_equal, seen[2], fit(2, constant=True))
    jax.tree.map(np.testing.assert_array_equal, seen[5], last)
    assert not np.array_equal(last["q"]["b"], fit(5)["q"]["b"])


def test_a_loss_that_is_not_a_number_stops_with_its_step():
    params = tiny.params()
    params["final_norm"] = params["final_norm"] * jnp.nan
    section = TrainConfig(steps=3, batch_size=4, seq_len=16)
    with pytest.raises(TrainingDiverged, match="loss of the forget adapter is nan at step 1"):
        train({"forget": adapters(1)[0]}, params, {"forget": tiny.rows(1)}, section)


def read_by(adapter):
    return {name: np.asarray(module["a"], np.float64) for name, module in adapter.items()}


def largest_dot(adapter, other):
    """Largest |cosine| between a direction that one reads and one of the other's."""
    found = 0.0
    for name, a in read_by(adapter).items():
        one, two = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, other[name]))
        found = max(found, float(np.max(np.abs(np.einsum("lir,lis->lrs", one, two)))))
    return found


def test_hard_projections_hold_after_every_step_and_the_loss_still_falls():
    params, data, stack = tiny.params(), {"forget": tiny.rows(1), "retain": tiny.rows(2)}, adapters(2)
    section = TrainConfig(steps=12, batch_size=8, seq_len=16, learning_rate=2e-2)
    earlier = adapters(3)[2]
    directions = dominant_directions(params, data["retain"], tiny.CONFIG, tuple(TARGETS), 4)

    def run(names=("forget", "retain"), **constraint):
        lines, seen = [], []
        train(
            dict(zip(names, stack, strict=False)),
            params,
            {name: data[name] for name in names},
            section,
            log=lambda step, line: lines.append(line),
            watch=lambda step, members: seen.append(members),
            watch_after=(1, 12),
            **constraint,
        )
        assert lines[-1]["nll/forget"] < lines[0]["nll/forget"]
        return seen

    for members in run(projection="complement", memory=earlier):
        assert largest_dot(members["forget"], read_by(members["retain"])) < 1e-5
        assert largest_dot(members["forget"], read_by(earlier)) < 1e-5
    for members in run(projection="null_space", directions=directions):
        assert largest_dot(members["forget"], {name: np.asarray(d.basis) for name, d in directions.items()}) < 1e-5
        assert largest_dot(members["forget"], read_by(members["retain"])) > 1e-3
    for members in run(names=("forget",), projection="complement", anchor=earlier):
        assert largest_dot(members["forget"], read_by(earlier)) < 1e-5
    free = run()[-1]
    assert largest_dot(free["forget"], read_by(free["retain"])) > 1e-3


def test_a_projection_holds_from_the_first_step_on():
    """The gradient of the first step, where B is still zero, goes through an A that is moved already."""
    params, data, (one, other) = tiny.params(), {"forget": tiny.rows(1), "retain": tiny.rows(2)}, adapters(2)
    moved = {}
    for name, module in one.items():
        bases = [np.linalg.qr(np.asarray(layer, np.float64))[0] for layer in other[name]["a"]]
        inside = np.stack([q @ (q.T @ np.asarray(a)) for q, a in zip(bases, module["a"], strict=True)])
        moved[name] = {"a": (module["a"] - inside).astype(np.float32), "b": module["b"]}
    norms = []
    for start, projection in ((one, "complement"), (moved, "none"), (one, "none")):
        train(
            {"forget": start, "retain": other},
            params,
            data,
            TrainConfig(steps=1, batch_size=8, seq_len=16),
            projection=projection,
            log=lambda step, line: norms.append(line["gradient_norm/forget"]),
        )
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert norms[0] != pytest.approx(norms[2], rel=1e-3)


@pytest.mark.parametrize(("key", "value"), [("penalty", "activations"), ("projection", "null_space")])
def test_a_constraint_of_activations_without_any_is_refused(key, value):
    constraint = {key: value}
    section = TrainConfig(steps=1, batch_size=4, seq_len=16)
    with pytest.raises(ValueError, match=f"the {key} looks at activations, but no directions of them are given"):
        train(
            {"forget": adapters(1)[0]}, tiny.params(), {"forget": tiny.rows(1)}, section,
            **constraint,
        )  # fmt: skip


def test_the_penalty_of_activations_acts_on_the_first_adapter():
    params, data, stack = tiny.params(), {"forget": tiny.rows(1), "retain": tiny.rows(2)}, adapters(2)
    section = TrainConfig(steps=30, batch_size=8, seq_len=16, learning_rate=2e-2)
    directions = dominant_directions(params, data["retain"], tiny.CONFIG, tuple(TARGETS), 4)

    def last(weight, **constraint):
        lines = []
        pair = dict(zip(data, stack, strict=True))

        def log(step, line):
            lines.append(line)

        train(pair, params, data, section, penalty_weight=weight, log=log, **constraint)
        return lines[-1]["penalty"]

    held = last(1.0, penalty="activations", directions=directions)
    assert held < 0.5 * last(0.0, penalty="activations", directions=directions)


def test_the_penalty_of_memory_turns_the_first_adapter_away_from_it_and_not_the_second():
    params, data = tiny.params(), {"forget": tiny.rows(1), "retain": tiny.rows(2)}
    section = TrainConfig(steps=30, batch_size=8, seq_len=16, learning_rate=2e-2)
    earlier = adapters(3)[2]

    def overlaps(weight):
        pair = dict(zip(data, adapters(2), strict=True))
        trained = train(
            pair, params, data, section, penalty="normalized", penalty_weight=weight,
            memory=earlier,
        )  # fmt: skip
        return {name: np.mean([*overlap_by_layer(member, earlier).values()]) for name, member in trained.items()}

    free, held = overlaps(0.0), overlaps(5.0)
    assert held["forget"] < 0.5 * free["forget"]
    assert held["retain"] > 0.7 * free["retain"]
