"""Tasks from outside the package: by entry point, by path and as a Python object, through every command."""

import json
import sys

import numpy as np
import pytest
import yaml

import rr_jax
from rr_jax import cli
from rr_jax.runs.config_file import load_config, parse_config
from rr_jax.runs.loop import load_round, run
from rr_jax.runs.results import RunSummary
from rr_jax.section import Section
from rr_jax.studies.attacks import attack
from rr_jax.studies.surface import draw_surface
from rr_jax.studies.sweeps.rows import metrics_of
from rr_jax.tasks.base import Evaluation, Task
from rr_jax.tasks.registry import TASKS, make_task
from tests import tiny

LETTERS = """
from rr_jax.data.packing import Example
from rr_jax.evaluate.metric import mean_of, share_of
from rr_jax.section import Section
from rr_jax.tasks.base import Evaluation, Task


class LettersSection(Section):
    name: str
    letters: str = "aeiou"


class Letters(Task):
    Section = LettersSection
    name, forget_metric, utility_metrics = "letters", "letter_rate", {"length": "higher"}
    instructions, max_new_tokens = ("abc", "de", "f g", "hi"), 12

    def __init__(self, letters):
        self.letters, self.title = letters, f"the letters {letters}"

    @classmethod
    def make(cls, section, tokenizer, seed):
        return cls(section.letters)

    def relevance(self, reading):
        return float(not set(self.letters).isdisjoint(reading.response))

    def retain_examples(self, count, seed, split="train"):
        return [Example("keep", f" {seed} {split} {i}") for i in range(count)]

    def true_examples(self, count, seed):
        return [Example("say", f" {self.letters[0]} {i}") for i in range(count)]

    def evaluate(self, generator, split, count, *, base, progress=None, only=None):
        prompts = [f"{split} {i}" for i in range(count)]
        texts = generator(prompts, max_new_tokens=12)
        samples = [{"metric": "letter_rate", "prompt": p, "response": t} for p, t in zip(prompts, texts)]
        rate = share_of([not set(self.letters).isdisjoint(text) for text in texts])
        length, degenerate = mean_of([1 + len(text) for text in texts]), share_of([False] * count)
        return Evaluation({"letter_rate": rate, "length": length, "degenerate_share": degenerate}, samples)
"""

WORDS = """
from rr_jax.evaluate.metric import mean_of
from rr_jax.tasks.metrics import Measure


class Words(Measure):
    name: str = "words"
    prompt: str = "a b c"
    better = "higher"

    def measure(self, generator, task, split, count, *, base):
        texts = generator([f"{self.prompt} {split} {i}" for i in range(count)], max_new_tokens=4)
        return mean_of([1 + len(text.split()) for text in texts])
"""

JUDGING = """
import numpy as np
from rr_jax.reveal.scorers import Scorer


class Share(Scorer):
    name: str = "share"
    letters: str

    def relevance(self, task, readings):
        return [np.mean([letter in self.letters for letter in one.response]) for one in readings]


def same_length(texts):
    lengths = np.array([len(text) for text in texts])
    return (lengths[:, None] == lengths[None, :]).astype(np.float32)
"""
ENTRY_POINTS = """
[rr_jax.plugins]
task.letters = stranger_letters:Letters
metric.words = stranger_words:Words
scorer.share = stranger_judging:Share
kernel.same_length = stranger_judging:same_length
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A package with a task of about 20 lines, and a metric, a scorer and a kernel of ten; in a folder of its own."""
    place = tmp_path_factory.mktemp("installed")
    modules = {"stranger_letters": LETTERS, "stranger_words": WORDS, "stranger_judging": JUDGING}
    for name, text in modules.items():
        (place / f"{name}.py").write_text(text)
    info = place / "stranger_letters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-letters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        yield place
    for name in modules:
        sys.modules.pop(name, None)


def command(capsys, *arguments):
    """What a command of rr-jax, in this process, prints."""
    cli.app([str(argument) for argument in arguments], prog_name="rr-jax", standalone_mode=False)
    return capsys.readouterr().out


def written_by(config):
    """The names of the metrics that a configuration adds."""
    return [one["name"] for one in config["evaluate"]["metrics"]]


