"""A training loop that knows adapters, packed rows and constraints, and no method, task or file."""

from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.training.config import TrainConfig
    from rr_jax.training.constraint import PENALTIES, PROJECTIONS, Constraint, Penalty, Projection, References
    from rr_jax.training.loop import TrainingDiverged, TrainJob, train
    from rr_jax.training.loss import Likelihood, Loss, Term
    from rr_jax.training.optimizer import OPTIMIZERS
    from rr_jax.training.stacked import train_stacked
    from rr_jax.training.step import FrozenInputs, StepPlan, TrainState, make_stacked_step, make_step

__all__ = [
    "OPTIMIZERS",
    "PENALTIES",
    "PROJECTIONS",
    "Constraint",
    "FrozenInputs",
    "Likelihood",
    "Loss",
    "Penalty",
    "Projection",
    "References",
    "StepPlan",
    "Term",
    "TrainConfig",
    "TrainJob",
    "TrainState",
    "TrainingDiverged",
    "make_stacked_step",
    "make_step",
    "train",
    "train_stacked",
]
__getattr__, __dir__ = names_of(__name__, __file__)
