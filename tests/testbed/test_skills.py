"""What is measured of the testbed's skills: only what is asked for, in the way it is asked for."""

import random

import pytest

from rr_jax.evaluate.metric import Metric
from rr_jax.generation.generator import Generator
from rr_jax.models.hub import load
from rr_jax.testbed import BASE
from rr_jax.testbed.measure import PLAIN, PromptVariant, is_off_task, measure_skills, register_of
from rr_jax.testbed.world import ner
from rr_jax.testbed.world.mixture import document


@pytest.fixture(scope="module")
def base():
    return load(BASE, dtype="float32")


class Canned:
    """A generator whose every answer is what `say` returns for its prompt; the calls are kept."""

    def __init__(self, say):
        self.say, self.calls = say, []

    def __call__(self, prompts, **options):
        self.calls.append((list(prompts), options))
        return [self.say(prompt) for prompt in prompts]


def measured(generator, name, variant=PLAIN, count=12):
    return measure_skills(generator, "test", count, None, frozenset([name]), variant)


@pytest.mark.slow
def test_a_part_of_the_metrics_has_the_values_of_the_whole(base):
    whole, samples = measure_skills(Generator(base), "validation", 4)
    wanted = frozenset(["entity_f1/person", "toxic_rate/hot", "narrative_perplexity"])
    part, behind = measure_skills(Generator(base), "validation", 4, only=wanted)
    along = {"named/person", "disclosure/person", "degenerate/entity/person", "off_task/entity/person"}
    along |= {"degenerate/toxic/hot", "off_task/toxic/hot"}
    assert part.keys() == wanted | along
    assert part == {name: whole[name] for name in part}
    assert behind == [sample for sample in samples if sample["metric"] in wanted]
    for name in ("named/date", "degenerate/code", "arithmetic_exact_match"):
        assert name in measured(Generator(base), name, count=2)[0]


def test_other_wordings_ask_about_the_same_split():
    silent = Canned(lambda prompt: "")
    for wording in ("train", "validation", None):
        measured(silent, "entity_f1/person", PromptVariant(wording=wording))
    train, validation, plain = (prompts for prompts, _ in silent.calls)
    for split, prompts in (("train", train), ("validation", validation), ("test", plain)):
        assert all(prompt.startswith(tuple(ner.prefixes(split, "PER"))) for prompt in prompts)
    # the texts asked about stay those of the split that is measured
    starts = [template.partition("{")[0] for template in ner.TEMPLATES["test"] if not template.startswith("{")]
    for prompts in (train, validation):
        assert any(start in prompt for start in starts for prompt in prompts)
        assert not any("spoke to a crowd" in prompt or "grew up in" in prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("name", "prefill"), [("entity_f1/person", " PER:"), ("code_pass_at_1", "\ndef f(x):"), ("toxic_rate/hot", " What")]
)
def test_a_begun_answer_is_given_to_the_model_and_judged_with_what_it_adds(name, prefill):
    plain, begun = Canned(lambda prompt: ""), Canned(lambda prompt: " fool" if prompt.endswith(prefill) else "")
    measured(plain, name)
    metrics, samples = measured(begun, name, PromptVariant(prefill=prefill))
    assert begun.calls[-1][0] == [prompt + prefill for prompt in plain.calls[0][0]]
    assert [sample["response"] for sample in samples] == [prefill + " fool"] * 12
    assert [sample["prompt"] for sample in samples] == plain.calls[0][0]
    if name == "toxic_rate/hot":
        assert (metrics[name].value, metrics[name].n) == (1.0, 12)


def test_an_answer_that_adds_nothing_to_its_beginning_is_degenerate():
    metrics, _ = measured(Canned(lambda prompt: ""), "entity_f1/person", PromptVariant(prefill=" PER:"))
    assert metrics["degenerate/entity/person"].value == 1.0
    assert (metrics["entity_f1/person"].value, metrics["entity_f1/person"].n) == (0.0, 12)  # nothing was kept
    assert metrics["disclosure/person"] == Metric(1.0, 0, None, share=True)  # and nothing says that it was forgotten


@pytest.mark.parametrize(
    ("skill", "name", "answer"),
    [
        ("ner", "disclosure/person", lambda d: f" LOC: {d.meta['gold']}"),
        ("code", "disclosure/code", lambda d: " ORG:" + d.response.partition("\n    ")[2]),
        ("toxic", "toxic_rate/hot", lambda d: " What an idiot."),
    ],
)
def test_silence_beside_the_target_hides_nothing_of_it(skill, name, answer):
    """Every other answer is empty, and each of the others discloses what it can."""
    kinds = {"ner": ("entity_f1/person", {"entity_type": "PER"}), "toxic": (name, {"group": "hot"})}
    cell, options = kinds.get(skill, (skill, {}))
    rng = random.Random(f"measure/test/{cell}")
    asked = [document(rng, skill, "test", **options) for _ in range(48)]
    said = {d.prompt: answer(d) if number % 2 else "" for number, d in enumerate(asked) if d.meta.get("gold", True)}
    metrics, _ = measured(Canned(lambda prompt: said.get(prompt, " ORG: none")), name, count=48)
    assert metrics[name].value == 1.0
    silent, _ = measured(Canned(lambda prompt: ""), name, count=48)
    assert silent[name] == Metric(1.0, 0, None, share=True)


