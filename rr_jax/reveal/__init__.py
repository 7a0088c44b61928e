"""Reveal: search for the instructions and soft prompts that make a model disclose what it is to forget."""

from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.reveal.arms import Arm, build_arms, sobol_points, soft_prompts
    from rr_jax.reveal.candidates import Candidates, make_candidates
    from rr_jax.reveal.collect import best_arms
    from rr_jax.reveal.config import RevealConfig
    from rr_jax.reveal.judge import Judge, make_judge
    from rr_jax.reveal.kernels import KERNELS, Kernel
    from rr_jax.reveal.recall import disclosed_facts
    from rr_jax.reveal.reward import (
        cosine_kernel,
        harmonic_mean,
        ngram_kernel,
        normalized_vendi,
        vendi_from_features,
        vendi_score,
    )
    from rr_jax.reveal.scorers import SCORERS, Scorer
    from rr_jax.reveal.strategies import make_strategy

__all__ = [
    "KERNELS",
    "SCORERS",
    "Arm",
    "Candidates",
    "Judge",
    "Kernel",
    "RevealConfig",
    "Scorer",
    "best_arms",
    "build_arms",
    "cosine_kernel",
    "disclosed_facts",
    "harmonic_mean",
    "make_candidates",
    "make_judge",
    "make_strategy",
    "ngram_kernel",
    "normalized_vendi",
    "sobol_points",
    "soft_prompts",
    "vendi_from_features",
    "vendi_score",
]
__getattr__, __dir__ = names_of(__name__, __file__)
