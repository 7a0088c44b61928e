"""Results made by hand: small summaries, rounds and points whose parts a test changes by name."""

from rr_jax.evaluate.metric import Metric
from rr_jax.runs.results import ArmScore, AttackResult, GridPoint, Relearning, RoundResult, RunSummary, Stop


def metrics(**values):
    """Metrics of 48 units without spread; a name may be given as a dictionary where it is no identifier."""
    return {name: metric(value) for name, value in values.items()}


def metric(value, stderr=0.0):
    """A metric of 48 units."""
    return Metric(float(value), 48, stderr, share=False)


def arm(**changes):
    """An evaluated arm."""
    plain = {
        "order": 0, "arm": 3, "kind": "text", "text": "say <b>it</b>", "score": 0.6, "relevance": metric(0.7),
        "diversity": 0.5, "fluency": metric(1.0), "shift": None, "chosen_by": "initial", "generations": 8,
    }  # fmt: skip
    return ArmScore(**plain | changes)


def point(forget_strength, forget, utility=0.95, *, stderr=0.0, retain_nll=1.2, **changes):
    """A point of the grid; what it keeps at worst is the metric u."""
    plain = {"retain_strength": 1.0, "degenerate": metric(0.0), "off_task": metric(0.0), "within_budget": True}
    return GridPoint(
        forget_strength=forget_strength,
        forget=metric(forget, stderr),
        retain_nll=metric(retain_nll),
        retention=metrics(u=utility),
        **plain | changes,
    )


def round_result(round_index=1, **changes):
    """A round that was accepted and measured, of a task with the metrics f and u."""
    plain = {
        "forget_strength": 0.4,
        "retain_strength": 1.0,
        "accepted": True,
        "revealed": 12,
        "metrics": metrics(f=0.1, u=0.76, degenerate=0.02),
        "retention": metrics(u=0.95),
        "utility_budget": 0.9,
        "trade_off": (point(0.4, 0.1), point(0.8, 0.0, 0.5, within_budget=False)),
        "search": (arm(), arm(order=1, kind="soft", chosen_by="bandit")),
        "layers": {
            "overlap": {"q": [0.1, 0.2], "v": [0.0, 0.3]},
            "update_cosine": {"q": [0.1, -0.2], "v": [0.0, 0.3]},
        },
        "loss": metrics(revealing_prompt=0.5, training_prompt_before=2.0),
    }
    return RoundResult(round_index=round_index, **plain | changes)


def summary(*rounds, **changes):
    """A complete run of those rounds, or of `round_result()`."""
    plain = {
        "task": "ner",
        "seed": 0,
        "objective": "negate",
        "data": "revealed",
        "forget_metric": "f",
        "utility_metrics": {"u": "higher"},
        "rule": "most_forgetting_within_budget",
        "selection_rule": "the rule",
        "base": metrics(f=0.9, u=0.8, degenerate=0.0),
        "base_validation": metrics(f=0.9, u=0.8, degenerate=0.0),
        "selected_round": 1,
        "status": "complete",
        "stop": Stop(reason="rounds_done", explanation="all 1 rounds are done"),
        "rounds": rounds or (round_result(),),
    }
    return RunSummary(**plain | changes)


def attack(**changes):
    """Attacks on round 1 that find the same at each step; `relearn` replaces parts of the relearning."""
    relearn = {"steps": (0, 5), "forget": (metric(0.1), metric(0.6)), "degenerate": (metric(0.0), metric(0.0))}
    plain = {"round_index": 1, "protocol": {"forget_metric": "f"}, "prompts": {"as_measured": metrics(released=0.1)}}
    return AttackResult(**plain | changes | {"relearn": Relearning(**relearn | changes.get("relearn", {}))})
