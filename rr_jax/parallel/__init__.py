"""One train step on one device or many: collectives that also work on none, and the drivers that supply the axis."""

from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.parallel.collectives import total, varying
    from rr_jax.parallel.wrap import as_jit, as_pmap, as_shard_map, choose_driver, limit_in_flight, replicate

__all__ = [
    "as_jit",
    "as_pmap",
    "as_shard_map",
    "choose_driver",
    "limit_in_flight",
    "replicate",
    "total",
    "varying",
]
__getattr__, __dir__ = names_of(__name__, __file__)
