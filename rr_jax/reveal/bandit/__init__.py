"""NeuralUCB: a network that predicts an arm's score, its uncertainty, and the choice made from both."""

from rr_jax.reveal.bandit.config import BanditConfig, instinct
from rr_jax.reveal.bandit.neural_ucb import (
    CHUNK,
    BanditState,
    Scores,
    choose,
    draw,
    exploration_ratio,
    fit,
    init,
    observe,
    promising,
    retire,
    score,
    step,
    update_posterior,
)

__all__ = [
    "CHUNK",
    "BanditConfig",
    "BanditState",
    "Scores",
    "choose",
    "draw",
    "exploration_ratio",
    "fit",
    "init",
    "instinct",
    "observe",
    "promising",
    "retire",
    "score",
    "step",
    "update_posterior",
]
