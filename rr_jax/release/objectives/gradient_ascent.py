"""Gradient ascent on what is to be forgotten."""

from typing import Any

from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import token_nll
from rr_jax.models.spec import Adapter, Params
from rr_jax.release.objectives.base import FORGET, Objective
from rr_jax.training.loss import Rows, Term


class GradientAscent(Objective):
    """Maximises the mean NLL of the forget rows."""

    name: str = "gradient_ascent"

    def terms(
        self, params: Params, adapter: Adapter, rows: dict[str, Rows], config: ModelConfig, numbers: dict[str, Any]
    ) -> dict[str, Term]:
        """Returns minus the mean NLL of the forget rows, nats a token."""
        return {"forget_nll": Term(*token_nll(params, rows[FORGET], config, adapters=adapter), -1.0)}
