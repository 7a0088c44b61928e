"""Run by test_drivers.py in a process of its own: every driver on several CPU devices, blocking each step.

Usage: drivers_script.py CASE..., each of linear, adapter, a penalty or an objective that forgets. Prints one line of
JSON: for each case the largest relative difference of its final parameters from plain jit on the whole batch, and from a
float64 NumPy AdamW.
"""

import functools
import json
import sys
import warnings

warnings.simplefilter("error")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rr_jax.lora.adapter import init_adapter
from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import token_nll
from rr_jax.models.spec import init_params
from rr_jax.parallel import collectives
from rr_jax.parallel.wrap import DRIVERS, as_pmap, as_shard_map, choose_driver, limit_in_flight, replicate
from rr_jax.release.objectives import OBJECTIVES
from rr_jax.training.config import TrainConfig
from rr_jax.training.constraint import Constraint, References
from rr_jax.training.loop import TrainJob
from rr_jax.training.optimizer import OPTIMIZERS
from rr_jax.training.step import make_step as make_release_step

jax.config.update("jax_numpy_rank_promotion", "raise")
STEPS, BATCH, IN, OUT = 3, 8, 5, 3
RATE, DECAY = 0.1, 0.01
OPTIMIZERS.register("sgd", lambda numbers, schedule: optax.sgd(numbers.learning_rate))


def make_step(loss, optimizer):
    """An AdamW step on `loss(params, frozen, batch) -> (sum, weight)`, the mean taken over all devices."""

    def step(state, frozen, batch, *, axis_name=None):
        def local_sum(params):
            return loss(params, frozen, batch)

        params = collectives.varying(state["params"], axis_name)
        (value, weight), gradient = jax.value_and_grad(local_sum, has_aux=True)(params)
        value, gradient, weight = collectives.total((value, gradient, weight), axis_name)
        value, gradient = jax.tree.map(lambda leaf: leaf / weight, (value, gradient))
        updates, moments = optimizer.update(gradient, state["moments"], state["params"])
        state = {"params": optax.apply_updates(state["params"], updates), "moments": moments}
        return state, {"loss": value, "weight": weight}

    return step


def train(run, params, frozen, batches, optimizer):
    params = jax.tree.map(jnp.array, params)  # a copy: the state is donated
    state = {"params": params, "moments": optimizer.init(params)}
    losses = []
    for batch in batches:
        state, metrics = run(state, frozen, batch)
        limit_in_flight((state, metrics))
        losses.append(float(metrics["loss"]))
    return jax.tree.map(np.asarray, state["params"]), np.array(losses)


def distance(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    # an array of zeros, such as a share that is none, is compared as it is
    return max(float(np.max(np.abs(x - y)) / (np.max(np.abs(y)) or 1.0)) for x, y in pairs)


def linear_loss(params, frozen, batch):
    """Weighted squared error of tokens x [B, S, IN], with a frozen feature scale."""
    predicted = (batch["x"] * frozen[None, None, :]) @ params["w"] + params["b"][None, None, :]
    return jnp.sum(batch["weights"] * jnp.sum((predicted - batch["y"]) ** 2, axis=-1)), jnp.sum(batch["weights"])


def linear_problem():
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(IN, OUT)).astype(np.float32), "b": rng.normal(size=OUT).astype(np.float32)}
    batches = []
    for _ in range(STEPS):
        weights = rng.uniform(size=(BATCH, 4)).astype(np.float32) * np.arange(BATCH, dtype=np.float32)[:, None] ** 2
        weights[:3] = 0  # the first of four devices sees no weight at all
        x, y = (rng.normal(size=(BATCH, 4, size)).astype(np.float32) for size in (IN, OUT))
        batches.append({"x": x, "y": y * (1 + np.arange(BATCH, dtype=np.float32)[:, None, None]), "weights": weights})
    return params, rng.uniform(0.5, 1.5, size=IN).astype(np.float32), batches


