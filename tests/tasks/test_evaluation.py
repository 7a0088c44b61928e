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
        return Evaluation({"good": Metric(0.5, count, 0.1), "forget": self.metrics(model)}, [])


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


def test_what_is_whole_passes():
    made = Metric(0.25, 3, None)
    assert evaluate_task(Given(lambda lm: made), None, "test", 3, base=None).metrics["forget"] is made
