"""The rows that a run trains on and holds losses against, and the start of its adapters: all pure functions of its seed."""

from collections.abc import Sequence

from rr_jax.data.packing import Example, Packed, pack_examples
from rr_jax.lora.adapter import init_adapter
from rr_jax.lora.algebra import add
from rr_jax.models.spec import Adapter
from rr_jax.random import derive_seed, stream
from rr_jax.release.data import Request
from rr_jax.runs.context import Context
from rr_jax.tasks.base import Revealed
from rr_jax.training.config import TrainConfig


def pack(context: Context, examples: Sequence[Example], section: TrainConfig) -> Packed:
    """Returns examples as packed rows of a training."""
    base = context.base
    return pack_examples(base.tokenizer, examples, min(section.seq_len, base.config.max_positions), base.chat)


def new_adapter(context: Context, name: str, round_index: int) -> Adapter:
    """Returns the start of the adapter called `name` in a round."""
    section = context.config.release.adapter
    key = stream(context.config.seed, f"release/{name}", round_index)
    return init_adapter(key, context.base.config, section.rank, section.targets)


def remembered(context: Context, earlier: Sequence[Adapter]) -> Adapter | None:
    """Returns the forget adapters of earlier rounds as one, where the constraint has a memory and there are some."""
    return add(*earlier) if context.config.release.orthogonality.memory and earlier else None


def forget_examples(
    context: Context, round_index: int, revealed: Sequence[Revealed], pairing: str | None = None
) -> list[Example]:
    """Returns what the forget adapter of a round learns from.

    Args:
      pairing: in place of the configuration's.
    """
    config = context.config
    request = Request(
        task=context.task,
        revealed=revealed,
        pairing=pairing or config.release.pairing,
        pairing_seed=derive_seed(config.seed, "release/pairing", round_index),
        count=config.release.examples,
        seed=config.seed,
    )
    found = config.release.source.examples(request)
    if not config.release.source.reveals and not (found and all(isinstance(one, Example) for one in found)):
        shown = f"{found!r:.60}"
        raise ValueError(
            f"release.data: {config.release.data} gives {shown}, expected at least one rr_jax.data.Example"
        )
    return found


def forget_rows(context: Context, round_index: int, revealed: Sequence[Revealed], pairing: str | None = None) -> Packed:
    """Returns `forget_examples` as packed rows."""
    return pack(context, forget_examples(context, round_index, revealed, pairing), context.config.release.train)


def retain_rows(context: Context, round_index: int, section: TrainConfig) -> Packed:
    """Returns the retain data of a round as packed rows."""
    seed = derive_seed(context.config.seed, "release/retain", round_index)
    return pack(context, context.task.retain_examples(context.config.release.retain.examples, seed), section)


def held_out_rows(context: Context) -> Packed:
    """Returns validation texts of what is to be kept, the same in every round: never trained on, and never test data."""
    config = context.config
    seed = derive_seed(config.seed, "release/held_out")
    examples = context.task.retain_examples(2 * config.evaluate.validation, seed, "validation")
    return pack(context, examples, config.release.train)
