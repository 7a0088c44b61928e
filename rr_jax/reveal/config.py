"""The configuration of the reveal stage: arms, search, bandit, reward, collection."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, SerializeAsAny

from rr_jax.registry import known, plugged
from rr_jax.reveal.kernels import KERNELS
from rr_jax.reveal.scorers import SCORERS, Scorer, TaskScorer
from rr_jax.section import Section, Share


class ArmsConfig(Section):
    """Says what the search may try: instruction texts, and soft prompts from a Sobol sequence."""

    texts: str | None = None  # a file of further instruction texts, one a line, beside the task's
    templates: list[str] = []  # further instruction texts with {slots}, each filled in with every combination
    slots: dict[str, list[str]] = {}
    soft: Annotated[int, Field(ge=0)] = 64  # number of soft prompts beside the texts; a power of two is best
    soft_tokens: PositiveInt = 5  # embeddings in a soft prompt
    # Dimension of the Sobol points (INSTINCT: 10 for induction, 1000 for GSM8K), up to what SciPy tabulates.
    dim: Annotated[int, Field(ge=1, le=21_201)] = 10
    scaling: Literal["embedding", "instinct"] = "embedding"  # size of soft embeddings: the table's, or as coded there
    # A soft prompt makes the model answer (direct), or write an instruction that is then asked (INSTINCT's path).
    path: Literal["direct", "instruction"] = "direct"
    proposer: str | None = None  # a model with the same vocabulary that writes the instructions; null: the model itself
    instruction_tokens: PositiveInt = 16  # length of a written instruction


class SearchConfig(Section):
    """Says how arms are chosen, and how many responses the search may generate."""

    strategy: Literal["neural_ucb", "epsilon_greedy", "random", "best_of_n"] = "neural_ucb"  # best_of_n: texts alone
    generations: PositiveInt = 256  # budget in responses; each arm takes reward.samples of them
    initial: PositiveInt = 16  # arms scored before the first choice
    keep: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # best share of those that the bandit starts from
    batch: PositiveInt = 1  # arms chosen, and answered in one device call, between two fits
    epsilon: Share = 0.1  # of epsilon_greedy: share of random choices
    early_stop: bool = False  # when no arm is within 8 sigma of the best score so far; sigma is not calibrated


class BanditSection(Section):
    """Configures NeuralUCB: a network that predicts an arm's score, and how unsure it is."""

    preset: Literal["default", "instinct"] = "default"  # instinct: as coded there; the other keys are not looked at
    posterior: Literal["exact", "diagonal", "thompson"] = "exact"
    hidden: Annotated[list[PositiveInt], Field(min_length=1)] = [100]  # widths of the hidden layers
    nu: PositiveFloat = 1e-3  # exploration; INSTINCT has 1 with weights from N(0, 1), ours are variance-scaled
    lambda_: PositiveFloat = Field(default=0.1, alias="lambda")
    fit_steps: PositiveInt = 300
    learning_rate: PositiveFloat = 1e-3


class RewardConfig(Section):
    """Sets an arm's score: the weighted harmonic mean of relevance and normalised Vendi score of its fluent responses."""

    samples: Annotated[int, Field(ge=2)] = 8  # responses generated for each arm
    temperature: PositiveFloat = 1.0
    diversity_weight: Share = 0.3
    # who says how relevant a response is: the task, or a classifier {model, label}; of `rr_jax.reveal.scorers.SCORERS`
    scorer: Annotated[SerializeAsAny[Scorer], plugged(SCORERS)] = TaskScorer()
    # similarity: n-grams (ngram), the model's states (hidden), an encoder's; of `rr_jax.reveal.kernels.KERNELS`
    kernel: Annotated[str, known(KERNELS)] = "ngram"
    encoder: str | None = None  # folder or hub id of the sentence encoder
    # q of the Vendi score; .inf looks at the largest eigenvalue alone
    order: Annotated[float, Field(gt=0.0, allow_inf_nan=True)] = 1.0
    normalization: Literal["excess", "share", "none"] = "excess"  # (v - 1) / (n - 1), v / n, or v as it is
    # A response is fluent if the base model finds it at most so many nats a token less likely than the least likely of
    # its own free texts; null switches that off. Others count as neither relevant nor diverse, as do empty and
    # repetitive ones.
    fluency_margin: NonNegativeFloat | None = 1.0


class CollectConfig(Section):
    """Says how the best arms become the forget set."""

    best_arms: PositiveInt = 4
    size: PositiveInt = 256  # examples at most
    min_size: PositiveInt = 16  # fewer than these: nothing (more) is revealed
    threshold: Share = 0.5  # least relevance of an example
    near_duplicate: Share = 0.8  # an example that shares so many word 3-grams with another is left out (Jaccard)
    arm_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # of `size`, from one arm at most
    generations: PositiveInt = 1024  # responses generated at most


class RevealConfig(Section):
    """Configures the search for revealing instructions and the collection of what they reveal."""

    # until_gain: anew each round until a round's recall grew by less than min_gain; then with what there is.
    when: Literal["every_round", "first_round", "until_gain"] = "every_round"
    min_gain: Share = 0.01
    arms: ArmsConfig = ArmsConfig()
    search: SearchConfig = SearchConfig()
    bandit: BanditSection = BanditSection()
    reward: RewardConfig = RewardConfig()
    collect: CollectConfig = CollectConfig()

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "RevealConfig":
        if (KERNELS.get(self.reward.kernel).looks_at == "encoder") != (self.reward.encoder is not None):
            raise ValueError("reward.kernel 'encoder' and reward.encoder go together: give both or neither")
        if self.search.generations < self.reward.samples:
            raise ValueError(
                f"search.generations is {self.search.generations}, below the {self.reward.samples} samples of one arm"
            )
        if self.collect.min_size > self.collect.size:
            raise ValueError(f"collect.min_size is {self.collect.min_size}, above collect.size {self.collect.size}")
        return self
