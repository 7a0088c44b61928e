"""The configuration of a run: every key, strict and typed. How it is read from a file is the matter of `config_file`.

Every default is documented where it stands. What the paper leaves open is a named switch here, never a silent choice;
none of these numbers is presented as the paper's.
"""

from typing import Annotated, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what a key of jax.random tells apart


class Section(pydantic.BaseModel):
    """A part of the configuration: unknown keys are refused, values are never coerced, and numbers are finite."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ToxicityTask(Section):
    """Forget the toxic register (testbed)."""

    name: Literal["toxicity"]


class NerTask(Section):
    """Forget one entity type, keep the others (testbed)."""

    name: Literal["ner"]
    forget: Literal["person", "location", "organization", "date"] = "person"


class CodeTask(Section):
    """Forget writing code, keep arithmetic (testbed)."""

    name: Literal["code"]


class CustomTask(Section):
    """Forget what a list of keywords or a regular expression recognises, in any model."""

    name: Literal["custom"]
    keywords: list[str] = []  # whole words, case-sensitive; give these or `regex`
    regex: str | None = None
    retain_text: str  # a .txt (blank line between texts), .jsonl, .json, .csv or .parquet file, or a hub data set
    text_field: str = "text"  # the column that holds the text, where there are columns
    max_texts: PositiveInt = 5000  # of the retain file, from its beginning
    prompts: list[str] = [""]  # what evaluation continues; "" is the bare start token
    arms: list[str] = []  # instruction texts to search over; empty: openings of the retain texts, and the keywords
    facts: list[str] = []  # texts that a full disclosure would contain, to report recall; empty: the keywords
    # What of a revealed text the forget adapter learns: the words that match, given what precedes them, or all of it.
    learn: Literal["matches", "response"] = "matches"
    max_new_tokens: PositiveInt = 128  # length of a generated text, in search, collection and evaluation
    temperature: PositiveFloat = 1.0  # of evaluation

    @pydantic.model_validator(mode="after")
    def _one_oracle(self) -> "CustomTask":
        if bool(self.keywords) == (self.regex is not None):
            raise ValueError("give either keywords or regex, and not both")
        return self


TaskConfig = Annotated[ToxicityTask | NerTask | CodeTask | CustomTask, Field(discriminator="name")]


class ArmsConfig(Section):
    """What the search may try: instruction texts, and soft prompts from a Sobol sequence."""

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
    """How arms are chosen, and how many responses the search may generate."""

    strategy: Literal["neural_ucb", "epsilon_greedy", "random", "best_of_n"] = "neural_ucb"  # best_of_n: texts alone
    generations: PositiveInt = 256  # budget in responses; each arm takes reward.samples of them
    initial: PositiveInt = 16  # arms scored before the first choice
    keep: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # best share of those that the bandit starts from
    batch: PositiveInt = 1  # arms chosen, and answered in one device call, between two fits
    epsilon: Share = 0.1  # of epsilon_greedy: share of random choices
    early_stop: bool = False  # when no arm is within 8 sigma of the best score so far; sigma is not calibrated


class BanditSection(Section):
    """NeuralUCB: a network that predicts an arm's score, and how unsure it is."""

    preset: Literal["default", "instinct"] = "default"  # instinct: as coded there; the other keys are not looked at
    posterior: Literal["exact", "diagonal", "thompson"] = "exact"
    hidden: Annotated[list[PositiveInt], Field(min_length=1)] = [100]  # widths of the hidden layers
    nu: PositiveFloat = 1e-3  # exploration; INSTINCT has 1 with weights from N(0, 1), ours are variance-scaled
    lambda_: PositiveFloat = Field(default=0.1, alias="lambda")
    fit_steps: PositiveInt = 300
    learning_rate: PositiveFloat = 1e-3


class RewardConfig(Section):
    """Score of an arm: the weighted harmonic mean of relevance and normalised Vendi score of its fluent responses."""

    samples: Annotated[int, Field(ge=2)] = 8  # responses generated for each arm
    temperature: PositiveFloat = 1.0
    diversity_weight: Share = 0.3
    kernel: Literal["ngram", "hidden", "encoder"] = "ngram"  # similarity: n-grams, the model's states, an encoder's
    encoder: str | None = None  # folder or hub id of the sentence encoder
    # q of the Vendi score; .inf looks at the largest eigenvalue alone
    order: Annotated[float, Field(gt=0.0, allow_inf_nan=True)] = 1.0
    normalization: Literal["excess", "share", "none"] = "excess"  # (v - 1) / (n - 1), v / n, or v as it is
    # A response is fluent if the base model finds it at most so many nats a token less likely than the least likely of
    # its own free texts; null switches that off. Others count as neither relevant nor diverse, as do empty and
    # repetitive ones.
    fluency_margin: NonNegativeFloat | None = 1.0


