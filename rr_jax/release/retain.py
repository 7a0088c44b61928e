"""Where the retain adapter stands: three independent properties of a place, by name."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Place:
    """What a place of the retain adapter means.

    Attributes:
      trains_beside: it is trained with the forget adapter, in the same step.
      adds_beside: that one is added to the weights.
      repairs: a repair adapter is trained on the changed weights and added.
    """

    trains_beside: bool
    adds_beside: bool
    repairs: bool

    @property
    def adds(self) -> bool:
        """Returns whether any retain adapter is added."""
        return self.adds_beside or self.repairs

    @property
    def exists(self) -> bool:
        """Returns whether there is any retain adapter to be held apart from."""
        return self.trains_beside or self.repairs


PLACES: dict[str, Place] = {
    "joint": Place(trains_beside=True, adds_beside=True, repairs=False),
    "anchor": Place(trains_beside=True, adds_beside=False, repairs=False),
    "repair": Place(trains_beside=False, adds_beside=False, repairs=True),
    "joint+repair": Place(trains_beside=True, adds_beside=True, repairs=True),
    "none": Place(trains_beside=False, adds_beside=False, repairs=False),
}
