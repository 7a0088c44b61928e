"""The settings of a bandit: our defaults, and INSTINCT's as the preset `instinct`.

What we hold to be a pitfall of INSTINCT is one switch here, and our way out of it the default. This module must never
compute anything.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax

from rr_jax.reveal.bandit.surrogate import Init

Posterior = Literal["exact", "diagonal", "thompson"]


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class BanditConfig:
    """Sets what a bandit depends on besides its data; it is hashable, and static under `jit`.

    Attributes:
      posterior: where sigma comes from, see `bandit`. On smooth functions of 64 features the exact one chooses as well
        as the diagonal one at the default nu and better at a larger one (regret a pick over 20 functions of three hidden
        variables, nu 0.1: 0.233 +- 0.012 and 0.285 +- 0.014; random 0.594), so it forgives a wrong nu.
      hidden: widths of the surrogate's hidden layers.
      capacity: rows of the replay buffer; no smaller than the evaluations planned, or the oldest are forgotten.
      fit_steps: Adam steps of each fit (INSTINCT's scripts: 1,000).
      init: "scaled" (weights of variance 1/fan_in, zero biases and output layer, so f starts at 0 everywhere, as
        NeuralUCB's theory has it) or "unit_normal" (INSTINCT: all of them N(0, 1)). Where nothing was observed f stays
        what it was at its start: unit_normal fills unseen arms with noise far above rewards in [0, 1].
      nu: exploration, inside the square root of sigma (INSTINCT's scripts: 1, with unit_normal).
      lambda_: ridge of the posterior U, and the L2 weight divided by the number of observations. Keep it at 1e-3 or
        more: U is summed in float32, and the exact posterior cannot tell less from rounding.
      learning_rate: Adam's.
      blind_first_pick: INSTINCT picks its first arm with an untrained network on features as they are. By default the
        initial observations inform the first pick.
      floor_std: a dimension constant over the observed arms is centred and left unscaled. INSTINCT divides by
        std + 1e-30, so arms that differ there explode.
      principal_axes: with more features than capacity, the first layer is trained in the principal axes of the observed
        inputs, of which there are at most capacity, and keeps its initial weights across them. The network and the loss
        are the same and a step costs D / capacity times less; INSTINCT's Adam runs on all D axes. Regret a pick on toys:
        0.377 +- 0.019 against 0.359 +- 0.019 (smooth, 192 features), 0.270 +- 0.098 against 0.351 +- 0.112 (clusters,
        1,024 features); the best arm found is as good.
      repick: `retire` leaves evaluated arms in the running, as INSTINCT does.
    """

    posterior: Posterior = "exact"
    hidden: tuple[int, ...] = (100,)
    capacity: int = 256
    fit_steps: int = 300
    init: Init = "scaled"
    nu: float = 1e-3
    lambda_: float = 0.1
    learning_rate: float = 1e-3
    blind_first_pick: bool = False
    floor_std: bool = True
    principal_axes: bool = True
    repick: bool = False

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"bandit hidden is {self.hidden}, expected one or more positive widths")
        for name in ("capacity", "fit_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"bandit {name} is {getattr(self, name)}, expected a positive integer")
        for name in ("lambda_", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"bandit {name} is {getattr(self, name)}, expected a number above 0")
        if not self.nu >= 0:
            raise ValueError(f"bandit nu is {self.nu}, expected 0 or more")
        for name, kind in (("init", Init), ("posterior", Posterior)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"bandit {name} is {getattr(self, name)!r}, expected one of {', '.join(get_args(kind))}"
                )


def instinct() -> BanditConfig:
    """Returns the settings of INSTINCT's bandit, with the values of its instruction-induction script (40 initial arms, 125
    picks).

    Not in it, because they are the caller's: a random 1,000 of 10,000 arms may be picked each time (give such a mask as
    `available`), and numbers are float64 (set `jax_enable_x64`).
    """
    return BanditConfig(
        posterior="diagonal",
        hidden=(100,),
        capacity=165,
        fit_steps=1000,
        init="unit_normal",
        nu=1.0,
        lambda_=0.1,
        learning_rate=1e-3,
        blind_first_pick=True,
        floor_std=False,
        principal_axes=False,
        repick=True,
    )
