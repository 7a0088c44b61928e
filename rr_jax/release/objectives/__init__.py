"""What the forget adapter is trained towards, one file an objective, by name."""

from rr_jax.registry import Registry, subclass_of
from rr_jax.release.objectives.base import Objective

_HERE = "rr_jax.release.objectives"
OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective",
    {
        "negate": f"{_HERE}.negate:Negate",
        "gradient_ascent": f"{_HERE}.gradient_ascent:GradientAscent",
        "grad_diff": f"{_HERE}.grad_diff:GradDiff",
        "npo": f"{_HERE}.npo:NPO",
        "simnpo": f"{_HERE}.simnpo:SimNPO",
        "ext_sub": f"{_HERE}.ext_sub:ExtSub",
    },
    adapt=subclass_of(Objective, "objective"),
)

__all__ = ["OBJECTIVES", "Objective"]
