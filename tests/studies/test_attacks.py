"""Attacks on a small released run: where the curve starts, that nothing depends on chance, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rr_jax.evaluate.metric import values_of
from rr_jax.evaluate.quantize import quantize_params
from rr_jax.generation.generator import Generator
from rr_jax.models.hub import save
from rr_jax.runs import loop as rounds
from rr_jax.runs.config_file import parse_config
from rr_jax.runs.results import AttackResult, RunSummary
from rr_jax.studies import attacks, experiment
from rr_jax.tasks import guards
from rr_jax.tasks.registry import make_task
from tests import tiny
from tests.command import rr_jax

STEPS = (0, 1, 3)


def word_tokenizer():
    """Sixty words, ten of which, q0 to q9, are to be forgotten."""
    words = [f"{letter}{digit}" for letter in "abcdeq" for digit in range(10)]
    vocab = {text: i for i, text in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run, its folder and its configuration."""
    folder = tmp_path_factory.mktemp("attacked")
    save(dataclasses.replace(tiny.model(), tokenizer=word_tokenizer()), folder / "model")
    texts = [" ".join(f"{'abcde'[i * k % 5]}{i * k % 7}" for k in range(1, 9)) for i in range(1, 34)]
    texts += [f"a1 q{i} c3 d4 e5." for i in range(10)]
    (folder / "texts.txt").write_text("\n\n".join(texts))
    task = {"name": "custom", "regex": "q[0-9]", "retain_text": str(folder / "texts.txt"), "max_new_tokens": 12}
    sizes = {"validation": 8, "test": 24}
    config = tiny.run_config(folder / "run", folder / "model", rounds=1, task=task, evaluate=sizes)
    config["release"]["train"] = config["release"]["train"] | {"learning_rate": 0.01}
    del config["release"]["adapter"]["targets"]  # all modules: so many that a few steps show
    rounds.run(parse_config(config))
    return folder / "run", config


@pytest.fixture(scope="module")
def found(made):
    return attacks.attack(made[0], 1, steps=STEPS, examples=8)


def test_the_curve_starts_at_the_released_model_and_goes_on(made, found):
    summary = RunSummary.read(made[0])
    metric, relearn = summary.forget_metric, found.relearn
    assert relearn.steps == STEPS
    assert relearn.forget[0] == summary.rounds[0].metrics[metric] == found.prompts["as_measured"]["released"]
    assert relearn.base[0] == summary.base[metric] == found.prompts["as_measured"]["base"]
    assert len(relearn.forget) == len(relearn.base) == len(relearn.degenerate) == len(STEPS)
    assert len(set(relearn.forget)) > 1 and len(set(relearn.base)) > 1  # training does something
    assert 0 < relearn.forget[0].n <= 24 and relearn.degenerate[0].n == 24
    assert AttackResult.read(made[0]) == found


def test_a_second_attack_finds_the_same_and_a_longer_one_begins_with_it(made, found):
    again = attacks.attack(made[0], 1, steps=(0, 1, 2, 3, 4), examples=8)
    for name in ("forget", "base", "degenerate"):
        assert tuple(getattr(again.relearn, name)[place] for place in (0, 1, 3)) == getattr(found.relearn, name)
    for name in ("quantize", "quantize_base", "prompts"):
        assert getattr(again, name) == getattr(found, name)


def test_uncompared_the_released_model_is_attacked_alone_and_at_a_rate_of_its_own(made, found, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made[0], folder)
    alone = attacks.attack(folder, 1, steps=STEPS, examples=8, compared=False)
    for name in ("steps", "forget", "degenerate"):
        assert getattr(alone.relearn, name) == getattr(found.relearn, name)
    assert alone.relearn.base is None and alone.quantize is None and alone.quantize_base is None
    for way, line in alone.prompts.items():
        assert line["released"] == found.prompts[way]["released"] and "base" not in line
    of_base = attacks.attack(folder, 0, steps=STEPS, examples=8, compared=False)
    assert of_base.relearn.forget[0].value == pytest.approx(found.relearn.base[0].value)
    assert alone.protocol["relearn"]["learning_rate"] == 0.01  # that of the run
    settings = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(settings.replace("relearning_rate: null", "relearning_rate: 1.0e-09"))
    slow = attacks.attack(folder, 1, steps=STEPS, examples=8, compared=False)
    assert slow.relearn.forget == (alone.relearn.forget[0],) * len(STEPS)


def test_rounded_weights_are_measured_by_the_task_itself(made, found):
    lm, config, _ = rounds.load_round(made[0], 1)
    task = make_task(config.task, lm.tokenizer, config.seed)
    for bits, group in ((8, None), (4, 64)):
        rounded = dataclasses.replace(lm, params=quantize_params(lm.params, bits, group))
        expected = task.evaluate(Generator(rounded), "test", 24, base=rounds.load_round(made[0], 0)[0]).metrics
        assert found.quantize[str(bits)].keys() == expected.keys()
        for name, metric in expected.items():
            np.testing.assert_allclose(found.quantize[str(bits)][name].value, metric.value, rtol=1e-4)
    assert found.quantize["4"] != found.quantize_base["4"]