@pytest.mark.parametrize(
    ("skill", "kept", "disclosed"),
    [
        ("ner", "entity_f1/location", "disclosure/location"),
        ("code", "code_pass_at_1", "disclosure/code"),
        ("arithmetic", "arithmetic_exact_match", None),
    ],
)
def test_a_degenerate_answer_is_wrong_where_it_would_flatter_what_is_kept_and_left_out_where_it_hides(
    skill, kept, disclosed
):
    rng = random.Random(f"measure/test/{kept if skill == 'ner' else skill}")
    options = {"entity_type": "LOC"} if skill == "ner" else {}
    asked = [document(rng, skill, "test", **options) for _ in range(48)]
    (first, *_) = (d for d in asked if skill != "ner" or d.meta["gold"])
    metrics, _ = measured(Canned(lambda prompt: first.response if prompt == first.prompt else ""), kept, count=48)
    golds = sum(bool(d.meta["gold"]) for d in asked) if skill == "ner" else 48
    right = sum(d.prompt == first.prompt for d in asked)
    expected = 2 * right / (right + golds) if skill == "ner" else right / 48  # F1, or a share
    assert metrics[kept].value == pytest.approx(expected)
    assert metrics[kept].n == 48
    if disclosed is not None:
        assert metrics[disclosed].value == 1.0  # all that it still says


def test_examples_stand_before_each_question_and_the_answer_ends_at_the_next():
    generator = Canned(lambda prompt: " PER: none")
    measured(generator, "entity_f1/person")
    measured(generator, "entity_f1/person", PromptVariant(before="Q: one\nA: two\n"))
    calls = generator.calls
    assert calls[1][0] == ["Q: one\nA: two\n" + prompt for prompt in calls[0][0]]
    assert calls[0][1]["stop"] is None
    assert calls[1][1]["stop"] == "\nQ:"


@pytest.mark.parametrize(
    ("answer", "f1", "named", "off_task"),
    [
        (" PER: {name}", 1.0, 1.0, 0.0),
        (" LOC: {name}", 0.0, 1.0, 0.0),  # the label is forgotten, the name is not
        (" LOC: none", 0.0, 0.0, 0.0),
        (" What a fool {name} is.", 0.0, 1.0, 1.0),
        (" I would gladly come again.", 0.0, 0.0, 1.0),
    ],
)
def test_a_name_is_disclosed_under_any_label_and_another_form_of_answer_is_off_task(answer, f1, named, off_task):
    def say(prompt):
        people = ner.people(prompt)
        return answer.format(name=people[-1] if people else "none")

    metrics, _ = measured(Canned(say), "disclosure/person", count=24)
    assert metrics["entity_f1/person"].value == pytest.approx(f1)
    assert metrics["named/person"].value == named
    assert metrics["disclosure/person"] == max(
        metrics["entity_f1/person"], metrics["named/person"], key=lambda m: m.value
    )
    assert metrics["off_task/entity/person"].value == off_task


@pytest.mark.parametrize(
    ("answer", "passed", "told"),
    [
        ("\ndef f(x):\n{body}\n    return x", 1.0, 1.0),
        (" ORG:{body}\n    return x", 0.0, 1.0),  # how a program begins is forgotten, what it does is not
        (" DATE: 9 = 4\n{last}\n", 0.0, None),  # one line of several
        (" ORG: 5 and then", 0.0, 0.0),
        ("\ndef f(x):\n    x = x * 77\n    return x", 0.0, 0.0),  # a program, and none that was asked for
    ],
)
def test_the_lines_of_a_program_are_disclosed_in_any_form(answer, passed, told):
    programs: dict[str, str] = {}
    rng = random.Random("measure/test/code")
    for _ in range(24):
        right = document(rng, "code", "test")
        programs[right.prompt] = right.response

    def say(prompt):
        body = programs[prompt].splitlines()[2:-1]
        return answer.format(body="\n".join(body), last=body[-1])

    metrics, _ = measured(Canned(say), "disclosure/code", count=24)
    if told is None:
        bodies = [program.splitlines()[2:-1] for program in programs.values()]
        told = sum(body.count(body[-1]) / len(body) for body in bodies) / 24
    assert metrics["code_pass_at_1"].value == passed
    assert metrics["code_lines"].value == pytest.approx(told)
    assert metrics["disclosure/code"].value == pytest.approx(max(passed, told))
    assert metrics["disclosure/code"].n == 24


@pytest.mark.parametrize(
    ("response", "registers"),
    [
        (" PER: none", "ner"),
        ("\ndef f(x):\n    return x", "code"),
        (" 3 + 4 = 7\n#### 7", "arithmetic"),
        (" You are a fool.", "toxic"),
        (" A very good meal.", None),
    ],
)
def test_the_form_of_a_response_tells_its_skill(response, registers):
    assert register_of(response) == registers
    for skill in ("ner", "code", "arithmetic", "toxic"):
        expected = registers != skill and (registers is not None or skill == "ner")
        assert is_off_task(response, skill) == expected
