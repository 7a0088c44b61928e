"""The measure stage: a model of the run on held-out data."""

from collections.abc import Sequence
from typing import Any

from rr_jax.evaluate.metric import Metric, to_plain, values_of
from rr_jax.evaluate.nll import nll_metric
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import Adapter
from rr_jax.runs.checkpoint import Stage
from rr_jax.runs.context import Context
from rr_jax.runs.folder import write_lines
from rr_jax.runs.stages.rows import forget_rows
from rr_jax.tasks.base import Revealed, Split, retention
from rr_jax.tasks.evaluation import evaluate_task


def measure(context: Context, model: LanguageModel, split: Split, note: str) -> tuple[dict[str, Metric], list[Any]]:
    """Returns metrics and samples of a model on a split."""
    size = context.config.evaluate.test if split == "test" else context.config.evaluate.validation
    context.progress(f"{note}: measuring on {split} data", 0, 1)
    generator = context.answering(model)
    metrics = context.config.evaluate.metrics
    result = evaluate_task(context.task, generator, split, size, base=context.base, metrics=metrics)
    context.progress(f"{note}: measuring on {split} data", 1, 1)
    return result.metrics | generator.cost(), result.samples


def measure_stage(
    context: Context,
    round_index: int,
    deltas: Adapter | None,
    revealed: Sequence[Revealed],
    base_metrics: dict[str, Metric],
) -> Stage:
    """Returns the metrics of the round's model on test data, and its loss on the rows the forget adapter learnt from."""
    model = context.model(deltas)
    metrics, samples = measure(context, model, "test", f"round {round_index}")
    write_lines(context.folder / "samples" / f"round_{round_index:02d}.jsonl", samples)
    forget = forget_rows(context, round_index, revealed)
    loss = {"training_prompt_subtracted": nll_metric(model.params, forget, context.base.config)}
    context.log(round_index, "measure", 0, values_of(metrics))
    kept = retention(context.utility_metrics, metrics, base_metrics)
    return Stage({}, {"metrics": to_plain(metrics), "retention": to_plain(kept), "loss": to_plain(loss)})
