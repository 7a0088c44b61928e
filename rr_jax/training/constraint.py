"""What holds the forget adapter apart: from the retain adapter, from an anchor, from what retain data makes the model read.

A constraint is one value: a penalty with its weight, a projection, and what they look at. Every rule about constraints
stands here once. Knows adapters and directions; never methods, tasks or rounds.

Axes: J adapters in a stack, L layers, R rank, K directions.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from pydantic import NonNegativeFloat, PositiveInt

from rr_jax.lora import orthogonality
from rr_jax.lora.activations import Directions
from rr_jax.lora.adapter import stack_adapters, unstack_adapter
from rr_jax.models.spec import Adapter
from rr_jax.registry import Registry, function_of, known
from rr_jax.section import Section

NONE = "none"  # the penalty and the projection that are not there
LooksAt = Literal["pair", "activations"]


@dataclasses.dataclass(frozen=True)
class Penalty:
    """Defines one way to measure how far an adapter works where it must not.

    Attributes:
      value: of (adapter, other adapter), or of (adapter, directions) where it looks at activations; a scalar.
      looks_at: another adapter ("pair"), or the inputs that retain data gives the modules ("activations").
      of_inputs: it is zero wherever the factor A has no part in what it looks at.
      spans: the side of a module whose directions both adapters fill, if it compares subspaces.
    """

    value: Callable[[Adapter, Any], jax.Array]
    looks_at: LooksAt = "pair"
    of_inputs: bool = False
    spans: Literal["inputs", "outputs"] | None = None


@dataclasses.dataclass(frozen=True)
class Projection:
    """Defines one way to move the first adapter, after each step, out of where it must not work.

    Attributes:
      apply: of (adapter, bases) to the adapter, where each of the bases has for some modules the directions [L, in, K]
        that a module must not read; with orthonormal columns or not.
      looks_at: as in `Penalty`; the bases are the A of other adapters ("pair"), or those of activations.
    """

    apply: Callable[[Adapter, list[dict[str, jax.Array]]], Adapter]
    looks_at: LooksAt = "pair"


NORMALIZED = Penalty(orthogonality.normalized_penalty, of_inputs=True)
OLORA = Penalty(orthogonality.olora_penalty, of_inputs=True)
FROBENIUS = Penalty(orthogonality.frobenius_penalty, of_inputs=True)
INPUT_ANGLES = Penalty(orthogonality.input_angles_penalty, of_inputs=True, spans="inputs")
OUTPUT_ANGLES = Penalty(orthogonality.output_angles_penalty, spans="outputs")
UPDATE = Penalty(orthogonality.update_penalty)
ACTIVATIONS = Penalty(orthogonality.activation_penalty, "activations", of_inputs=True, spans="inputs")
COMPLEMENT = Projection(orthogonality.project_out)
NULL_SPACE = Projection(orthogonality.project_out, "activations")


def _penalty(found: Any) -> Penalty:
    """Takes a plain function of two adapters for a penalty that looks at a pair."""
    if isinstance(found, Penalty):
        return found
    if isinstance(found, type):
        raise ValueError("is a class, expected a rr_jax.training.constraint.Penalty or a function (adapter, other)")
    return Penalty(function_of("adapter", "other")(found))


def _projection(found: Any) -> Projection:
    """Takes a plain function of an adapter and bases for a projection that looks at a pair."""
    if isinstance(found, Projection):
        return found
    if isinstance(found, type):
        raise ValueError("is a class, expected a rr_jax.training.constraint.Projection or a function (adapter, bases)")
    return Projection(function_of("adapter", "bases")(found))


_NAMES = ("normalized", "olora", "frobenius", "input_angles", "output_angles", "update", "activations")
PENALTIES: Registry[Penalty] = Registry(
    "penalty", {name: f"{__name__}:{name.upper()}" for name in _NAMES}, adapt=_penalty
)
PROJECTIONS: Registry[Projection] = Registry(
    "projection", {name: f"{__name__}:{name.upper()}" for name in ("complement", "null_space")}, adapt=_projection
)


@flax.struct.dataclass
class References:
    """Holds what a constraint looks at and a step never changes.

    Attributes:
      anchor: an adapter that every constrained adapter is held apart from, or None.
      memory: an adapter that the first of them is held apart from too, such as what earlier rounds forgot, or None.
      directions: of the inputs of each module on data that the first adapter must leave alone, or None.
    """

    anchor: Adapter | None = None
    memory: Adapter | None = None
    directions: dict[str, Directions] | None = None


class Constraint(Section):
    """Holds the forget adapter apart from the retain adapter, or from what the retain data makes the model compute.

    Penalties of the two adapters are the mean |cosine| of their input directions (normalized), O-LoRA's sum as coded
    (olora) or squared as in its paper (frobenius), the principal angles of what they read (input_angles) or write
    (output_angles), and the cosine of the whole updates (update). The penalty of the forget adapter and the activations
    of retain data is how strongly it reads them (activations). A repair adapter is held apart from the forget adapter
    that was subtracted.
    """

    penalty: Annotated[str, known(PENALTIES, NONE)] = "normalized"
    penalty_weight: NonNegativeFloat = 1.0  # lambda
    # After each step the forget adapter's A is moved out of what the retain adapter reads (complement; of a repair it is
    # the repair adapter's A that moves), or of the dominant directions of retain activations (null_space).
    projection: Annotated[str, known(PROJECTIONS, NONE)] = NONE
    directions: PositiveInt = 32  # dominant directions of each module's inputs, for activations and null_space
    memory: bool = False  # forget and repair adapter are held apart from the forget adapters of earlier rounds too

    @property
    def _penalty(self) -> Penalty | None:
        return None if self.penalty == NONE else PENALTIES.get(self.penalty)

    @property
    def _projection(self) -> Projection | None:
        return None if self.projection == NONE else PROJECTIONS.get(self.projection)

    @property
    def _weighted(self) -> Penalty | None:
        """Returns the penalty, unless its weight is 0."""
        return self._penalty if self.penalty_weight > 0 else None

    @property
    def _choices(self) -> list[Penalty | Projection]:
        return [choice for choice in (self._penalty, self._projection) if choice is not None]

    @property
    def needs_directions(self) -> bool:
        """Returns whether something looks at the activations of retain data."""
        return any(choice.looks_at == "activations" for choice in self._choices)

    def acts_on(self, pair: bool) -> bool:
        """Returns whether it has anything to look at, given whether there is another adapter to be held apart from.

        A penalty of weight 0 has: it is measured, and may be stacked with others.
        """
        return any(pair or choice.looks_at == "activations" for choice in self._choices)

    def of_pairs(self) -> "Constraint":
        """Returns the constraint without what looks at activations: those concern what the forget adapter reads."""
        left = {
            name: NONE
            for name, choice in (("penalty", self._penalty), ("projection", self._projection))
            if choice is not None and choice.looks_at == "activations"
        }
        return self.model_copy(update=left)

    def static(self) -> "Constraint":
        """Returns what a step is compiled for: without the weight, which is traced, and what is decided before it."""
        return self.model_copy(update={"penalty_weight": 1.0, "directions": 1, "memory": False})

    def label(self) -> tuple[str, float]:
        """Returns what acts, for a table, and lambda: "none" and 0 where nothing does."""
        names = [self.penalty] * (self._weighted is not None) + [self.projection] * (self._projection is not None)
        return " + ".join(names) or NONE, self.penalty_weight if self._weighted is not None else 0.0

    def value(self, adapters: Sequence[Adapter], references: References) -> jax.Array:
        """Returns the penalty of the constrained adapters, a scalar, not weighted.

        Args:
          adapters: one, or the forget and the retain adapter.

        Raises:
          ValueError: it looks at activations and there are no directions.
        """
        penalty = self._penalty
        if penalty is None:
            return jnp.zeros(())
        if penalty.looks_at == "activations":
            return penalty.value(adapters[0], _directions(references, "penalty"))
        pairs = [(adapters[0], adapters[1])] if len(adapters) == 2 else []
        pairs += [(adapter, references.anchor) for adapter in adapters if references.anchor is not None]
        pairs += [(adapters[0], references.memory)] if references.memory is not None else []
        return sum((penalty.value(one, other) for one, other in pairs), start=jnp.zeros(()))

    def project(self, stack: Adapter, references: References, constrained: int) -> Adapter:
        """Returns the stack [J, ...] with the first adapter's A moved out of directions it must not read.

        Args:
          stack: adapters, the first `constrained` of which (1 or 2) the constraint looks at; the others stay.

        Raises:
          ValueError: it looks at activations and there are no directions.
        """
        projection = self._projection
        if projection is None:
            return stack
        first, *others = unstack_adapter(stack)
        bases = [_inputs(references.memory)] if references.memory is not None else []
        if projection.looks_at == "activations":
            bases.append({name: known.basis for name, known in _directions(references, "projection").items()})
        else:
            apart = [*others[: constrained - 1], references.anchor]
            bases += [_inputs(other) for other in apart if other is not None]
        return stack_adapters([projection.apply(first, bases), *others])

    def check(self, *, pair: bool, rounds: int, key: str = "release.orthogonality") -> None:
        """Refuses a constraint that cannot act: on nothing, or on what is zero already.

        Args:
          pair: whether there is a retain or repair adapter.
          rounds: of the run.
          key: of the section, for messages.

        Raises:
          ValueError: the first thing found.
        """
        for name, choice, instead in (
            ("penalty", self._weighted, "activations"), ("projection", self._projection, "null_space")
        ):  # fmt: skip
            if choice is not None and choice.looks_at == "pair" and not pair:
                raise ValueError(
                    f"{key}.{name} is {getattr(self, name)!r}, but with release.retain.place 'none' there is no retain "
                    f"adapter to be held apart from: give {key}.{name}=none (or {instead})"
                )
        penalty, projection = self._weighted, self._projection
        if self.memory and (rounds == 1 or not (projection or (penalty and penalty.looks_at == "pair"))):
            raise ValueError(
                f"{key}.memory holds apart from earlier rounds by a penalty of two adapters with a weight, or by a "
                f"projection: expected one (found penalty {self.penalty!r} with weight {self.penalty_weight:g}, projection "
                f"{self.projection!r}) and more than one round (found {rounds})"
            )
        if penalty and projection and penalty.of_inputs and penalty.looks_at == projection.looks_at:
            raise ValueError(
                f"{key}.projection {self.projection!r} makes what penalty {self.penalty!r} adds up zero, and its gradient "
                f"rounding noise: give {key}.penalty=none"
            )

    def check_room(
        self,
        rank: int,
        rounds: int,
        shapes: Mapping[str, tuple[int, int]],
        key: str = "release.orthogonality",
    ) -> None:
        """Refuses a constraint that leaves a module no direction.

        Args:
          rank: of the adapters.
          rounds: of the run, whose adapters `memory` keeps.
          shapes: (inputs, outputs) of each adapted module.

        Raises:
          ValueError: names the module.
        """
        own = rank + rank * (rounds - 1) * self.memory
        others = self.directions if self.needs_directions else rank
        penalty, projection = self._weighted, self._projection
        taken = {}
        if projection is not None or self.needs_directions or (penalty is not None and penalty.spans == "inputs"):
            taken["inputs"] = own + others
        if penalty is not None and penalty.spans == "outputs":
            taken["outputs"] = own + rank
        for side, count in taken.items():
            for name, shape in shapes.items():
                width = shape[0] if side == "inputs" else shape[1]
                if count > width:
                    raise ValueError(
                        f"{key}: rank, directions and memory take {count} directions of the {width} {side} of {name!r}: "
                        "none would be left"
                    )


UNCONSTRAINED = Constraint(penalty=NONE, penalty_weight=0.0)


def _directions(references: References, which: str) -> dict[str, Directions]:
    if references.directions is None:
        raise ValueError(f"the {which} looks at activations, but no directions of them are given: it cannot act")
    return references.directions


def _inputs(adapter: Adapter) -> dict[str, jax.Array]:
    """Returns the A of each module."""
    return {name: module["a"] for name, module in adapter.items()}
