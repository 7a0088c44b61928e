"""rr_jax: Reveal and Release in JAX. Make a causal language model forget something without the data to forget."""

from rr_jax.generation.text import generate
from rr_jax.models.hub import LanguageModel, load, save
from rr_jax.models.transformer import forward
from rr_jax.rounds import run

__all__ = ["LanguageModel", "forward", "generate", "load", "run", "save"]
