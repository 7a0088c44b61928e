"""What a task measures is checked, whoever wrote it."""

import pytest

from rr_jax.evaluate.metric import Metric
from rr_jax.tasks.base import Evaluation
from rr_jax.tasks.evaluation import evaluate_task
from tests import tiny


class Given(tiny.EchoTask):
    """Measures what it is made with."""

    def evaluate(self, model, split, count, *, base, progress=None, only=None):
        """As given, whatever it is."""
        others = {name: Metric(0.5, count, 0.1) for name in ("good", "use", "degenerate")}
        return Evaluation(others | {"forget": self.metrics(model)}, [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.25, r"task 'echo' gives metric 'forget' as 0\.25, without n: expected .*evaluate\.metric\.Metric"),
        (Metric(0.25, None), r"task 'echo' gives metric 'forget' as Metric\(.*n=None.*, without n"),
        (Metric(0.25, -1), r"metric 'forget' as .*without n"),
        (Metric("a", 3), r"task 'echo' gives metric 'forget' as .*expected floats as value and stderr"),
        (Metric(0.25, 3, "b"), r"metric 'forget' as .*expected floats as value and stderr"),
    ],
)
def test_a_metric_without_n_is_refused_naming_task_and_metric(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        evaluate_task(Given(lambda lm: given), None, "test", 3, base=None)
    assert "\n" not in str(caught.value)


class Forgetful(Given):
    """Gives no metric that it names but the forget metric."""

    def evaluate(self, model, split, count, **_):
        """As said."""
        return Evaluation({"forget": self.metrics(model)}, [])


def test_a_metric_that_the_task_names_is_to_be_there_unless_others_were_asked_for():
    task = Forgetful(lambda lm: Metric(0.25, 3, None))
    said = "task 'echo' gives no metric use, degenerate, expected all that its attributes name: forget, use, degenerate"
    with pytest.raises(ValueError, match=f"^{said}$"):
        evaluate_task(task, None, "test", 3, base=None)
    assert evaluate_task(task, None, "test", 3, base=None, only=frozenset({"forget"})).metrics.keys() == {"forget"}


def test_what_is_whole_passes():
    made = Metric(0.25, 3, None)
    assert evaluate_task(Given(lambda lm: made), None, "test", 3, base=None).metrics["forget"] is made