def numpy_adamw(params, scale, batches):
    """The same three steps by hand in float64 (Loshchilov & Hutter 2019)."""
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    first = {name: np.zeros_like(value) for name, value in params.items()}
    second = {name: np.zeros_like(value) for name, value in params.items()}
    for t, batch in enumerate(batches, start=1):
        x, y, weights = (np.asarray(batch[k], np.float64) for k in ("x", "y", "weights"))
        features = x * scale
        slope = 2 * weights[..., None] * (features @ params["w"] + params["b"] - y) / weights.sum()
        gradient = {"w": np.einsum("bsi,bso->io", features, slope), "b": slope.sum((0, 1))}
        for name, g in gradient.items():
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            step = (first[name] / (1 - 0.9**t)) / (np.sqrt(second[name] / (1 - 0.999**t)) + 1e-8)
            params[name] = params[name] - RATE * (step + DECAY * params[name])
    return params


def linear_cases(report):
    params, frozen, batches = linear_problem()
    optimizer = optax.adamw(RATE, weight_decay=DECAY)
    step = make_step(linear_loss, optimizer)
    reference = numpy_adamw(params, frozen, batches)
    two = jax.devices()[:2]
    runs = {name: driver(step) for name, driver in DRIVERS.items()}
    runs["auto"] = choose_driver("auto", BATCH)(step)
    runs["pmap on two"] = as_pmap(step, two)
    runs["shard_map on two"] = as_shard_map(
        step, jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,), devices=two)
    )
    expected, expected_losses = train(runs["jit"], params, frozen, batches, optimizer)
    for name, run in runs.items():
        found, losses = train(run, params, frozen, batches, optimizer)
        report[name] = {
            "jit": max(distance(found, expected), distance(losses, expected_losses)),
            "numpy": distance(found, reference),
        }
    placed = replicate(frozen)
    assert len(placed.sharding.device_set) == jax.local_device_count()
    for name in ("pmap", "shard_map"):
        found, _ = train(runs[name], params, placed, batches, optimizer)
        report[f"{name}, frozen placed once"] = {"jit": distance(found, expected), "numpy": distance(found, reference)}


def adapter_cases(report):
    """The real forward pass and loss with a LoRA adapter; SGD, since Adam divides rounding by rounding at the start."""
    config = ModelConfig(
        family="llama", vocab_size=11, embed_dim=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4,
        ffn_dim=12, norm_eps=1e-5, rope_theta=100.0,
    )  # fmt: skip
    base = jax.tree.map(lambda w: 5 * w if w.ndim > 2 else w, init_params(jax.random.key(0), config))
    adapter = init_adapter(jax.random.key(1), config, 2, ("q", "v", "down"))
    rng = np.random.default_rng(2)
    batches = [
        {
            "tokens": rng.integers(0, 11, (4, 6)).astype(np.int32),
            "segment_ids": np.repeat(np.array([[1, 1, 1, 2, 2, 0]], np.int32), 4, axis=0),
            "weights": rng.uniform(size=(4, 6)).astype(np.float32),
        }
        for _ in range(2)
    ]
    optimizer = optax.sgd(0.5)
    step = make_step(lambda params, frozen, batch: token_nll(frozen, batch, config, adapters=params), optimizer)
    expected, _ = train(DRIVERS["jit"](step), adapter, base, batches, optimizer)
    for name in ("pmap", "shard_map"):
        found, _ = train(DRIVERS[name](step), adapter, base, batches, optimizer)
        report[f"{name}, adapter of a model"] = {"jit": distance(found, expected)}