class CollectConfig(Section):
    """How the best arms become the forget set."""

    best_arms: PositiveInt = 4
    size: PositiveInt = 256  # examples at most
    min_size: PositiveInt = 16  # fewer than these: nothing (more) is revealed
    threshold: Share = 0.5  # least relevance of an example
    near_duplicate: Share = 0.8  # an example that shares so many word 3-grams with another is left out (Jaccard)
    arm_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # of `size`, from one arm at most
    generations: PositiveInt = 1024  # responses generated at most


class RevealConfig(Section):
    """Search for revealing instructions and collect what they reveal."""

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
        if (self.reward.kernel == "encoder") != (self.reward.encoder is not None):
            raise ValueError("reward.kernel 'encoder' and reward.encoder go together: give both or neither")
        if self.search.generations < self.reward.samples:
            raise ValueError(
                f"search.generations is {self.search.generations}, below the {self.reward.samples} samples of one arm"
            )
        if self.collect.min_size > self.collect.size:
            raise ValueError(f"collect.min_size is {self.collect.min_size}, above collect.size {self.collect.size}")
        return self


class AdapterConfig(Section):
    """Shape of the forget and of the retain LoRA; its scale is alpha / rank."""

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    targets: Annotated[list[str], Field(min_length=1)] = ["q", "k", "v", "o", "gate", "up", "down"]

    @pydantic.field_validator("targets")
    @classmethod
    def _each_once(cls, targets: list[str]) -> list[str]:
        if len(set(targets)) < len(targets):
            raise ValueError("expected each module once")
        return targets


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


class RetainConfig(Section):
    """The retain adapter's place: trained with the forget one and added (joint) or only held against it (anchor);
    trained on the subtracted weights and added (after); both; or none, so that nothing is repaired."""

    place: Literal["joint", "anchor", "after", "joint+after", "none"] = "after"
    examples: PositiveInt = 1024
    after: TrainConfig = TrainConfig(steps=50, learning_rate=2e-3)


class EtaConfig(Section):
    """Strengths of the subtraction and of the retain adapter that is added; both are chosen on validation data."""

    # 0 subtracts nothing, so that the strength may also be chosen to leave the model as it is.
    forget: Annotated[list[NonNegativeFloat], Field(min_length=1)] = [0.3, 0.5, 0.8, 1.2, 1.8]
    retain: Annotated[list[NonNegativeFloat], Field(min_length=1)] = [1.0]  # each is tried with each forget strength
    # Of the strengths within both budgets: the lowest forget metric; or, among those that leave at most `target` of the
    # base model's forget metric, the least loss on held-out texts to keep, and where none does, the first rule.
    rule: Literal["most_forgetting_within_budget", "least_interference_at_target"] = "most_forgetting_within_budget"
    target: Share = 0.1
    utility_budget: Share = 0.9  # the worst utility metric keeps at least this share of the base model's
    degenerate_budget: Share = 0.1  # share of empty or repetitive outputs that may be added


Method = Literal[
    "reveal_and_release", "gradient_ascent", "grad_diff", "npo", "simnpo", "task_vector", "ext_sub", "alu_like"
]  # fmt: skip


LOSSES = ("gradient_ascent", "grad_diff", "npo", "simnpo")  # methods whose loss forgets by itself


class BaselineConfig(Section):
    """What a baseline is given and how it trains; reveal_and_release looks at none of it.

    Baselines train an adapter of the sections `adapter` and `train` and take its strength from `eta.forget` by the same
    rule: the loss of gradient_ascent, grad_diff, npo and simnpo already forgets, so their adapter is added (1.0 is the
    method as published); task_vector subtracts an adapter trained on the forget data; of ext_sub the strength is alpha.
    alu_like is given no data and trains nothing: it watches the answers of the model as it is, at no strength.
    """

    forget_data: Literal["true", "revealed"] = "true"  # the task's own forget data, or what a reveal stage collects
    examples: PositiveInt = 256  # of the true data; as many as collect.size lets be revealed (SOUL: 200 to 400)
    # sophia: clipped by squared gradients, with SOUL's constants (betas .9 and .95, rho .04, batch 5120)
    optimizer: Literal["adamw", "sophia"] = "adamw"
    # gamma, weight of the retain loss; gradient_ascent has none, and 0 is plain npo or simnpo. 1: the authors' of NPO
    # with it; others: SOUL .3 (first order) and 2 (second order), SimNPO 8 (as 1 to .125 of the forget loss).
    retain_weight: NonNegativeFloat = 1.0
    beta: PositiveFloat | None = None  # of npo and simnpo; null: the authors', .1 and 4.5 (SimNPO on TOFU's forget10)
    sequence: Literal["sum", "mean"] = "sum"  # npo: of a sequence's tokens; sum as its authors, mean as SOUL
    margin: NonNegativeFloat = 0.0  # gamma of simnpo; its authors' choice after a search is 0


