"""Sums over a named device axis, which are identities when there is none (`axis_name=None`).

A step written with these runs unchanged under `jit`, `pmap` and `shard_map`. The recipe that gives the same gradients in
all three: make the trained parameters `varying`, differentiate the local *sum* of the loss, take the `total` of the sums
and of their weight, and divide (a mean of means would be wrong where shards weigh differently). This file never knows
which driver runs it.
"""

from typing import TypeVar

import jax
from jax import lax

Tree = TypeVar("Tree")


def varying(tree: Tree, axis_name: str | None) -> Tree:
    """Marks values as differing between devices, so that a gradient with respect to them stays local.

    Without it `shard_map` sums gradients of replicated inputs over devices by itself, and `pmap` does not.
    """
    if axis_name is None:
        return tree
    return jax.tree.map(lambda leaf: lax.pcast(leaf, axis_name, to="varying"), tree)


def total(tree: Tree, axis_name: str | None) -> Tree:
    """Returns the sum of every leaf over devices."""
    return tree if axis_name is None else lax.psum(tree, axis_name)