def release_case(penalty, report):
    """The step that runs train with: two stacked adapters on data of their own, an anchor and a penalty."""
    config = ModelConfig(
        family="llama", vocab_size=11, embed_dim=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4,
        ffn_dim=12, norm_eps=1e-5, rope_theta=100.0,
    )  # fmt: skip
    base = jax.tree.map(lambda w: 5 * w if w.ndim > 2 else w, init_params(jax.random.key(0), config))
    forget, retain, anchor = (init_adapter(jax.random.key(i), config, 2, ("q", "v", "down")) for i in range(3))
    rng = np.random.default_rng(3)
    shape = (8, 2, 6)
    batches = [
        {
            "tokens": rng.integers(0, 11, shape).astype(np.int32),
            "segment_ids": np.broadcast_to(np.array([1, 1, 1, 2, 2, 0], np.int32), shape),
            "weights": (rng.uniform(size=shape) * (np.arange(8)[:, None, None] > 1)).astype(np.float32),
        }
        for _ in range(3)
    ]
    job = TrainJob(
        {"forget": forget, "retain": retain}, {"forget": None, "retain": None}, TrainConfig(learning_rate=0.3), 2.0,
        constraint=Constraint(penalty=penalty, penalty_weight=0.7), references=References(anchor=anchor),
        optimizer="sgd",
    )  # fmt: skip
    compare(report, f"release step, {penalty}", job, base, config, batches)


def compare(report, case, job, base, config, batches):
    """Notes how far the drivers end from plain jit."""
    plan, frozen, ends = job.plan(config), job.frozen(base), {}
    step = make_release_step(plan)
    for name, driver in DRIVERS.items():
        run, state = driver(step), plan.init_state(list(job.adapters.values()), frozen)
        values = []
        for batch in batches:
            state, metrics = run(state, frozen, batch)
            limit_in_flight((state, metrics))
            values.append(jax.device_get(metrics))
        ends[name] = (jax.device_get(state.adapters), values)
    for name in ("pmap", "shard_map"):
        report[f"{name}, {case}"] = {"jit": distance(ends[name], ends["jit"])}


OBJECTIVE_SETTINGS = {
    "grad_diff": {"retain_weight": 0.7},
    "npo": {"retain_weight": 0.7, "beta": 0.5},
    "simnpo": {"retain_weight": 0.7, "beta": 0.5, "margin": 0.2},
}


def objective_case(objective, report):
    """The step of a loss that forgets: sequences unevenly many on the devices, and on one of them none. SGD, as above."""
    config = ModelConfig(
        family="llama", vocab_size=11, embed_dim=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4,
        ffn_dim=12, norm_eps=1e-5, rope_theta=100.0,
    )  # fmt: skip
    base = jax.tree.map(lambda w: 5 * w if w.ndim > 2 else w, init_params(jax.random.key(0), config))
    adapter = init_adapter(jax.random.key(1), config, 2, ("q", "v", "down"))
    rng = np.random.default_rng(4)
    shape = (8, 2, 6)
    segments = np.where(np.arange(8)[:, None, None] % 3, [1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 3, 3])
    batches = [
        {
            "tokens": rng.integers(0, 11, shape).astype(np.int32),
            "segment_ids": np.broadcast_to(segments, shape).astype(np.int32),
            "weights": (rng.uniform(size=shape) * (np.arange(8)[:, None, None] > 1)).astype(np.float32),
        }
        for _ in range(3)
    ]
    made = OBJECTIVES.get(objective)(name=objective, **OBJECTIVE_SETTINGS[objective])
    section = TrainConfig(steps=3, learning_rate=0.3)
    job = TrainJob(
        {"forget": adapter}, {"forget": None, "retain": None}, section, 2.0, losses={"forget": made}, optimizer="sgd"
    )
    compare(report, f"objective step, {objective}", job, base, config, batches)


CASES = (
    {"linear": linear_cases, "adapter": adapter_cases}
    | {penalty: functools.partial(release_case, penalty) for penalty in ("normalized", "olora")}
    | {objective: functools.partial(objective_case, objective) for objective in OBJECTIVE_SETTINGS}
)

if __name__ == "__main__":
    report: dict = {"devices": jax.local_device_count(), "cases": {}}
    for case in sys.argv[1:]:
        CASES[case](report["cases"])
    print(json.dumps(report))
