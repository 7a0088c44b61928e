"""Task arithmetic: the adapter learns what is to be forgotten and is subtracted. What Reveal and Release does."""

from typing import Any

from rr_jax.lora.adapter import scale_adapter
from rr_jax.models.config import ModelConfig
from rr_jax.models.spec import Adapter, Params
from rr_jax.release.objectives.base import FORGET, Objective
from rr_jax.training.loss import Likelihood, Rows, Term


class Negate(Objective):
    """Minimises the NLL of the forget rows and subtracts: theta - strength * adapter (Ilharco et al., 2023, on weights)."""

    name: str = "negate"

    def terms(
        self, params: Params, adapter: Adapter, rows: dict[str, Rows], config: ModelConfig, numbers: dict[str, Any]
    ) -> dict[str, Term]:
        """Returns the mean NLL of the forget rows, nats a token."""
        return Likelihood(FORGET).terms(params, adapter, rows, config, numbers)

    def change(self, trained: dict[str, Adapter], strength: float, scale: float) -> Adapter:
        """Returns the forget adapter, subtracted."""
        return scale_adapter(trained[FORGET], -strength * scale)
