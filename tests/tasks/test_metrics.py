"""Metrics beside a task's own: found by name, kept within the utility budget, and what is wrong with each in one line."""

import json

import pytest

from rr_jax.evaluate.metric import Metric, values_of
from rr_jax.runs.checks import check_run
from rr_jax.runs.config_file import load_config, parse_config
from rr_jax.runs.reuse import UNREAD, stage_key
from rr_jax.section import Section
from rr_jax.tasks.base import retention
from rr_jax.tasks.evaluation import evaluate_task
from rr_jax.tasks.metrics import METRICS, Measure, utility_of
from tests import tiny

TASK = tiny.EchoTask(tiny.weight_metrics)


class Given(Measure):
    """Measures what it is made with."""

    name: str = "given"
    value: float = 0.5
    better = "lower"

    def measure(self, generator, task, split, count, *, base):
        """As many units as are asked for."""
        return Metric(self.value, count, 0.1)


class Bare(Given):
    """Gives no n."""

    def measure(self, generator, task, split, count, *, base):
        """A number alone."""
        return self.value


class Undirected(Measure):
    """Does not say which way is better."""

    measure = Given.measure


class Misdirected(Given):
    """Says it in another word."""

    better = "up"


class Unmeasured(Measure):
    """Has no way to measure."""

    better = "higher"


class Numbered(Given):
    """Its section clashes with how it is found."""

    name: int = 3


class NoMeasure(Section):
    """Is a section, and no metric."""

    name: str = "x"


def parsed(*metrics):
    tree = tiny.run_config("out", "model")
    return parse_config(tree | {"evaluate": {"metrics": list(metrics)}})


def evaluated(*metrics):
    return evaluate_task(TASK, tiny.Generator(tiny.model()), "test", 3, base=None, metrics=metrics).metrics


def test_it_is_found_by_registration_and_by_its_path_and_comes_after_the_task_s(tmp_path, monkeypatch):
    monkeypatch.setattr(METRICS, "_registered", {})
    METRICS.register("given", Given)
    config = parsed("given", {"name": f"{__name__}:Given", "value": 2.0, "utility": True})
    assert [type(one) for one in config.evaluate.metrics] == [Given, Given]
    found = evaluated(*config.evaluate.metrics)
    assert list(found) == ["forget", "use", "degenerate", "given", f"{__name__}:Given"]
    assert found["given"] == Metric(0.5, 3, 0.1) and found[f"{__name__}:Given"].value == 2.0
    (tmp_path / "config.yaml").write_text("task: testbed/code\nout: x\n")
    overridden = load_config(tmp_path / "config.yaml", ["evaluate.metrics=[given]"])
    assert overridden.evaluate.metrics == [Given()]


def test_what_counts_as_utility_is_kept_as_the_task_s_are():
    counted, other = Given(utility=True), Given(name="other")
    utility = utility_of(TASK, [counted, other])
    assert utility == {"use": "higher", "given": "lower"}
    after, base = ({"use": Metric(use, 1), "given": Metric(given, 1)} for use, given in ((2.0, 4.0), (4.0, 3.0)))
    assert values_of(retention(utility, after, base)) == {"use": 0.5, "given": 0.75}


def test_without_any_nothing_differs_and_with_one_only_stages_that_measure():
    without, given = parsed(), parsed(f"{__name__}:Given")
    assert json.loads(stage_key(without, "measure"))["evaluate"]["metrics"] == []
    assert utility_of(TASK, []) == TASK.utility_metrics
    alone = TASK.evaluate(tiny.Generator(tiny.model()), "test", 3, base=None)
    assert evaluate_task(TASK, tiny.Generator(tiny.model()), "test", 3, base=None) == alone
    shared = {stage for stage in UNREAD if stage_key(without, stage) == stage_key(given, stage)}
    assert shared == {"reveal", "train"}
    changed = parsed({"name": f"{__name__}:Given", "value": 0.6})
    assert stage_key(given, "base") != stage_key(changed, "base")


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("lenth", "metrics.0: there is no metric 'lenth'; expected one of 'package.module:Name'$"),
        ("no_such_module:X", "metrics.0: metric 'no_such_module:X' cannot be imported from 'no_such_module:X'"),
        (f"{__name__}:Undirected", "metrics.0: metric '.*Undirected' lacks better, which every metric has$"),
        (f"{__name__}:Misdirected", "Misdirected.better is 'up', expected 'higher' or 'lower'$"),
        (f"{__name__}:Unmeasured", "metrics.0: metric .*: Unmeasured lacks measure, which every metric has$"),
        (f"{__name__}:Numbered", "Numbered'>, expected a subclass of .*Section with a field 'name: str'$"),
        (f"{__name__}:NoMeasure", "NoMeasure'>, expected a subclass of rr_jax.tasks.metrics.Measure$"),
        ({"name": f"{__name__}:Given", "valu": 1.0}, "unknown key 'evaluate.metrics.0.valu'; did you mean 'value'"),
        ({"name": f"{__name__}:Given", "utility": 1}, "metrics.0.utility: found 1, input should be a valid boolean$"),
        ({"value": 1.0}, "metrics.0.name is missing, expected one of 'package.module:Name'$"),
    ],
)
def test_what_is_wrong_with_one_is_one_line(metric, said):
    with pytest.raises(ValueError, match=said) as caught:
        parsed(metric)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("config: ")


def test_a_name_is_given_once_and_is_none_of_the_task_s():
    with pytest.raises(ValueError, match=f"config: evaluate.metrics: .*metric '{__name__}:Given' is given twice$"):
        parsed(f"{__name__}:Given", {"name": f"{__name__}:Given", "value": 2.0})
    said = "evaluate.metrics: task 'echo' measures '{}' itself: leave it out, or give yours another name$"
    for name in ("forget", "use", "degenerate"):  # before anything is computed
        config = parsed()
        config = config.model_copy(
            update={"evaluate": config.evaluate.model_copy(update={"metrics": [Given(name=name)]})}
        )
        with pytest.raises(ValueError, match=said.format(name)):
            check_run(config, TASK, tiny.model(), None)
    more = tiny.EchoTask(lambda lm: tiny.weight_metrics(lm) | {"given": 1.0})  # which it gives without having said so
    with pytest.raises(ValueError, match=said.format("given")):
        evaluate_task(more, tiny.Generator(tiny.model()), "test", 3, base=None, metrics=[Given()])


def test_a_metric_without_n_or_a_share_of_a_negative_value_is_refused():
    with pytest.raises(ValueError, match=r"evaluate.metrics: 'given' gives its metric as 0\.5, without n: expected"):
        evaluated(Bare())
    with pytest.raises(ValueError, match=r"'given' counts as utility, .* expected a value of at least 0, found -1$"):
        evaluated(Given(value=-1.0, utility=True))
    assert evaluated(Given(value=-1.0))["given"].value == -1.0
