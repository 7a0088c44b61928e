"""Gradient difference: ascent on what is to be forgotten, descent on what is to be kept."""

import jax
from pydantic import PositiveFloat

from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import token_nll
from rr_jax.models.spec import Adapter, Params
from rr_jax.release.objectives.base import FORGET, RETAIN, Objective, retain_term
from rr_jax.training.loss import Rows, Term


class GradDiff(Objective):
    """Minimises -NLL(forget) + retain_weight * NLL(retain), means over tokens (Liu et al., 2022)."""

    name: str = "grad_diff"
    retain_weight: PositiveFloat = 1.0  # gamma; SOUL has .3 (first order) and 2 (second order)

    @property
    def rows(self) -> tuple[str, ...]:
        """Returns both sets."""
        return (FORGET, RETAIN)

    def terms(
        self,
        params: Params,
        adapter: Adapter,
        rows: dict[str, Rows],
        config: ModelConfig,
        numbers: dict[str, jax.Array],
    ) -> dict[str, Term]:
        """Returns minus the mean NLL of the forget rows, and that of the retain rows, nats a token."""
        forget = {"forget_nll": Term(*token_nll(params, rows[FORGET], config, adapters=adapter), -1.0)}
        return forget | retain_term(params, adapter, rows, config, numbers["retain_weight"])
