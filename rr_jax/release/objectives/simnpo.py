"""SimNPO: NPO without a reference model, on the mean NLL of a sequence's tokens."""

import jax
import jax.numpy as jnp
from pydantic import NonNegativeFloat, PositiveFloat

from rr_jax.models.config import ModelConfig
from rr_jax.models.loss import segment_nll
from rr_jax.models.spec import Adapter, Params
from rr_jax.release.objectives.base import FORGET, RETAIN, Objective, retain_term
from rr_jax.release.objectives.npo import segment_terms
from rr_jax.training.loss import Rows, Term


class SimNPO(Objective):
    """Minimises the mean of `simnpo_terms` over the sequences of the forget rows, plus retain_weight * NLL(retain)."""

    name: str = "simnpo"
    beta: PositiveFloat = 4.5  # the authors' for TOFU's forget10
    margin: NonNegativeFloat = 0.0  # gamma; the authors' choice after a search is 0
    retain_weight: NonNegativeFloat = 1.0  # the authors have 8 (1 to .125 of the forget loss)

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
        mean = nll / jnp.where(weights > 0, weights, 1.0)
        terms = simnpo_terms(mean, numbers["beta"], numbers["margin"])
        return segment_terms(terms, nll, weights) | retain_term(params, adapter, rows, config, numbers["retain_weight"])


def simnpo_terms(mean_nll: jax.Array, beta: jax.Array, margin: jax.Array) -> jax.Array:
    """Returns -(2 / beta) log sigmoid(beta mean_nll - margin) of each sequence, nats; `mean_nll` is a token's.

    Fan et al., 2024. OPTML-Group/Unlearn-Simple multiplies the margin by beta too; the two agree at its 0.
    """
    return 2 / beta * jax.nn.softplus(-(beta * mean_nll - margin))