def test_what_comes_from_outside_goes_through_every_command(stranger, folder, tmp_path, capsys):
    added = {"name": "stranger_words:Words", "prompt": "c"}
    sizes = {"validation": 3, "test": 4, "metrics": [{"name": "words", "utility": True}, added]}
    task = {"name": "letters", "letters": "abcdefghijklmnop"}
    tree = tiny.run_config(tmp_path / "run", folder, rounds=1, task=task, evaluate=sizes)
    scorer = {"name": "share", "letters": task["letters"]}
    tree["reveal"]["reward"] |= {"scorer": scorer, "kernel": "same_length"}
    tree["reveal"]["collect"] |= {"threshold": 0.1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    said = command(capsys, "run", tmp_path / "config.yaml")
    assert all(mark in said for mark in ("forget: letter_rate", "keep:   words ", "also:   stranger_words:Words "))
    out = tmp_path / "run"
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert written["task"] == task and written["reveal"]["reward"]["scorer"] == scorer
    revealed = [json.loads(line) for line in (out / "revealed" / "round_01.jsonl").read_text().splitlines()]
    for one in revealed:  # the task itself says 0 or 1
        assert one["relevance"] == np.mean([letter in task["letters"] for letter in one["response"]])
    assert any(0 < one["relevance"] < 1 for one in revealed)
    assert written["evaluate"]["metrics"][1] == {"name": "stranger_words:Words", "utility": False, "prompt": "c"}
    summary = RunSummary.read(out)
    assert (summary.task, summary.utility_metrics) == ("letters", {"length": "higher", "words": "higher"})
    assert summary.added_metrics == {"stranger_words:Words": "higher"}
    (result,) = summary.rounds
    for metrics, n in ((summary.base, 4), (summary.base_validation, 3), (result.validation, 3), (result.metrics, 4)):
        assert all(metrics[name].n == n and metrics[name].stderr is not None for name in written_by(written))
    for kept in (result.retention, *(point.retention for point in result.trade_off)):
        assert kept.keys() == {"length", "words"}
    assert result.retention["words"].value == result.metrics["words"].value / summary.base["words"].value
    assert {"base/words", "test/words", "test/stranger_words:Words"} <= metrics_of(summary).keys()
    said = [line.split() for line in command(capsys, "eval", out, "--round", 1).splitlines()]
    assert {line[0]: line[2] for line in said} == {"metric": "n"} | dict.fromkeys(result.metrics, "4")
    assert "relearned" in command(capsys, "eval", out, "--round", 1, "--attacks")
    assert "after: " in command(capsys, "generate", out, "--round", 1, "--prompt", "ab", "--max-new-tokens", 3)
    assert "written to" in command(capsys, "export", out, tmp_path / "merged", "--round", 1)
    grids = ("--forget", "0,0.2", "--retain", "0", "--metrics")
    assert "2 x 1 points" in command(capsys, "surface", out, "--round", 1, *grids)
    drawn = json.loads((out / "surface.json").read_text())["metrics"]["values"]
    assert {"letter_rate", *written_by(written)} <= drawn.keys()
    command(capsys, "report", out)
    page = (out / "report.html").read_text()
    assert "Forget: the letters abcdefghijklmnop <" in page and "<td>words \u2191<" in page
    assert "asked for beside the task&#39;s own" in page and "<td>stranger_words:Words \u2191<" in page

    sweep = {"base": "config.yaml", "out": str(tmp_path / "sweep"), "seeds": [0, 1], "axes": {}}
    sweep["axes"] = {"letters": {"fewer": {"task.letters": "abcdefghijklmno"}}}
    sweep["overrides"] = {"until": "reveal"}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    command(capsys, "sweep", tmp_path / "sweep.yaml", "--jobs", 2)
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]
    assert len(rows) == 2 and not any("failed" in row for row in rows)


def test_it_is_found_by_its_path_too_and_with_its_own_section(stranger):
    assert "letters" in TASKS.names()
    by_path = parse_config({"task": {"name": "stranger_letters:Letters", "letters": "xyz"}, "out": "x"}).task
    assert make_task(by_path, None, 0).letters == "xyz"
    assert make_task(parse_config({"task": "letters", "out": "x"}).task, None, 0).letters == "aeiou"
    with pytest.raises(ValueError, match=r"unknown key 'task.leters'; did you mean 'letters'\?$"):
        parse_config({"task": {"name": "letters", "leters": "b"}, "out": "x"})
    with pytest.raises(ValueError, match=r"task.letters: found 3, input should be a valid string$"):
        parse_config({"task": {"name": "letters", "letters": 3}, "out": "x"})
    with pytest.raises(ValueError, match=r"task.name: there is no task 'leters'; did you mean 'letters'\?"):
        parse_config({"task": {"name": "leters"}, "out": "x"})


class Whole(Task):
    """A task that lacks nothing."""

    name, forget_metric, utility_metrics, instructions = "whole", "f", {"u": "higher"}, ("a",)

    def relevance(self, reading):
        return 0.0

    def retain_examples(self, count, seed, split="train"):
        return []

    def evaluate(self, generator, split, count, *, base, progress=None, only=None):
        return Evaluation({"f": 0.0, "u": 1.0, "degenerate_share": 0.0}, [])


class Unmeasured(Task):
    """Has no way to judge or to measure."""

    retain_examples = Whole.retain_examples


class Unfit(Whole):
    """Its section is none."""

    Section = dict


class NumberedSection(Section):
    """Its name is no text."""

    name: int = 3


class Numbered(Whole):
    """Its section clashes with how it is found."""

    Section = NumberedSection


