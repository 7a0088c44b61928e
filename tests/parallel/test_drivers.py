"""The drivers: one step, the same parameters under jit, pmap and shard_map."""

import json
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.parallel.wrap import DRIVERS, as_jit, as_pmap, as_shard_map, choose_driver, limit_in_flight

SCRIPT = Path(__file__).with_name("drivers_script.py")


def report_of(*cases):
    """What the script says of its cases, on four devices."""
    root = SCRIPT.parents[2]
    environment = dict(os.environ)
    environment["JAX_PLATFORMS"] = "cpu"
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), environment.get("PYTHONPATH"))))
    command = [sys.executable, str(SCRIPT), *cases]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired as stuck:
        pytest.fail(f"{SCRIPT.name} did not finish in {stuck.timeout} s:\n{stuck.stdout}\n{stuck.stderr}")
    assert done.returncode == 0, f"{SCRIPT.name} failed:\n{done.stdout}\n{done.stderr}"
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["devices"] == 4
    for case, distances in report["cases"].items():
        assert distances["jit"] <= 1e-6, f"{case}: {distances}"
        assert distances.get("numpy", 0.0) <= 1e-5, f"{case}: {distances}"
    return report["cases"]


def test_all_drivers_give_the_same_parameters_on_four_devices():
    """Three AdamW steps, token weights uneven over devices and zero on one of them; and the steps that runs train with."""
    cases = report_of("linear", "normalized", "npo")
    assert {"jit", "pmap", "shard_map", "auto", "pmap on two", "shard_map on two"} <= cases.keys()
    assert sum("release step" in case for case in cases) == 2
    assert sum("objective step" in case for case in cases) == 2


@pytest.mark.slow
def test_all_drivers_give_the_same_parameters_with_other_steps():
    cases = report_of("adapter", "olora", "grad_diff", "simnpo")
    assert len(cases) == 8


def count_rows(state, frozen, batch, *, axis_name=None):
    return state + frozen, {"rows": jnp.asarray(batch["x"].shape[0]), "axis": jnp.asarray(axis_name is not None)}


@pytest.mark.parametrize("name", DRIVERS)
def test_drivers_share_one_signature(name):
    state, metrics = DRIVERS[name](count_rows)(jnp.ones(2), jnp.ones(2), {"x": np.zeros((6, 3))})
    np.testing.assert_array_equal(state, [2.0, 2.0])
    assert metrics["axis"] == (name != "jit")
    assert metrics["rows"] == 6 // (1 if name == "jit" else jax.local_device_count())


@pytest.mark.parametrize("driver", [as_pmap, as_shard_map])
def test_leaves_must_agree_on_the_batch_size(driver):
    run = driver(count_rows)
    for batch in ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, {"x": np.zeros((4, 2)), "y": np.float32(0)}):
        with pytest.raises(ValueError, match="batch leaves have leading axes"):
            run(jnp.ones(2), jnp.ones(2), batch)


def test_a_batch_that_cannot_be_split_names_both_numbers():
    three = jax.sharding.AbstractMesh((3,), ("data",))
    with pytest.raises(ValueError, match="batch of 4 cannot be split over 3 devices"):
        as_shard_map(count_rows, three)(jnp.ones(2), jnp.ones(2), {"x": np.zeros((4, 2))})
    with pytest.raises(ValueError, match="batch of 4 cannot be split over 3 devices"):
        as_pmap(count_rows, jax.devices()[:1] * 3)(jnp.ones(2), jnp.ones(2), {"x": np.zeros((4, 2))})


def test_a_mesh_needs_a_data_axis():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("model",))
    with pytest.raises(ValueError, match=r"axes \('model',\), expected one called 'data'"):
        as_shard_map(count_rows, mesh)


def test_choosing_a_driver(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    assert choose_driver("auto", 8) is as_jit
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    assert choose_driver("auto", 8) is as_pmap
    assert choose_driver("auto", 6) is as_jit
    assert choose_driver("shard_map", 6) is as_shard_map
    with pytest.raises(ValueError, match="'ddp', expected auto, jit, pmap, shard_map"):
        choose_driver("ddp", 8)


def test_at_most_two_steps_are_in_flight(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    pending: deque = deque()
    for step in range(3):
        limit_in_flight(step, pending)
    assert waited == [0, 1, 2]  # on CPU: every step
    waited.clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    for step in range(5):
        limit_in_flight(step, pending)
    assert waited == [0, 1, 2]
    assert list(pending) == [3, 4]
    waited.clear()
    limit_in_flight("alone")
    assert waited == ["alone"]
