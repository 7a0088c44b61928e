"""Extraction before subtraction: an expert learns what is to be kept, an anti-expert what is to be forgotten."""

from typing import Any, ClassVar

from rr_jax.lora.adapter import scale_adapter
from rr_jax.lora.algebra import ext_sub
from rr_jax.models.config import ModelConfig
from rr_jax.models.spec import Adapter, Params
from rr_jax.release.objectives.base import FORGET, RETAIN, Objective
from rr_jax.training.loss import Likelihood, Loss, Rows, Term

EXPERT = "expert"


class ExtSub(Objective):
    """Adds the expert less what only the anti-expert has (Hu et al., AAAI 2024); the strength is alpha."""

    name: str = "ext_sub"
    no_surface: ClassVar[str | None] = "its strength 0 is its expert and not the model before the round"

    def companions(self) -> dict[str, Loss]:
        """Returns the expert, trained by likelihood on the retain rows."""
        return {EXPERT: Likelihood(RETAIN)}

    def terms(
        self, params: Params, adapter: Adapter, rows: dict[str, Rows], config: ModelConfig, numbers: dict[str, Any]
    ) -> dict[str, Term]:
        """Returns the mean NLL of the forget rows, nats a token: the forget adapter is the anti-expert."""
        return Likelihood(FORGET).terms(params, adapter, rows, config, numbers)

    def change(self, trained: dict[str, Adapter], strength: float, scale: float) -> Adapter:
        """Returns the expert with what only the forget adapter has taken out, `strength` times."""
        return ext_sub(scale_adapter(trained[EXPERT], scale), scale_adapter(trained[FORGET], scale), strength)
