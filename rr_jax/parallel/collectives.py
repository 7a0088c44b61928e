"""Sums and means over a named device axis, which are identities when there is none (`axis_name=None`).

A step written with these runs unchanged under `jit`, `pmap` and `shard_map`. The recipe that gives the same gradients in
all three: make the trained parameters `varying`, differentiate the local *sum* of the loss, and divide by the global
weight with `weighted_mean`. This file never knows which driver runs it.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

Tree = TypeVar("Tree")


def varying(tree: Tree, axis_name: str | None) -> Tree:
    """The same values, marked as differing between devices, so that a gradient with respect to them stays local.

    Without it `shard_map` sums gradients of replicated inputs over devices by itself, and `pmap` does not.
    """
    if axis_name is None:
        return tree
    return jax.tree.map(lambda leaf: lax.pcast(leaf, axis_name, to="varying"), tree)


def total(tree: Tree, axis_name: str | None) -> Tree:
    """The sum of every leaf over devices."""
    return tree if axis_name is None else lax.psum(tree, axis_name)


def mean(tree: Tree, axis_name: str | None) -> Tree:
    """The mean of every leaf over devices; for shards of unequal weight use `weighted_mean`."""
    return tree if axis_name is None else lax.pmean(tree, axis_name)


def weighted_mean(sums: Tree, count: jax.Array, axis_name: str | None) -> Tree:
    """Global sums over global count: psum(sums) / psum(count), not a mean of means. Zeros where the count is 0.

    Args:
      sums: a tree of local sums, such as a summed loss and its gradients.
      count: the local weight, a scalar, at least 0.
      axis_name: the device axis, or None.
    """
    sums, count = total((sums, count), axis_name)
    some = count > 0
    divisor = jnp.where(some, count, 1)
    return jax.tree.map(lambda leaf: jnp.where(some, leaf / divisor, 0), sums)
