"""Three drivers of one pure step: `jit` on one device, data-parallel `pmap`, and `shard_map`. They are interchangeable.

A step is `step(state, frozen, batch, *, axis_name=None) -> (state, metrics)`. It must return the same state and metrics on
every device (use `rr_jax.parallel.collectives`). Every driver turns it into `run(state, frozen, batch)` that takes the
same batch, leaves [B, ...], and gives the same numbers. This file never knows what the step computes.

The state is donated: its buffers are reused for the new state, so the old one must not be read again.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"
Tree = TypeVar("Tree")
Run = Callable[[Any, Any, Any], tuple[Any, Any]]


class Step(Protocol):
    """Stands for what a driver drives; `axis_name` is the device axis to reduce over, or None."""

    def __call__(self, state: Any, frozen: Any, batch: Any, *, axis_name: str | None = None) -> tuple[Any, Any]: ...


def as_jit(step: Step) -> Run:
    """Compiles the step on the whole batch; arrays sharded over a mesh keep their sharding."""
    return jax.jit(partial(step, axis_name=None), donate_argnums=0)


def as_pmap(step: Step, devices: Sequence[jax.Device] | None = None) -> Run:
    """Runs the step on equal parts of the batch, one a device (default: all local ones); state and frozen are
    replicated.

    Raises (when called):
      ValueError: if the batch size is not a multiple of the number of devices.
    """
    count = len(devices) if devices is not None else jax.local_device_count()
    mapped = jax.pmap(
        partial(step, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        devices=devices,
        donate_argnums=0,
    )

    def run(state: Any, frozen: Any, batch: Any) -> tuple[Any, Any]:
        per_device = _check_batch(batch, count) // count
        return mapped(state, frozen, jax.tree.map(lambda x: x.reshape(count, per_device, *x.shape[1:]), batch))

    return run


def as_shard_map(step: Step, mesh: Mesh | None = None) -> Run:
    """Runs the step on equal parts of the batch over the mesh's "data" axis (default: all local devices on that one
    axis).

    Raises:
      ValueError: if the mesh has no "data" axis or, when called, if the batch size is not a multiple of that axis.
    """
    mesh = mesh if mesh is not None else _data_mesh(jax.local_devices())
    if AXIS not in mesh.shape:
        raise ValueError(f"the mesh has axes {mesh.axis_names}, expected one called {AXIS!r}")
    mapped = jax.jit(
        jax.shard_map(partial(step, axis_name=AXIS), mesh=mesh, in_specs=(P(), P(), P(AXIS)), out_specs=(P(), P())),
        donate_argnums=0,
    )
    replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))

    def run(state: Any, frozen: Any, batch: Any) -> tuple[Any, Any]:
        _check_batch(batch, mesh.shape[AXIS])
        # arrays that already lie right are passed through; those committed to one device would be refused
        state, frozen = jax.device_put((state, frozen), replicated)
        return mapped(state, frozen, jax.device_put(batch, split))

    return run


DRIVERS: dict[str, Callable[[Step], Run]] = {"jit": as_jit, "pmap": as_pmap, "shard_map": as_shard_map}


def choose_driver(mode: str, batch_size: int) -> Callable[[Step], Run]:
    """Returns the driver called `mode`; for "auto" `pmap` if there are several local devices that divide the batch,
    else `jit`.

    Raises:
      ValueError: for an unknown mode.
    """
    if mode == "auto":
        count = jax.local_device_count()
        mode = "pmap" if count > 1 and batch_size % count == 0 else "jit"
    if mode not in DRIVERS:
        raise ValueError(f"parallel mode is {mode!r}, expected auto, {', '.join(DRIVERS)}")
    return DRIVERS[mode]


def replicate(tree: Tree, devices: Sequence[jax.Device] | None = None) -> Tree:
    """Copies the tree to each device (default: all local ones).

    Do this once with `frozen` before a loop of `pmap` or `shard_map` steps, or every step copies the weights again.
    """
    return jax.device_put(tree, NamedSharding(_data_mesh(devices or jax.local_devices()), P()))


def limit_in_flight(value: Any, pending: deque[Any] | None = None) -> None:
    """Waits so that at most two steps are in flight: call it after each step with the step's metrics.

    Args:
      value: any output of the step except its state, which the next step donates.
      pending: an empty deque the caller keeps for its loop. Without one, and always on CPU (where several unfinished
        multi-device steps can starve each other's collectives until XLA aborts), it waits for `value` itself.
    """
    if pending is None or jax.default_backend() == "cpu":
        jax.block_until_ready(value)
        return
    pending.append(value)
    if len(pending) > 2:
        jax.block_until_ready(pending.popleft())


def _data_mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def _check_batch(batch: Any, count: int) -> int:
    """Returns the batch size, the same for every leaf and a multiple of the number of devices."""
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"batch leaves have leading axes {sorted(sizes)}, expected one batch size")
    ((size,),) = sizes
    if size % count:
        raise ValueError(f"a batch of {size} cannot be split over {count} devices, expected a multiple of {count}")
    return size
