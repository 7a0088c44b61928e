"""Negative preference optimisation: what is to be forgotten becomes less likely than under the model before."""

from typing import Literal

import jax
import jax.numpy as jnp
from pydantic import NonNegativeFloat, PositiveFloat

from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import segment_nll
from rr_jax.models.spec import Adapter, Params
from rr_jax.release.objectives.base import FORGET, RETAIN, Objective, retain_term
from rr_jax.training.loss import Rows, Term


class NPO(Objective):
    """Minimises the mean of `npo_terms` over the sequences of the forget rows, plus retain_weight * NLL(retain)."""

    name: str = "npo"
    beta: PositiveFloat = 0.1  # the authors'
    retain_weight: NonNegativeFloat = 1.0  # gamma; 0 is plain NPO
    sequence: Literal["sum", "mean"] = "sum"  # of the NLL of a sequence's tokens: sum as the authors, mean as SOUL

    @property
    def rows(self) -> tuple[str, ...]:
        """Returns both sets, or the forget rows alone where the retain loss counts nothing."""
        return (FORGET, RETAIN) if self.retain_weight else (FORGET,)

    def terms(
        self,
        params: Params,
        adapter: Adapter,
        rows: dict[str, Rows],
        config: ModelConfig,
        numbers: dict[str, jax.Array],
    ) -> dict[str, Term]:
        """Returns the preference term of packed segments that have a weighted token; their NLL is logged."""
        nll, weights = segment_nll(params, rows[FORGET], config, adapters=adapter)  # [B, S + 1]
        reference, _ = segment_nll(params, rows[FORGET], config)
        length = jnp.where(weights > 0, weights, 1.0) if self.sequence == "mean" else jnp.ones_like(weights)
        terms = npo_terms(nll / length, reference / length, numbers["beta"])
        return segment_terms(terms, nll, weights) | retain_term(params, adapter, rows, config, numbers["retain_weight"])


def npo_terms(nll: jax.Array, reference: jax.Array, beta: jax.Array) -> jax.Array:
    """Returns -(2 / beta) log sigmoid(beta (nll - reference)) of each sequence, nats.

    Zhang et al., 2024, equation 3, with -log pi = nll. As beta goes to 0 its gradient becomes that of gradient ascent.
    """
    return 2 / beta * jax.nn.softplus(-beta * (nll - reference))


def segment_terms(terms: jax.Array, nll: jax.Array, weights: jax.Array) -> dict[str, Term]:
    """Returns the mean of `terms` over the segments that have a weighted token, to train on, and their NLL, to log.

    Args:
      terms, nll, weights: [B, S + 1], of the segments.
    """
    present = weights > 0
    count = jnp.sum(present.astype(jnp.float32))
    return {
        "preference": Term(jnp.sum(jnp.where(present, terms, 0.0)), count),
        "forget_nll": Term(jnp.sum(nll), jnp.sum(weights), None),
    }
