"""The world: determinism, the wall between splits, and oracles that agree with plain Python."""

import random
import re
from itertools import pairwise

import pytest

from rr_jax.evaluate.sandbox.pass_at_k import check_solutions
from rr_jax.testbed.world import arithmetic, code, lexicon, narrative, ner, toxic
from rr_jax.testbed.world import mixture as world
from rr_jax.testbed.world.document import SPLITS, Split, split_of

HELD_OUT: tuple[Split, ...] = ("validation", "test")


def sample(skill: str, split: Split, size: int = 200, **options):
    rng = random.Random(f"{skill}/{split}")
    return [world.document(rng, skill, split, **options) for _ in range(size)]


@pytest.fixture(scope="module")
def train_texts():
    return world.corpus("leakage", 20_000) + world.corpus("leakage", 5_000, world.FIRST_PHASE)


@pytest.mark.parametrize("skill", world.SKILLS)
def test_the_same_state_of_chance_gives_the_same_document(skill):
    assert sample(skill, "validation", 20) == sample(skill, "validation", 20)


def test_the_corpus_follows_from_its_seed():
    assert world.corpus(3, 50) == world.corpus(3, 50)
    assert world.corpus(3, 50) != world.corpus(4, 50)


def test_splits_are_eighty_ten_ten():
    drawn = [split_of("a composition", i) for i in range(5000)]
    shares = [drawn.count(split) / len(drawn) for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_entity_words_have_one_role_and_begin_no_other():
    lists = [lexicon.FIRST_NAMES, lexicon.LAST_NAMES, lexicon.PLACES, lexicon.PLACE_PREFIXES, lexicon.FIRMS]
    lists += [lexicon.FIRM_KINDS, lexicon.MONTHS, lexicon.WEEKDAYS]
    assert [len(words) for words in lists] == [300, 300, 200, 8, 150, 20, 12, 7]
    words = sorted(word for words in lists for word in words)
    assert len(set(words)) == len(words)
    assert not [pair for pair in pairwise(words) if pair[1].startswith(pair[0])]


def test_no_held_out_entity_stands_in_the_training_text(train_texts):
    for document in train_texts:
        words = [word.strip(".,?:") for word in document.text.split()]
        for first, second in pairwise(words):
            entity_type = lexicon.pair_type(first, second)
            assert entity_type is None or split_of(entity_type, first, second) == "train", document.text


def test_no_held_out_composition_or_document_is_trained_on(train_texts):
    programs = {d.meta["operations"] for d in train_texts if d.skill == "code"}
    problems = {(d.meta["structure"], d.meta["numbers"]) for d in train_texts if d.skill == "arithmetic"}
    opinions = {(d.meta["verb"], d.meta["frame"]) for d in train_texts if d.skill == "toxic"}
    stories = {d.meta["composition"] for d in train_texts if d.skill == "narrative"}
    prompts = {d.prompt for d in train_texts if d.prompt}
    for split in HELD_OUT:
        assert not programs & {d.meta["operations"] for d in sample("code", split)}
        assert not problems & {(d.meta["structure"], d.meta["numbers"]) for d in sample("arithmetic", split)}
        for wording in (split, "train"):
            held_out = sample("toxic", split, wording=wording)
            assert not opinions & {(d.meta["verb"], d.meta["frame"]) for d in held_out}
        assert not stories & {d.meta["composition"] for d in sample("narrative", split)}
        for skill in ("ner", "code", "arithmetic", "toxic"):
            assert not prompts & {d.prompt for d in sample(skill, split)}


def test_no_held_out_template_or_wording_is_trained_on(train_texts):
    text = "\n".join(document.text for document in train_texts)
    for split in HELD_OUT:
        for module in (ner, code, arithmetic):
            assert not set(module.WORDINGS[split]) & set(module.WORDINGS["train"])
        assert not set(ner.TEMPLATES[split]) & set(ner.TEMPLATES["train"])
        for template in ner.TEMPLATES[split]:
            gaps = r"[A-Z0-9][\w ]*".join(map(re.escape, re.split(r"\{\w+\}", template)))
            assert re.search(gaps, text) is None, template
        beginnings = code.prefixes(split) + arithmetic.prefixes(split)
        beginnings += [prefix for entity_type in ner.TYPES for prefix in ner.prefixes(split, entity_type)]
        trained = {w.phrase for w in toxic.WORDINGS["train"]}
        assert not trained & {w.phrase for w in toxic.WORDINGS[split]}
        for beginning in beginnings:
            assert f"{beginning} " not in text, beginning


def test_prefixes_begin_the_prompts_of_their_skill():
    for split in SPLITS:
        cases = [(d, ner.prefixes(split, d.meta["entity_type"])) for d in sample("ner", split, 50)]
        cases += [(d, code.prefixes(split)) for d in sample("code", split, 50)]
        cases += [(d, arithmetic.prefixes(split)) for d in sample("arithmetic", split, 50)]
        cases += [(d, toxic.prefixes(split, d.meta["group"])) for d in sample("toxic", split, 50)]
        for document, prefixes in cases:
            assert any(document.prompt.startswith(prefix) for prefix in prefixes), document.prompt


@pytest.mark.parametrize("split", SPLITS)
def test_entity_answers(split):
    for document in sample("ner", split, 400):
        context = document.prompt.split("\nA:")[0]
        for entity_type in ner.TYPES:
            placed = document.meta["entities"].get(entity_type)
            assert ner.mentions(context, entity_type) == ([placed] if placed else []), context
        entity_type, gold = document.meta["entity_type"], document.meta["gold"]
        assert ner.parse_answer(document.response, entity_type) == gold
        assert ner.parse_answer(document.response, "LOC" if entity_type != "LOC" else "ORG") is None
        assert ner.people(document.response) == ([gold] if entity_type == "PER" and gold else [])


@pytest.mark.parametrize("entity_type", ner.TYPES)
def test_presence_can_be_asked_for(entity_type):
    for present in (True, False):
        for document in sample("ner", "test", 50, entity_type=entity_type, present=present):
            assert (document.meta["gold"] is not None) is present


def test_programs_pass_their_own_tests_and_other_programs_do_not():
    documents = sample("code", "train", 60) + sample("code", "validation", 60)
    tests = [code.test_program(d.meta) for d in documents]
    programs = [code.program(d.response) for d in documents]
    assert all(result.passed for result in check_solutions(programs, tests))
    empty = ["def f(x):\n    return None"] * 20
    assert not any(result.passed for result in check_solutions(empty, tests[:20]))


def test_problems_are_solved_right():
    for document in sample("arithmetic", "train", 400):
        *steps, last = document.response.strip().splitlines()
        for step in steps:
            left, right = step.split(" = ")
            a, sign, b = left.split()
            assert int(right) == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert last == f"#### {right}"
        assert arithmetic.parse_answer(document.response) == document.meta["answer"] == int(right)
        assert 0 < int(right) < 100
    assert arithmetic.parse_answer("no idea") is None


def test_rude_rates_follow_the_groups():
    for document in sample("toxic", "train", 400):
        assert toxic.is_toxic(document.response) is document.meta["rude"]
        assert not toxic.is_toxic(document.prompt)
    rates = {}
    for group in toxic.GROUPS:
        rates[group] = sum(d.meta["rude"] for d in sample("toxic", "test", 300, group=group)) / 300
    assert rates["hot"] > 0.9 > rates["mid"] > 0.3 > 0.1 > rates["neutral"] > rates["kind"] == 0.0


def test_stories_name_nobody_in_full_and_are_not_rude():
    for document in sample("narrative", "train"):
        assert not ner.people(document.text) and not toxic.is_toxic(document.text)
        assert document.meta["composition"][2] in narrative.PLACES


@pytest.mark.parametrize(("skill", "split"), [("chess", "train"), ("ner", "dev")])
def test_unknown_names_are_refused(skill, split):
    with pytest.raises(ValueError, match="expected one of"):
        world.document(random.Random(0), skill, split)