class ReleaseConfig(Section):
    """Train the forget and retain adapters, subtract the one and add the other; or run a baseline instead."""

    method: Method = "reveal_and_release"
    baseline: BaselineConfig = BaselineConfig()
    adapter: AdapterConfig = AdapterConfig()
    pairing: Literal["same", "none", "neutral", "shuffled"] = "shuffled"  # prompt that revealed text is trained under
    train: TrainConfig = TrainConfig()
    orthogonality: OrthogonalityConfig = OrthogonalityConfig()
    retain: RetainConfig = RetainConfig()
    eta: EtaConfig = EtaConfig()

    @property
    def is_baseline(self) -> bool:
        """Whether something else than reveal and release is run."""
        return self.method != "reveal_and_release"

    @property
    def forget_data(self) -> Literal["true", "revealed", "none"]:
        """What the method learns the target from: the data itself, which it is given, or what a reveal stage collects."""
        if self.method == "alu_like":
            return "none"
        return self.baseline.forget_data if self.is_baseline else "revealed"

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "ReleaseConfig":
        if self.is_baseline and self.retain.place not in ("after", "none"):
            raise ValueError(
                f"retain.place is {self.retain.place!r}, but method {self.method!r} trains no retain adapter beside "
                "the forget one, expected 'none' or 'after'"
            )
        if self.method == "alu_like" and self.retain.place != "none":
            raise ValueError(
                f"retain.place is {self.retain.place!r}, but alu_like changes no weights that could be repaired, expected "
                "'none'"
            )
        if self.retain.place in ("anchor", "none") and self.eta.retain != [1.0]:
            raise ValueError(
                f"eta.retain is {self.eta.retain}, but retain.place {self.retain.place!r} adds no retain adapter, "
                "expected it to be left at [1.0]"
            )
        if self.method == "grad_diff" and self.baseline.retain_weight == 0:
            raise ValueError(
                "baseline.retain_weight is 0, but grad_diff needs retain data; gradient_ascent goes without"
            )
        return self


class EvaluateConfig(Section):
    """Sizes of the evaluation sets (examples of each metric), and how fast an attack relearns."""

    validation: PositiveInt = 48
    test: PositiveInt = 96
    # of the relearning attack; null: release.train.learning_rate. An attacker does not know with what was unlearned, so
    # a comparison of methods of several rates gives one.
    relearning_rate: PositiveFloat | None = None


class ParallelConfig(Section):
    """How a training step is spread over devices; auto is pmap when there are several, else jit."""

    mode: Literal["auto", "jit", "pmap", "shard_map"] = "auto"


class PrivacyConfig(Section):
    """What of the revealed text may stay on disk."""

    keep_revealed: Literal["text", "hashes"] = "text"


class RunConfig(Section):
    """One run. Sections are owned by the room that reads them."""

    model: str = "testbed"  # "testbed", a folder, or a hub id
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    chat: bool | None = None  # prompts are a user's messages in the tokenizer's chat template; null: where it has one
    task: TaskConfig
    seed: Seed = 0
    rounds: PositiveInt = 2
    until: Literal["reveal", "measure"] = (
        "measure"  # reveal: only searches and collects, on the base model, to study it
    )
    out: str
    reveal: RevealConfig = RevealConfig()
    release: ReleaseConfig = ReleaseConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    parallel: ParallelConfig = ParallelConfig()
    privacy: PrivacyConfig = PrivacyConfig()

    @pydantic.model_validator(mode="after")
    def _one_round_of_a_baseline(self) -> "RunConfig":
        if self.release.is_baseline and self.rounds != 1:
            raise ValueError(
                f"rounds is {self.rounds}, but release.method {self.release.method!r} has one: give rounds=1"
            )
        if self.release.forget_data != "revealed" and self.until == "reveal":
            raise ValueError(f"until is 'reveal', but release.method {self.release.method!r} reveals nothing")
        return self
