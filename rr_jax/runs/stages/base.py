"""The base model measured on both splits."""

from rr_jax.evaluate.metric import to_plain, values_of
from rr_jax.runs.checkpoint import Stage
from rr_jax.runs.context import Context
from rr_jax.runs.folder import write_lines
from rr_jax.runs.stages.measure import measure


def base_stage(context: Context) -> Stage:
    """Returns the base model's metrics on both splits; writes the samples of test data."""
    validation, _ = measure(context, context.base, "validation", "base")
    test, samples = measure(context, context.base, "test", "base")
    write_lines(context.folder / "samples" / "base.jsonl", samples)
    context.log(0, "base", 0, values_of(test))
    return Stage({}, {"validation": to_plain(validation), "test": to_plain(test)})
