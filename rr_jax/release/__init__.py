"""Release: what the forget adapter is trained towards, where the retain adapter stands, how strongly both are applied."""

from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.release.compose import Point, choose_strength, merged_params, next_strength
    from rr_jax.release.config import ReleaseConfig, RetainConfig, StrengthConfig
    from rr_jax.release.data import FORGET_DATA, ForgetData, Request
    from rr_jax.release.objectives import OBJECTIVES, Objective
    from rr_jax.release.pairing import PAIRINGS, training_examples
    from rr_jax.release.retain import PLACES, Place

__all__ = [
    "FORGET_DATA",
    "OBJECTIVES",
    "PAIRINGS",
    "PLACES",
    "ForgetData",
    "Objective",
    "Place",
    "Point",
    "ReleaseConfig",
    "Request",
    "RetainConfig",
    "StrengthConfig",
    "choose_strength",
    "merged_params",
    "next_strength",
    "training_examples",
]
__getattr__, __dir__ = names_of(__name__, __file__)
