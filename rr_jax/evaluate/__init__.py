"""Measures of what a model still knows, what it can still do, and whether its texts say anything at all."""

from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.evaluate.answers import exact_match_rate, flexible_answer, strict_answer
    from rr_jax.evaluate.classifier import classify_texts, embed_texts
    from rr_jax.evaluate.degenerate import degenerate_report, degenerate_share, repetition
    from rr_jax.evaluate.entities import (
        EntityScore,
        format_validity,
        leak_count,
        parse_entity_list,
        score_by_type,
        score_entities,
    )
    from rr_jax.evaluate.metric import (
        Interval,
        Metric,
        difference_of,
        exponential_of,
        mean_of,
        quotient_of,
        ratio_of,
        share_of,
    )
    from rr_jax.evaluate.nll import mean_nll, nll_metric
    from rr_jax.evaluate.quantize import quantize_params
    from rr_jax.evaluate.sandbox.pass_at_k import check_solutions, mean_pass_at_k, syntax_valid
    from rr_jax.evaluate.sandbox.runner import run_programs

__all__ = [
    "EntityScore",
    "Interval",
    "Metric",
    "check_solutions",
    "classify_texts",
    "degenerate_report",
    "degenerate_share",
    "difference_of",
    "embed_texts",
    "exact_match_rate",
    "exponential_of",
    "flexible_answer",
    "format_validity",
    "leak_count",
    "mean_nll",
    "mean_of",
    "mean_pass_at_k",
    "nll_metric",
    "parse_entity_list",
    "quantize_params",
    "quotient_of",
    "ratio_of",
    "repetition",
    "run_programs",
    "score_by_type",
    "score_entities",
    "share_of",
    "strict_answer",
    "syntax_valid",
]
__getattr__, __dir__ = names_of(__name__, __file__)
