"""The configuration of one adapter training."""

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from rr_jax.section import Section


class TrainConfig(Section):
    """Configures one adapter training: linear warm-up over a tenth of the steps, cosine to a tenth of the peak."""

    steps: PositiveInt = 50
    batch_size: PositiveInt = 8  # rows of seq_len tokens, over all devices
    seq_len: PositiveInt = 128  # longer examples are cut; of more than the model's positions those are taken
    learning_rate: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat = 1.0  # of the global gradient norm
