"""What happens in each stage of a round, as functions from models and earlier results to arrays and plain values: the
measurement of the base model, and reveal. What changes the model is in `release_stages`.

A stage neither reads nor writes checkpoints and does not know whether the run was interrupted: `rounds` does. Its side
files (revealed texts, samples) are written whole, so running a stage twice leaves the same files.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rr_jax.models.decoder import Adapter
from rr_jax.models.encoders.hub import Encoder
from rr_jax.models.hub import LanguageModel
from rr_jax.release.alu import Watcher, watched
from rr_jax.release.compose import merged_params
from rr_jax.reveal.candidates import make_candidates
from rr_jax.reveal.collect import collect
from rr_jax.reveal.judge import make_judge
from rr_jax.reveal.recall import disclosed_facts
from rr_jax.reveal.search import search
from rr_jax.runs.checkpoint import Stage
from rr_jax.runs.config import RunConfig
from rr_jax.runs.folder import append_lines, read_lines, sha256, write_lines, write_revealed
from rr_jax.tasks.base import Split, Task


@dataclasses.dataclass(frozen=True)
class Context:
    """What every stage of a run works with. `base` is the model before anything was forgotten."""

    config: RunConfig
    task: Task
    base: LanguageModel
    folder: Path
    log: Callable[[int, str, int, dict[str, float]], None]  # round, stage, step, values
    progress: Callable[[str, int, int], None]  # what, done, of
    proposer: LanguageModel | None = None  # writes the instructions; None: the model itself
    encoder: Encoder | None = None  # of the reward's kernel "encoder"

    @property
    def scale(self) -> float:
        """alpha / rank of every adapter."""
        return self.config.release.adapter.alpha / self.config.release.adapter.rank

    def model(self, deltas: Adapter | None) -> LanguageModel:
        """`released_model` of this run."""
        return released_model(self.config, self.task, self.base, deltas)


def released_model(config: RunConfig, task: Task, base: LanguageModel, deltas: Adapter | None) -> LanguageModel:
    """W0 + deltas, as a run answers with it: its answers are watched where that is the method; None is the base model."""
    lm = dataclasses.replace(base, params=merged_params(base.params, deltas))
    return watched(task, lm) if deltas is not None and config.release.method == "alu_like" else lm


def measure(context: Context, deltas: Adapter | None, split: Split, note: str) -> tuple[dict[str, float], list[Any]]:
    """Metrics and samples of W0 + deltas on a split."""
    size = context.config.evaluate.test if split == "test" else context.config.evaluate.validation
    context.progress(f"{note}: measuring on {split} data", 0, 1)
    model = context.model(deltas)
    result = context.task.evaluate(model, split, size, base=context.base)
    context.progress(f"{note}: measuring on {split} data", 1, 1)
    cost = model.decode.cost() if isinstance(model.decode, Watcher) else {}
    return result.metrics | cost, result.samples


def base_stage(context: Context) -> Stage:
    """The base model measured on both splits."""
    validation, _ = measure(context, None, "validation", "base")
    test, samples = measure(context, None, "test", "base")
    write_lines(context.folder / "samples" / "base.jsonl", samples)
    context.log(0, "base", 0, test)
    return Stage({}, {"validation": validation, "test": test})


def reveal_stage(context: Context, round_index: int, deltas: Adapter | None) -> Stage:
    """Search and collection on the current model; an interrupted search goes on where it was."""
    config, task, seed = context.config.reveal, context.task, context.config.seed
    model = context.model(deltas)
    candidates = make_candidates(model, task, config.arms, seed, round_index, context.proposer)
    judge = make_judge(task, model, context.base, config.reward, context.encoder, seed=seed, round_index=round_index)
    memory = context.folder / f"search_{round_index:02d}.partial.jsonl"  # scores and indices, never text
    known = read_lines(memory)
    found = search(
        model,
        judge,
        config,
        candidates,
        seed=seed,
        round_index=round_index,
        known=known,
        remember=lambda lines: append_lines(memory, lines),
        progress=lambda done, of: context.progress(f"round {round_index}: searching instructions", done, of),
    )
    for one in found.scored:
        line = {name: value for name, value in one.line().items() if isinstance(value, int | float) and name != "order"}
        context.log(round_index, "reveal", one.order + 1, line)
    collected = collect(
        model,
        judge,
        config,
        candidates,
        found.scored,
        seed=seed,
        round_index=round_index,
        progress=lambda done, of: context.progress(f"round {round_index}: collecting the forget set", done, of),
    )
    keep = context.config.privacy.keep_revealed
    write_revealed(context.folder, round_index, collected, keep)
    memory.unlink(missing_ok=True)
    return Stage(
        {},
        {
            "search": [_without_text(one.line(), keep) for one in found.scored],
            "search_ended": found.ended,
            "exploration": found.exploration,
            "revealed": [vars(item) for item in collected.revealed],
            "left_out": collected.reasons(),
            "collected_relevance": collected.relevance(),
            "told": sorted(disclosed_facts(task, collected.revealed)),
        },
    )


def _without_text(line: dict[str, Any], keep: str) -> dict[str, Any]:
    """An arm's line, without an instruction that a model wrote if only hashes may be kept."""
    if keep == "text" or line["kind"] != "written":
        return line
    return line | {"text": sha256(line["text"])}
