"""Losses of the objectives against float64 formulas of each sequence alone, Sophia against SOUL's, and their data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rr_jax.lora.adapter import init_adapter, scale_adapter
from rr_jax.lora.algebra import delta_weight
from rr_jax.models.decoder import forward
from rr_jax.release.objectives import OBJECTIVES
from rr_jax.runs.config_file import parse_config
from rr_jax.training.config import TrainConfig
from rr_jax.training.constraint import Constraint
from rr_jax.training.loop import TrainingDiverged, TrainJob, train
from rr_jax.training.optimizer import OPTIMIZERS, hyperparameters, make_schedule
from rr_jax.training.step import compiled_step
from tests import tiny

SCALE, BETA, MARGIN, WEIGHT = 2.0, 0.3, 0.4, 0.7


alone = jax.jit(lambda params, tokens, added: forward(params, tokens, tiny.CONFIG, adapters=added))


def adapter(seed=0):
    """One that changes the model, so that it differs from the reference."""
    fresh = init_adapter(jax.random.key(seed), tiny.CONFIG, 3, ["q", "v", "down"])
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(seed + 9), x.shape), fresh)


def sequences(params, packed, added):
    """(NLL, weight) of every sequence that has a weighted token, in float64 from its logits alone."""
    found = []
    for tokens, segments, weights in zip(*packed, strict=True):
        for segment in range(1, segments.max() + 1):
            place = np.flatnonzero(segments == segment)
            logits = np.asarray(alone(params, tokens[None, place], added), np.float64)[0]
            log_p = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            log_p -= logits.max(-1, keepdims=True)
            nll = -log_p[np.arange(len(place) - 1), tokens[place[1:]]]
            counts = np.asarray(weights[place[1:]], np.float64)
            if counts.sum() > 0:
                found.append((counts @ nll, counts.sum()))
    return np.array(found).T


def batch(*packed):
    return {name: np.stack([getattr(p, name) for p in packed], axis=1) for name in packed[0]._fields}


def expected_loss(method, sequence, params, forget, added):
    nll, weight = sequences(params, forget, added)
    reference, _ = sequences(params, forget, None)
    if method in ("gradient_ascent", "grad_diff"):
        return -nll.sum() / weight.sum()
    if method == "npo":  # the form with a ratio of probabilities
        length = weight if sequence == "mean" else 1.0
        ratio = np.exp(-(nll - reference) / length)
        return np.mean(2 / BETA * np.log(1 + ratio**BETA))
    return np.mean(-2 / BETA * np.log(1 / (1 + np.exp(-(BETA * nll / weight - MARGIN)))))


def objective(name, **numbers):
    return OBJECTIVES.get(name)(name=name, **numbers)


def job(chosen, start, section, retain=True, **more):
    rows = {"forget": tiny.rows(1)} | ({"retain": tiny.rows(2)} if retain else {})
    return TrainJob({"forget": start}, rows, section, SCALE, losses={"forget": chosen}, **more)


NUMBERS = {
    "gradient_ascent": {},
    "grad_diff": {"retain_weight": WEIGHT},
    "npo": {"retain_weight": WEIGHT, "beta": BETA},
    "simnpo": {"retain_weight": WEIGHT, "beta": BETA, "margin": MARGIN},
}


@pytest.mark.parametrize(
    ("method", "sequence"),
    [("gradient_ascent", "sum"), ("grad_diff", "sum"), ("npo", "sum"), ("npo", "mean"), ("simnpo", "sum")],
)
def test_each_loss_is_its_formula(method, sequence):
    params, start, lines = tiny.params(), adapter(), []
    section = TrainConfig(steps=1, batch_size=12, seq_len=16)  # all rows in one step, in another order
    chosen = objective(method, **NUMBERS[method] | ({"sequence": sequence} if method == "npo" else {}))
    added = scale_adapter(start, SCALE)
    plain = expected_loss(method, sequence, params, tiny.rows(1), added)
    retained = "retain" in chosen.rows
    train(job(chosen, start, section, retained, log=lambda step, line: lines.append(line)), params, tiny.CONFIG)
    (line,) = lines
    nll, weight = sequences(params, tiny.rows(1), added)
    np.testing.assert_allclose(line["forget_nll/forget"], nll.sum() / weight.sum(), rtol=1e-5)
    if retained:
        nll, weight = sequences(params, tiny.rows(2), added)
        np.testing.assert_allclose(line["retain_nll/forget"], nll.sum() / weight.sum(), rtol=1e-5)
        plain += WEIGHT * nll.sum() / weight.sum()
    np.testing.assert_allclose(line["loss/forget"], plain, rtol=1e-5)


def test_a_retain_loss_that_counts_nothing_is_not_looked_at():
    for name in ("npo", "simnpo"):
        assert objective(name, retain_weight=0.0).rows == ("forget",)
        assert objective(name, retain_weight=0.5).rows == ("forget", "retain")


def test_numbers_of_the_loss_do_not_recompile():
    section = TrainConfig(steps=2, batch_size=4, seq_len=16)
    plans = []
    for number in (0.1, 4.5):
        made = job(objective("simnpo", beta=number, margin=number, retain_weight=number), adapter(), section)
        train(made, tiny.params(), tiny.CONFIG, "jit")
        plans.append(made.plan(tiny.CONFIG))
    assert plans[0] == plans[1]
    assert compiled_step(plans[0], "jit", 4)._cache_size() == 1
    assert job(objective("simnpo", retain_weight=0.0), adapter(), section, False).plan(tiny.CONFIG) != plans[0]


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [("gradient_ascent", "adamw"), ("grad_diff", "sophia"), ("npo", "adamw"), ("simnpo", "adamw")],
)
def test_training_raises_the_forget_loss_and_holds_the_retain_loss(method, optimizer):
    lines = []
    start = init_adapter(jax.random.key(0), tiny.CONFIG, 3, ["q", "v", "down"])
    numbers = {name: value for name, value in (("retain_weight", 2.0), ("beta", 0.1)) if name in NUMBERS[method]}
    chosen = objective(method, **numbers)
    section = TrainConfig(steps=30, batch_size=8, seq_len=16, learning_rate=5e-3)
    made = job(chosen, start, section, "retain" in chosen.rows, optimizer=optimizer, log=lambda s, v: lines.append(v))
    train(made, tiny.params(), tiny.CONFIG)
    assert len(lines) == 30
    assert lines[-1]["forget_nll/forget"] > lines[0]["forget_nll/forget"] + 0.05
    if "retain" in chosen.rows:
        assert lines[-1]["retain_nll/forget"] < lines[0]["retain_nll/forget"] + 0.02
    assert ("clipped/forget" in lines[0]) == (optimizer == "sophia")


def test_a_retain_adapter_and_a_constraint_go_with_every_objective():
    """Beside each loss the retain adapter trains as it would beside any other, and the penalty holds both apart."""
    section = TrainConfig(steps=20, batch_size=8, seq_len=16, learning_rate=2e-2)
    start, other = (init_adapter(jax.random.key(i), tiny.CONFIG, 3, ["q", "v", "down"]) for i in range(2))
    for name in ("gradient_ascent", "npo"):
        last = {}
        for weight in (0.0, 5.0):
            made = TrainJob(
                {"forget": start, "retain": other}, {"forget": tiny.rows(1), "retain": tiny.rows(2)}, section, SCALE,
                losses={"forget": objective(name)}, constraint=Constraint(penalty_weight=weight),
                log=lambda step, line, weight=weight, last=last: last.update({weight: line}),
            )  # fmt: skip
            train(made, tiny.params(), tiny.CONFIG)
        assert last[5.0]["penalty"] < 0.5 * last[0.0]["penalty"]
        assert last[0.0]["nll/retain"] == pytest.approx(alone_retain(other, section), rel=1e-4)


def alone_retain(other, section):
    """The last loss of the retain adapter, trained by itself."""
    lines = []
    made = TrainJob({"retain": other}, {"retain": tiny.rows(2)}, section, SCALE, log=lambda s, v: lines.append(v))
    train(made, tiny.params(), tiny.CONFIG)
    return lines[-1]["nll/retain"]


def soul(weights, gradients, rates, decay):
    """OPTML-Group/SOUL's update, with the two differences that our docstring names: a corrected momentum, and the
    curvature of before the step."""
    m, h = np.zeros_like(weights), np.zeros_like(weights)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = 0.9 * (0.9 * m + 0.1 * g) + 0.1 * g  # updated twice
        size = np.minimum(np.abs(m) / (1 - 0.81**t) / (0.04 * 5120 * h + 1e-15), 1)
        weights = weights * (1 - rate * decay) - rate * np.sign(m) * size
        h = 0.95 * h + 0.05 * g**2
        share = np.mean(size >= 1)
    return weights, share


def test_sophia_is_souls_update():
    draw = np.random.default_rng(0)
    weights, gradients = draw.normal(size=40), draw.normal(size=(6, 40)) * np.logspace(-4, 0, 40)
    numbers = hyperparameters(TrainConfig(learning_rate=0.1, weight_decay=0.3, clip=1e9), 1.0, 0.0)
    optimizer = OPTIMIZERS.get("sophia")(numbers, make_schedule(6))
    found = {"w": jnp.asarray(weights, jnp.float32)}
    state = optimizer.init(found)
    for g in gradients:
        updates, state = optimizer.update({"w": jnp.asarray(g, jnp.float32)}, state, found)
        found = {"w": found["w"] + updates["w"]}
    rates = [0.0, *(0.1 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * i / 5))) for i in range(5))]
    expected, share = soul(weights, gradients, rates, 0.3)
    np.testing.assert_allclose(found["w"], expected, rtol=1e-5, atol=1e-5)
    clipped = float(optax.tree.get(state, "clipped"))
    assert 0.2 < share < 0.8 and clipped == pytest.approx(share)


def test_a_strength_adds_what_forgets_and_subtracts_what_learnt():
    forget, expert = adapter(1), adapter(2)
    trained = {"forget": forget, "expert": expert}
    anti, good = (
        {n: 2.0 * np.asarray(m["a"], np.float64) @ np.asarray(m["b"], np.float64) for n, m in one.items()}
        for one in (forget, expert)
    )
    for method, sign in (("npo", 1.0), ("gradient_ascent", 1.0), ("negate", -1.0)):
        for name, dense in delta_weight(objective(method).change(trained, 0.6, 2.0)).items():
            np.testing.assert_allclose(dense, sign * 0.6 * anti[name], rtol=1e-5, atol=1e-5)
    for name, dense in delta_weight(objective("ext_sub").change(trained, 0.6, 2.0)).items():
        one, two = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (good[name], anti[name]))
        middle = (one + two) / np.linalg.norm(one + two, axis=1, keepdims=True)
        common = np.sum(anti[name] * middle, axis=1, keepdims=True) * middle
        np.testing.assert_allclose(dense, good[name] - 0.6 * (anti[name] - common), rtol=1e-4, atol=1e-4)


def test_a_loss_that_is_not_a_number_names_its_step():
    params = tiny.params()
    params["final_norm"] = params["final_norm"] * jnp.nan
    section = TrainConfig(steps=2, batch_size=4, seq_len=16)
    with pytest.raises(TrainingDiverged, match="the loss of the forget adapter is nan at step 1"):
        train(job(objective("npo", retain_weight=0.0), adapter(), section, False), params, tiny.CONFIG)


@pytest.mark.parametrize(
    ("release", "message"),
    [
        ({"method": "npo"}, "unknown key 'release.method'; it is release.objective now, with release.data"),
        ({"baseline": {"beta": 0.1}}, "unknown key 'release.baseline'; its keys are those of release.objective"),
        ({"retain": {"after": {"steps": 3}}}, "unknown key 'release.retain.after'; it is release.retain.repair now"),
        ({"eta": {"forget": [0.3]}}, "unknown key 'release.eta'; it is release.strength now"),
        (
            {"retain": {"place": "joint+after"}},
            "found .joint.after., which is .joint.repair. now",
        ),
        (
            {"orthogonality": {"weight": 2.0}},
            "'release.orthogonality.weight'; it is release.orthogonality.penalty_weight",
        ),
        ({"objective": "task_vector"}, "there is no objective 'task_vector'; it is negate with release.data=true now"),
        ({"objective": "alu_like"}, "'alu_like'; it is evaluate.guard=oracle_watcher now"),
        (
            {"objective": {"name": "npo", "beta": 0.0}},
            "release.objective.beta: found 0.0, input should be greater than 0",
        ),
        ({"objective": {"name": "grad_diff", "beta": 0.1}}, "unknown key 'release.objective.beta'"),
        ({"objective": {"name": "npo", "sequence": "max"}}, "release.objective.sequence: found 'max'"),
        ({"optimizer": "lion"}, "there is no optimizer 'lion'; expected one of adamw, sophia"),
        ({"data": "stolen"}, "release.data: found 'stolen'"),
    ],
)
def test_old_and_bad_keys_are_one_line(tmp_path, release, message):
    tree = tiny.run_config(tmp_path / "run", "none")
    tree["release"] |= release
    with pytest.raises(ValueError, match=message) as caught:
        parse_config(tree)
    assert "\n" not in str(caught.value)


def test_a_run_that_only_reveals_needs_a_source_that_does(tmp_path):
    tree = tiny.run_config(tmp_path / "run", "none", rounds=1, until="reveal")
    tree["release"] |= {"data": "true"}
    with pytest.raises(ValueError, match="until is 'reveal', but release.data 'true' reveals nothing"):
        parse_config(tree)
