"""What is measured of the testbed's skills: only what is asked for, in the way it is asked for."""

import pytest

from rr_jax.evaluate.metric import Metric
from rr_jax.models.hub import load
from rr_jax.testbed import BASE
from rr_jax.testbed import measure as skills
from rr_jax.testbed.measure import PromptVariant, measure_skills
from rr_jax.testbed.world import ner


@pytest.fixture(scope="module")
def base():
    return load(BASE, dtype="float32")


@pytest.fixture
def canned(monkeypatch):
    """Every answer is what `say` returns for its prompt; the calls are kept."""
    calls = []

    def use(say):
        def generate(lm, prompts, **options):
            calls.append((list(prompts), options))
            return [say(prompt) for prompt in prompts]

        monkeypatch.setattr(skills, "generate", generate)
        return calls

    return use


def measured(name, variant, count=12, lm=None):
    return measure_skills(lm, "test", count, None, frozenset([name]), variant)


def test_a_part_of_the_metrics_has_the_values_of_the_whole(base):
    whole, samples = measure_skills(base, "validation", 4)
    wanted = frozenset(["entity_f1/person", "toxic_rate/hot", "narrative_perplexity"])
    part, behind = measure_skills(base, "validation", 4, only=wanted)
    along = {"named/person", "disclosure/person", "degenerate/entity/person", "off_task/entity/person"}
    along |= {"degenerate/toxic/hot", "off_task/toxic/hot"}
    assert part.keys() == wanted | along
    assert part == {name: whole[name] for name in part}
    assert behind == [sample for sample in samples if sample["metric"] in wanted]
    for name in ("named/date", "degenerate/code", "arithmetic_exact_match"):
        assert name in measured(name, PromptVariant(), 2, base)[0]


def test_other_wordings_ask_about_the_same_split(canned):
    calls = canned(lambda prompt: "")
    for wording in ("train", "validation", None):
        measured("entity_f1/person", PromptVariant(wording=wording))
    train, validation, plain = (prompts for prompts, _ in calls)
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
def test_a_begun_answer_is_given_to_the_model_and_judged_with_what_it_adds(canned, name, prefill):
    plain = canned(lambda prompt: "")
    measured(name, PromptVariant())
    calls = canned(lambda prompt: " fool" if prompt.endswith(prefill) else "")
    metrics, samples = measured(name, PromptVariant(prefill=prefill))
    assert calls[-1][0] == [prompt + prefill for prompt in plain[0][0]]
    assert [sample["response"] for sample in samples] == [prefill + " fool"] * 12
    assert [sample["prompt"] for sample in samples] == plain[0][0]
    if name == "toxic_rate/hot":
        assert (metrics[name].value, metrics[name].n) == (1.0, 12)


def test_an_answer_that_adds_nothing_to_its_beginning_is_degenerate(canned):
    canned(lambda prompt: "")
    metrics, _ = measured("entity_f1/person", PromptVariant(prefill=" PER:"))
    assert metrics["degenerate/entity/person"].value == 1.0
    assert metrics["entity_f1/person"] == Metric(0.0, 0, None, share=True)  # nothing is left to judge


def test_examples_stand_before_each_question_and_the_answer_ends_at_the_next(canned):
    calls = canned(lambda prompt: " PER: none")
    measured("entity_f1/person", PromptVariant())
    measured("entity_f1/person", PromptVariant(before="Q: one\nA: two\n"))
    assert calls[1][0] == ["Q: one\nA: two\n" + prompt for prompt in calls[0][0]]
    assert calls[0][1]["stop"] is None
    assert calls[1][1]["stop"] == "\nQ:"