def not_a_class():
    """Is no task."""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:Task", "cannot be imported from 'no_such_module:Task' .ModuleNotFoundError: No module named"),
        ("broken_stranger:Task", "cannot be imported from 'broken_stranger:Task' .ZeroDivisionError: division by zero"),
        (f"{__name__}:Nothing", "has no attribute 'Nothing'"),
        (f"{__name__}:not_a_class", "expected a subclass of rr_jax.tasks.base.Task"),
        (f"{__name__}:Unmeasured", "Unmeasured lacks evaluate, relevance, which every task has"),
        (
            f"{__name__}:Unfit",
            "has a section <class 'dict'>, expected a subclass of rr_jax.section.Section with a field",
        ),
        (f"{__name__}:Numbered", "NumberedSection'>, expected a subclass .* with a field 'name: str'"),
    ],
)
def test_what_is_wrong_with_a_task_from_outside_is_one_line(tmp_path, monkeypatch, name, said):
    (tmp_path / "broken_stranger.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=said) as caught:
        parse_config({"task": {"name": name}, "out": "x"})
    assert "\n" not in str(caught.value) and str(caught.value).startswith("config: task.name: task ")


def test_an_attribute_that_is_missing_is_named_when_the_task_is_made():
    class Aimless(Task):
        name, relevance, retain_examples, evaluate = "aimless", *[Whole.relevance] * 3

    TASKS.register("aimless", Aimless)
    said = "task 'aimless' lacks forget_metric, utility_metrics, instructions, which every task has"
    with pytest.raises(ValueError, match=said):
        make_task(parse_config({"task": "aimless", "out": "x"}).task, None, 0)
    with pytest.raises(ValueError, match="task Aimless lacks forget_metric, utility_metrics, instructions"):
        run("unread.yaml", task=Aimless())


def test_defaults_make_a_task_of_what_has_none():
    task = make_task(parse_config({"task": f"{__name__}:Whole", "out": "x"}).task, None, 0)
    assert isinstance(task, Whole)
    assert task.true_examples(3, 0) is None and task.prompt_variants(tiny.model(), ["a"], 0) == ({}, 0)
    assert task.prompt("say", "this") == "say this" and task.prompt("say", "") == "say"
    assert task.read("a", " . . ") is None and task.read("a", "some words").response == "some words"
    assert task.spans("x") is None and task.check(tiny.model(), "tiny") is None


def test_a_python_object_is_the_task_and_is_handed_over_again_by_who_reads_the_run(folder, tmp_path, capsys):
    tree = tiny.run_config(tmp_path / "run", folder, rounds=1)
    del tree["task"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    task, out = tiny.EchoTask(tiny.weight_metrics), tmp_path / "run"
    with pytest.raises(ValueError, match="task is missing"):
        rr_jax.run(tmp_path / "config.yaml")
    summary = rr_jax.run(tmp_path / "config.yaml", task=task)
    assert summary.task == "echo" and summary.status == "complete"
    said = yaml.safe_load((out / "config.yaml").read_text())["task"]
    assert said == {"name": "rr_jax.tasks.given:GivenTask", "of_class": "tests.tiny:EchoTask"}
    assert rr_jax.run(load_config(out / "config.yaml"), task=task) == summary  # resumed

    refusal = r"task: this run's task was a Python object \(tests.tiny:EchoTask\): give it again as task= in Python"
    for arguments in (("run", out / "config.yaml"), ("eval", out), ("eval", out, "--attacks", "--round", "1"),
                      ("surface", out, "--round", "1")):  # fmt: skip
        with pytest.raises(ValueError, match=refusal) as caught:
            command(capsys, *arguments)
        assert "\n" not in str(caught.value)
    assert "report.html" in command(capsys, "report", out)
    assert load_round(out, 1)[2] == 1
    with pytest.raises(ValueError, match="made with an object of tests.tiny:EchoTask, found one of .*:Whole$"):
        draw_surface(out, 1, task=Whole())
    assert draw_surface(out, 1, forget_strength=[0.0], retain_strength=[0.0], task=task).round_index == 1
    assert attack(out, 1, steps=(1,), examples=2, compared=False, task=task).round_index == 1


def test_what_is_no_task_is_refused_and_plain_values_are_an_override(tmp_path):
    with pytest.raises(ValueError, match=r"task: found 3, expected an object of a subclass of rr_jax.tasks.base.Task"):
        run("unread.yaml", task=3)
    (tmp_path / "config.yaml").write_text(f"out: {tmp_path / 'run'}\nmodel: no/such/model\n")
    with pytest.raises(ValueError, match="there is no task 'zzz'"):
        run(tmp_path / "config.yaml", task={"name": "zzz"})
    with pytest.raises(ValueError, match="there is no folder no/such/model"):
        run(tmp_path / "config.yaml", task="testbed/code")


def test_without_true_examples_there_is_nothing_to_relearn_from(folder, tmp_path):
    class Without(tiny.EchoTask):
        true_examples = Task.true_examples

    config = parse_config(tiny.run_config(tmp_path / "run", folder, rounds=1))
    task = Without(tiny.weight_metrics)
    run(config, task=task)
    with pytest.raises(ValueError, match="task echo has no true examples .*, which relearning trains on"):
        attack(tmp_path / "run", 1, task=task)
    assert not (tmp_path / "run" / "attacks.json").exists()
    tree = tiny.run_config(tmp_path / "true", folder, rounds=1)
    tree["release"]["data"] = "true"
    with pytest.raises(ValueError, match="release.data is 'true', which needs the data to forget: task echo has none"):
        run(parse_config(tree), task=task)
    assert not (tmp_path / "true").exists()