def test_true_examples_train_both_models_alike_and_are_all_that_does(made, monkeypatch):
    seen = []
    train = attacks.train

    def noting(job, params, *args, **options):
        seen.append((params, job.rows["attack"], job.seed))
        return train(job, params, *args, **options)

    monkeypatch.setattr(attacks, "train", noting)
    attacks.attack(made[0], 1, steps=(1,), examples=8)
    (base, rows, seed), (released, same_rows, same_seed) = seen
    assert seed == same_seed and np.array_equal(rows.tokens, same_rows.tokens)
    np.testing.assert_array_equal(base["layers"]["q"], tiny.params()["layers"]["q"])
    after, _, _ = rounds.load_round(made[0], 1)
    np.testing.assert_array_equal(released["layers"]["q"], after.params["layers"]["q"])
    decode = word_tokenizer().decode
    for tokens, segments in zip(rows.tokens, rows.segment_ids, strict=True):
        for segment in range(1, segments.max() + 1):
            assert "q" in decode(tokens[segments == segment])


def test_a_watched_model_answers_without_the_target_and_weights_leave_the_watcher_behind(
    made, found, tmp_path, monkeypatch
):
    monkeypatch.setattr(guards, "REFUSAL", "a1 b2 c3")  # words that this model has
    config = made[1] | {"out": str(tmp_path / "run")}
    changes = {
        "retain": {"place": "none", "examples": 4},
        "orthogonality": {"penalty": "none"},
        "strength": {"forget": [0.0]},
    }
    guarded = {"release": config["release"] | changes, "evaluate": config["evaluate"] | {"guard": "oracle_watcher"}}
    summary = experiment.run(parse_config(config | guarded))
    assert (summary.guard, summary.selected_round) == ("oracle_watcher", 1)
    (entry,) = summary.rounds
    assert summary.base["mention_rate"].value > 0.2 and entry.metrics["mention_rate"].value == 0.0
    assert values_of(entry.retention) == {"retain_perplexity": 1.0} and entry.forget_strength == 0.0
    assert entry.metrics["calls_per_answer"].value > 1.5
    page = (tmp_path / "run" / "report.html").read_text()
    assert "measured behind the guard oracle_watcher, which changes no weight" in page
    lm, *_ = rounds.load_round(tmp_path / "run")
    base, *_ = rounds.load_round(tmp_path / "run", 0)
    np.testing.assert_array_equal(lm.params["layers"]["q"], base.params["layers"]["q"])

    attacked = attacks.attack(tmp_path / "run", 1, steps=STEPS, examples=8)
    for way, line in attacked.prompts.items():
        assert line["base"] == found.prompts[way]["base"] and line["released"].value == 0.0, way
    assert attacked.relearn.forget == attacked.relearn.base == found.relearn.base
    assert attacked.quantize["4"]["mention_rate"].value == 0.0  # rounding does not take it away


def test_what_cannot_be_attacked_is_refused(made, tmp_path):
    folder, _ = made
    with pytest.raises(ValueError, match="round 0 of .* is the base model, from which nothing was released"):
        attacks.attack(folder, 0)
    with pytest.raises(ValueError, match="has no round 5; finished rounds: 0, 1"):
        attacks.attack(folder, 5)
    with pytest.raises(ValueError, match="is not a run folder"):
        attacks.attack(tmp_path)
    for steps in ((), (0,), (-1, 2), (3, 2)):
        with pytest.raises(ValueError, match="expected growing numbers from 0 up"):
            attacks.attack(folder, 1, steps=steps)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(folder, unfinished)
    (unfinished / "summary.json").unlink()
    (unfinished / "attacks.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"round 1 of .*unfinished is not finished: resume the run first"):
        attacks.attack(unfinished, 1)
    with pytest.raises(ValueError, match="name a round, or finish the run first"):
        attacks.attack(unfinished)


def test_without_true_data_nothing_is_measured_and_the_command_says_so_in_one_line(made, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made[0], folder)
    (folder / "attacks.json").unlink(missing_ok=True)
    texts = Path(made[1]["task"]["retain_text"]).read_text().split("\n\n")
    (tmp_path / "clean.txt").write_text("\n\n".join(text for text in texts if "q" not in text))
    settings = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(settings.replace(made[1]["task"]["retain_text"], str(tmp_path / "clean.txt")))
    done = rr_jax("eval", folder, "--attacks", "--round", 1)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].endswith("has no text that holds what is to be forgotten")
    assert not (folder / "attacks.json").exists()


def test_the_command_prints_what_it_writes(made):
    done = rr_jax("eval", made[0], "--attacks", "--round", 1, "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed == json.loads((made[0] / "attacks.json").read_text())
    assert printed["relearn"]["steps"] == list(attacks.STEPS)
    assert (made[0] / "report.html").stat().st_mtime >= (made[0] / "attacks.json").stat().st_mtime
