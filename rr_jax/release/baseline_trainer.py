"""The training loop of the baselines: the same loop as ours, another loss. Knows nothing of tasks and rounds."""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rr_jax.data.packing import Packed
from rr_jax.models.config import ModelConfig
from rr_jax.models.decoder import Adapter, Params
from rr_jax.parallel.wrap import Run, choose_driver
from rr_jax.release.baselines import Given, make_baseline_optimizer, make_baseline_step
from rr_jax.training.config import TrainConfig
from rr_jax.training.loop import Log, TrainingDiverged, drive
from rr_jax.training.step import TrainState


def train_baseline(
    adapter: Adapter,
    params: Params,
    forget: Packed,
    retain: Packed | None,
    config: ModelConfig,
    section: TrainConfig,
    *,
    scale: float,
    method: str,
    optimizer: str,
    sequence: str,
    retain_weight: float,
    beta: float,
    margin: float,
    mode: str = "auto",
    seed: int = 0,
    log: Log | None = None,
) -> Adapter:
    """Trains one adapter by a loss that forgets; see `baselines.make_baseline_step` for what is not said here.

    Args:
      adapter, params, forget, retain: the start, the weights under it, and the rows; no retain rows, no retain loss.
      section: steps, batch (of forget rows and of retain rows alike), learning rate and so on.
      optimizer: "adamw" or "sophia".
      mode, seed, log: as for `train`; a line has the step's metrics under their names.

    Raises:
      TrainingDiverged: when the loss or the gradient is not finite; names the step.
    """
    run = _compiled_baseline(config, section, scale, method, optimizer, sequence, mode)
    numbers = (jnp.asarray(number, jnp.float32) for number in (retain_weight, beta, margin))
    chosen = _baseline_optimizer(optimizer, section)
    state = TrainState(jax.tree.map(jnp.array, adapter), chosen.init(adapter), jnp.zeros((), jnp.int32))

    def read(step: int, values: dict[str, np.ndarray]) -> None:
        line = {name: float(value) for name, value in values.items()}
        if not all(math.isfinite(line[name]) for name in ("loss", "gradient_norm")):
            raise TrainingDiverged(f"the loss of {method} is {line['loss']} at step {step}")
        if log is not None:
            log(step, line)

    data = [forget] if retain is None else [forget, retain]
    state = drive(run, state, Given(params, *numbers), data, section, mode=mode, seed=seed, read=read)
    trained: Adapter = jax.device_get(state.adapters)
    return trained


@lru_cache(maxsize=32)
def _compiled_baseline(
    config: ModelConfig, section: TrainConfig, scale: float, method: str, optimizer: str, sequence: str, mode: str
) -> Run:
    chosen = _baseline_optimizer(optimizer, section)
    step = make_baseline_step(config, chosen, scale=scale, method=method, sequence=sequence)
    return choose_driver(mode, section.batch_size)(step)


def _baseline_optimizer(name: str, section: TrainConfig) -> optax.GradientTransformation:
    return make_baseline_optimizer(name, section.steps, section.learning_rate, section.weight_decay, section.clip)
