"""Measures forgetting by functional transforms: how adapters interfere, and the loss over their strengths."""

from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.dynamics.interference import gradient_cosine, output_ratio, overlaps
    from rr_jax.dynamics.surface import loss_surface

__all__ = [
    "gradient_cosine",
    "loss_surface",
    "output_ratio",
    "overlaps",
]
__getattr__, __dir__ = names_of(__name__, __file__)
