"""Where the retain adapter stands: three independent properties of a place, found by name or as a plug-in."""

import dataclasses
from typing import Any

from rr_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Place:
    """Says what a place of the retain adapter means.

    Attributes:
      trains_beside: it is trained with the forget adapter, in the same step.
      adds_beside: that one is added to the weights.
      repairs: a repair adapter is trained on the changed weights and added.

    Raises:
      ValueError: an adapter would be added that nobody trains.
    """

    trains_beside: bool
    adds_beside: bool
    repairs: bool

    def __post_init__(self) -> None:
        """Refuses what is no place."""
        if self.adds_beside and not self.trains_beside:
            raise ValueError("adds_beside adds an adapter that is trained beside: expected trains_beside=True with it")

    @property
    def adds(self) -> bool:
        """Returns whether any retain adapter is added."""
        return self.adds_beside or self.repairs

    @property
    def exists(self) -> bool:
        """Returns whether there is any retain adapter to be held apart from."""
        return self.trains_beside or self.repairs


def _place(found: Any) -> Place:
    if not isinstance(found, Place):
        raise ValueError(f"is a {type(found).__name__}, expected a rr_jax.release.Place")
    return found


JOINT = Place(trains_beside=True, adds_beside=True, repairs=False)
ANCHOR = Place(trains_beside=True, adds_beside=False, repairs=False)
REPAIR = Place(trains_beside=False, adds_beside=False, repairs=True)
JOINT_REPAIR = Place(trains_beside=True, adds_beside=True, repairs=True)
NONE = Place(trains_beside=False, adds_beside=False, repairs=False)
_NAMES = {"joint": "JOINT", "anchor": "ANCHOR", "repair": "REPAIR", "joint+repair": "JOINT_REPAIR", "none": "NONE"}
PLACES: Registry[Place] = Registry(
    "place", {name: f"{__name__}:{value}" for name, value in _NAMES.items()}, adapt=_place
)
