"""The reveal stage: search for instructions that make the model disclose the target, and collect what they disclose."""

import dataclasses
from typing import Any

from rr_jax.models.spec import Adapter
from rr_jax.reveal.candidates import make_candidates
from rr_jax.reveal.collect import collect
from rr_jax.reveal.judge import make_judge
from rr_jax.reveal.recall import disclosed_facts
from rr_jax.reveal.search import search
from rr_jax.runs.checkpoint import Stage
from rr_jax.runs.context import Context
from rr_jax.runs.folder import append_lines, parsed_lines, sha256, write_lines, write_revealed


def reveal_stage(context: Context, round_index: int, deltas: Adapter | None) -> Stage:
    """Searches and collects on the current model; an interrupted search goes on where it was."""
    config, task, seed = context.config.reveal, context.task, context.config.seed
    model = context.model(deltas)
    candidates = make_candidates(model, task, config.arms, seed, round_index, context.proposer)
    judge = make_judge(
        task,
        model,
        context.base,
        config.reward,
        context.encoder,
        seed=seed,
        round_index=round_index,
        relevance=context.relevance,
    )
    memory = context.folder / f"search_{round_index:02d}.partial.jsonl"  # scores and indices, never text
    known: list[dict[str, Any]] = []
    for _, line in parsed_lines(memory):  # what follows a damaged line was chosen by what it held
        if isinstance(line, str):
            break
        known.append(line)
    if memory.exists():
        write_lines(memory, known)  # so that nothing is appended to a line that was cut off
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
        context.log(round_index, "reveal", one.order + 1, one.numbers())
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
            "collected_relevance": dataclasses.asdict(collected.relevance()),
            "disclosed": sorted(disclosed_facts(task, collected.revealed)),
        },
    )


def _without_text(line: dict[str, Any], keep: str) -> dict[str, Any]:
    """Returns an arm's line, without an instruction that a model wrote if only hashes may be kept."""
    if keep == "text" or line["kind"] != "written":
        return line
    return line | {"text": sha256(line["text"])}
