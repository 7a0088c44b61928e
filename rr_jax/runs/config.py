"""The configuration of a run: the sections of all packages together.

Every default is documented where it stands. What the paper leaves open is a named switch, never a silent choice;
none of the numbers is presented as the paper's.
"""

from typing import Annotated, Literal

import pydantic
from pydantic import PositiveFloat, PositiveInt, SerializeAsAny

from rr_jax.registry import known, plugged
from rr_jax.release.config import ReleaseConfig
from rr_jax.reveal.config import RevealConfig
from rr_jax.section import Section, Seed
from rr_jax.tasks.guards import GUARDS
from rr_jax.tasks.metrics import METRICS, Measure, names_differ
from rr_jax.tasks.registry import TASKS


class EvaluateConfig(Section):
    """Sets the sizes of the evaluation sets (examples of each metric), and how fast an attack relearns."""

    validation: PositiveInt = 48
    test: PositiveInt = 96
    # Metrics beside the task's own, of `rr_jax.tasks.metrics.METRICS`: names, or sections with name and their own keys, of
    # which utility: true counts one within the utility budget.
    metrics: Annotated[
        list[Annotated[SerializeAsAny[Measure], plugged(METRICS)]], pydantic.AfterValidator(names_differ)
    ] = []
    # of the relearning attack; null: release.train.learning_rate. An attacker does not know with what was unlearned, so
    # a comparison of methods of several rates gives one.
    relearning_rate: PositiveFloat | None = None
    # What stands between the models of all rounds and who asks them, such as oracle_watcher; changes no weight.
    guard: Annotated[str, known(GUARDS)] | None = None


class ParallelConfig(Section):
    """Says how a training step is spread over devices; auto is pmap when there are several, else jit."""

    mode: Literal["auto", "jit", "pmap", "shard_map"] = "auto"


class PrivacyConfig(Section):
    """Says what of the revealed text may stay on disk."""

    keep_revealed: Literal["text", "hashes"] = "text"


class RunConfig(Section):
    """Configures one run. Sections are owned by the package that reads them."""

    model: str = "testbed"  # "testbed", a folder, or a hub id
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    chat: bool | None = None  # prompts are a user's messages in the tokenizer's chat template; null: where it has one
    # a name of `rr_jax.tasks.registry.TASKS` or "package.module:Name", or that as `name` beside the task's own keys
    task: Annotated[SerializeAsAny[Section], plugged(TASKS, lambda task: task.Section)]
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
    def _something_to_reveal(self) -> "RunConfig":
        if self.until == "reveal" and not self.release.source.reveals:
            raise ValueError(f"until is 'reveal', but release.data {self.release.data!r} reveals nothing")
        return self
