"""The configuration of one adapter training and of the constraint that holds adapters apart."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from rr_jax.section import Section


class OrthogonalityConfig(Section):
    """What holds the forget adapter apart from the retain adapter, or from what the retain data makes the model compute.

    Penalties of the two adapters: mean |cosine| of their input directions (normalized), O-LoRA's sum as coded (olora) or
    squared as in its paper (frobenius), principal angles of what they read (input_angles) or write (output_angles),
    cosine of the whole updates (update). Of the forget adapter and the activations of retain data: how strongly it reads
    them (activations). Where the retain adapter is trained after the subtraction, it is that one which is held apart.
    """

    penalty: Literal[
        "normalized", "olora", "frobenius", "input_angles", "output_angles", "update", "activations", "none"
    ] = "normalized"
    weight: NonNegativeFloat = 1.0
    # After each step the forget adapter's A is moved out of what the retain adapter reads (complement; after the
    # subtraction it is the retain adapter's A that moves), or of the dominant directions of retain activations.
    projection: Literal["none", "complement", "null_space"] = "none"
    directions: PositiveInt = 32  # dominant directions of each module's inputs, for activations and null_space
    memory: bool = False  # the forget adapter is held apart from those of earlier rounds too


class TrainConfig(Section):
    """One adapter training: AdamW, linear warm-up over a tenth of the steps, cosine to a tenth of the peak."""

    steps: PositiveInt = 50
    batch_size: PositiveInt = 8  # rows of seq_len tokens, over all devices
    seq_len: PositiveInt = 128  # longer examples are cut; of more than the model's positions those are taken
    learning_rate: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat = 1.0  # of the global gradient norm
