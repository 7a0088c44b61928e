"""Losses of the baselines against float64 formulas of each sequence alone, Sophia against SOUL's, and their data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rr_jax.lora.adapter import init_adapter, scale_adapter
from rr_jax.lora.algebra import delta_weight
from rr_jax.models.decoder import forward
from rr_jax.release.baseline_trainer import train_baseline
from rr_jax.release.baselines import Given, make_baseline_optimizer, make_baseline_step, uses_retain, with_strength
from rr_jax.runs.config_file import parse_config
from rr_jax.training.config import TrainConfig
from rr_jax.training.loop import TrainingDiverged
from rr_jax.training.step import TrainState
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


@pytest.mark.parametrize(
    ("method", "sequence"),
    [("gradient_ascent", "sum"), ("grad_diff", "sum"), ("npo", "sum"), ("npo", "mean"), ("simnpo", "sum")],
)
def test_each_loss_is_its_formula(method, sequence):
    params, forget, retain, start = tiny.params(), tiny.rows(1), tiny.rows(2), adapter()
    optimizer = make_baseline_optimizer("adamw", 4, 1e-2, 0.0, 1.0)
    step = jax.jit(make_baseline_step(tiny.CONFIG, optimizer, scale=SCALE, method=method, sequence=sequence))
    state = TrainState(start, optimizer.init(start), jnp.zeros((), jnp.int32))
    frozen = Given(params, *map(jnp.float32, (WEIGHT, BETA, MARGIN)))
    added = scale_adapter(start, SCALE)
    plain = expected_loss(method, sequence, params, forget, added)
    _, without = step(state, frozen, batch(forget))
    np.testing.assert_allclose(without["loss"], plain, rtol=1e-5)
    assert "retain_nll" not in without
    _, both = step(state, frozen, batch(forget, retain))
    nll, weight = sequences(params, retain, added)
    np.testing.assert_allclose(both["retain_nll"], nll.sum() / weight.sum(), rtol=1e-5)
    np.testing.assert_allclose(both["loss"], plain + WEIGHT * nll.sum() / weight.sum(), rtol=1e-5)
    nll, weight = sequences(params, forget, added)
    np.testing.assert_allclose(both["forget_nll"], nll.sum() / weight.sum(), rtol=1e-5)


def test_numbers_of_the_loss_do_not_recompile():
    optimizer, start = make_baseline_optimizer("adamw", 4, 1e-2, 0.0, 1.0), adapter()
    step = jax.jit(make_baseline_step(tiny.CONFIG, optimizer, scale=SCALE, method="simnpo"))
    state = TrainState(start, optimizer.init(start), jnp.zeros((), jnp.int32))
    for beta in (0.1, 4.5):
        step(state, Given(tiny.params(), *map(jnp.float32, (beta, beta, beta))), batch(tiny.rows(1), tiny.rows(2)))
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [("gradient_ascent", "adamw"), ("grad_diff", "sophia"), ("npo", "adamw"), ("simnpo", "adamw")],
)
def test_training_raises_the_forget_loss_and_holds_the_retain_loss(method, optimizer):
    lines = []
    start = init_adapter(jax.random.key(0), tiny.CONFIG, 3, ["q", "v", "down"])
    train_baseline(
        start, tiny.params(), tiny.rows(1), tiny.rows(2) if uses_retain(method, 2.0) else None, tiny.CONFIG,
        TrainConfig(steps=30, batch_size=8, seq_len=16, learning_rate=5e-3), scale=SCALE, method=method,
        optimizer=optimizer, sequence="sum", retain_weight=2.0, beta=0.1, margin=0.0,
        log=lambda step, values: lines.append(values),
    )  # fmt: skip
    assert len(lines) == 30
    assert lines[-1]["forget_nll"] > lines[0]["forget_nll"] + 0.05
    if uses_retain(method, 2.0):
        assert lines[-1]["retain_nll"] < lines[0]["retain_nll"] + 0.02
    assert ("clipped" in lines[0]) == (optimizer == "sophia")


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
    optimizer = make_baseline_optimizer("sophia", 6, 0.1, 0.3, 1e9)
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


def test_a_strength_adds_a_loss_and_subtracts_a_task_vector():
    forget, expert = adapter(1), adapter(2)
    trained = {"forget": forget, "retain": expert}
    anti, good = (
        {n: 2.0 * np.asarray(m["a"], np.float64) @ np.asarray(m["b"], np.float64) for n, m in one.items()}
        for one in (forget, expert)
    )
    for method, sign in (("npo", 1.0), ("gradient_ascent", 1.0), ("task_vector", -1.0)):
        for name, dense in delta_weight(with_strength(method, trained, 0.6, 2.0)).items():
            np.testing.assert_allclose(dense, sign * 0.6 * anti[name], rtol=1e-5, atol=1e-5)
    for name, dense in delta_weight(with_strength("ext_sub", trained, 0.6, 2.0)).items():
        one, two = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (good[name], anti[name]))
        middle = (one + two) / np.linalg.norm(one + two, axis=1, keepdims=True)
        common = np.sum(anti[name] * middle, axis=1, keepdims=True) * middle
        np.testing.assert_allclose(dense, good[name] - 0.6 * (anti[name] - common), rtol=1e-4, atol=1e-4)


def test_a_loss_that_is_not_a_number_names_method_and_step():
    params = tiny.params()
    params["final_norm"] = params["final_norm"] * jnp.nan
    with pytest.raises(TrainingDiverged, match="the loss of npo is nan at step 1"):
        train_baseline(
            adapter(), params, tiny.rows(1), None, tiny.CONFIG, TrainConfig(steps=2, batch_size=4, seq_len=16),
            scale=SCALE, method="npo", optimizer="adamw", sequence="sum", retain_weight=0.0, beta=0.1, margin=0.0,
        )  # fmt: skip


def test_unknown_names_are_refused():
    optimizer = make_baseline_optimizer("adamw", 4, 1e-2, 0.0, 1.0)
    with pytest.raises(ValueError, match="baseline loss is 'task_vector', expected gradient_ascent, grad_diff, npo"):
        make_baseline_step(tiny.CONFIG, optimizer, scale=1.0, method="task_vector")
    with pytest.raises(ValueError, match="sequence is 'max', expected 'sum' or 'mean'"):
        make_baseline_step(tiny.CONFIG, optimizer, scale=1.0, method="npo", sequence="max")
    with pytest.raises(ValueError, match="optimizer is 'lion', expected 'adamw' or 'sophia'"):
        make_baseline_optimizer("lion", 4, 1e-2, 0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "npo", "retain": {"place": "joint"}}, "retain.place is 'joint', but method 'npo' trains no retain"),
        ({"method": "npo"}, "rounds is 2, but release.method 'npo' has one: give rounds=1"),
        (
            {"method": "grad_diff", "baseline": {"retain_weight": 0.0}},
            "baseline.retain_weight is 0, but grad_diff needs retain data; gradient_ascent goes without",
        ),
    ],
)
def test_what_a_baseline_cannot_do_is_one_line(tmp_path, changes, message):
    tree = tiny.run_config(tmp_path / "run", "none")
    tree["release"] |= {"retain": {"place": "none"}} | changes
    with pytest.raises(ValueError, match=message) as caught:
        parse_config(tree)
    assert "\n" not in str(caught.value)
    tree = tiny.run_config(tmp_path / "run", "none", rounds=1, until="reveal")
    tree["release"] |= {"method": "npo", "retain": {"place": "none"}}
    with pytest.raises(ValueError, match="until is 'reveal', but release.method 'npo' reveals nothing"):
        parse_config(tree)
