"""Scorers and kernels: the task's own judgement, a classifier against torch, strangers', and what is wrong with each."""

import numpy as np
import pytest

from rr_jax.reveal import scorers
from rr_jax.reveal.candidates import make_candidates
from rr_jax.reveal.config import ArmsConfig, RewardConfig
from rr_jax.reveal.judge import make_judge
from rr_jax.reveal.kernels import KERNELS, Beside
from rr_jax.reveal.scorers import SCORERS, ClassifierScorer, Scorer, TaskScorer
from rr_jax.runs.config_file import load_config, parse_config
from rr_jax.runs.loop import open_run
from rr_jax.runs.reuse import UNREAD, stage_key
from rr_jax.section import Section
from rr_jax.tasks.base import Reading
from tests import tiny

TASK = tiny.EchoTask(tiny.weight_metrics)
TEXTS = ["abc abd xyz kkl", "", "bcdfg hjkl mnpq", "you are a very bad old man"]


class Vowels(Scorer):
    """The share of vowels, of a whole batch in one call."""

    name: str = "vowels"
    vowels: str = "aeiou"

    def relevance(self, task, readings):
        """Counts them."""
        return np.array([sum(c in self.vowels for c in one.response) / len(one.response) for one in readings])


class Given(Scorer):
    """Says what a function of the readings does."""

    name: str = "given"

    def relevance(self, task, readings):
        """As told."""
        return SAID(readings)


SAID = list


class Silent(Scorer):
    """Has no way to judge."""


class Numbered(Vowels):
    """Its section clashes with how it is found."""

    name: int = 3


class NoScorer(Section):
    """Is a section, and no scorer."""

    name: str = "x"


def same_length(texts):
    """1 where two texts are equally long."""
    lengths = np.array([len(text) for text in texts])
    return (lengths[:, None] == lengths[None, :]).astype(np.float32)


def judged(texts=TEXTS, task=TASK, **reward):
    lm, section = tiny.model(), RewardConfig(fluency_margin=None, **reward)
    judge = make_judge(task, lm, lm, section, None, seed=0, round_index=1)
    arm = make_candidates(lm, task, ArmsConfig(soft=0), seed=0, round_index=1).arms[0]
    return judge, judge.read([arm] * len(texts), texts)


def parsed(**reward):
    tree = tiny.run_config("out", "model")
    tree["reveal"]["reward"] |= reward
    return parse_config(tree)


def test_the_task_judges_unless_another_is_named():
    _, found = judged()
    assert [one.relevance for one in found] == [TASK.relevance(Reading("", text)) if text else 0.0 for text in TEXTS]
    assert parsed().reveal.reward.scorer == TaskScorer() == parsed(scorer="task").reveal.reward.scorer


def test_a_scorer_from_outside_judges_a_batch_in_one_call(monkeypatch):
    calls = []
    monkeypatch.setattr(SCORERS, "_registered", {})
    SCORERS.register("vowels", Vowels)
    monkeypatch.setattr(
        Vowels, "relevance", lambda *args, real=Vowels.relevance: calls.append(len(args[2])) or real(*args)
    )
    section = parsed(scorer={"name": "vowels", "vowels": "ab"}).reveal.reward.scorer
    _, found = judged(scorer=section)
    assert [one.relevance for one in found] == [4 / 15, 0.0, 1 / 15, 5 / 26]
    assert calls == [3]  # the empty text is no reading
    assert parsed(scorer=f"{__name__}:Vowels").reveal.reward.scorer.vowels == "aeiou"


def test_a_classifier_says_what_torch_says_and_is_loaded_once(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from tests import tiny_encoders

    model, words = tiny_encoders.build("bert", problem_type="multi_label_classification"), tiny_encoders.wordpiece()
    folder, loads = tiny_encoders.save(model, tmp_path / "bert", words), []
    load = scorers.load_encoder
    monkeypatch.setattr(scorers, "load_encoder", lambda source: loads.append(source) or load(source))
    section = ClassifierScorer(model=str(folder), label="odd")
    judge, found = judged(scorer=section)
    for one in found:
        with torch.no_grad():
            logits = model(words([one.text], return_tensors="pt")["input_ids"]).logits[0]
        expected = float(torch.sigmoid(logits)[tiny_encoders.LABELS.index("odd")]) if one.text else 0.0
        assert one.relevance == pytest.approx(expected, abs=1e-5)
    readings = [one.reading for one in found if one.reading is not None]
    again = judge.relevance(TASK, readings)
    assert loads == [str(folder)] and len(set(again.tolist())) == 3
    np.testing.assert_array_equal(section.relevance(TASK, readings), again)

    headless = tiny_encoders.save(tiny_encoders.build("bert", "Model"), tmp_path / "bare")
    mute = tiny_encoders.save(model, tmp_path / "mute")
    for place, label, said in (
        (folder, "mad", r"scorer.label: found 'mad', but .* has calm, rude, odd, long$"),
        (tmp_path / "none", "odd", "there is no folder"),
        (headless, "odd", "has no classification head$"),
        (mute, "odd", "has no tokenizer, which a classifier needs$"),
    ):
        with pytest.raises(ValueError, match=said):
            ClassifierScorer(model=str(place), label=label).load()


def test_what_a_run_cannot_load_is_refused_before_anything_is_written(folder, tmp_path):
    tree = tiny.run_config(tmp_path / "run", folder)
    tree["reveal"]["reward"]["scorer"] = {"name": "classifier", "model": str(tmp_path / "none"), "label": "odd"}
    with pytest.raises(ValueError, match="there is no folder .*none"), open_run(parse_config(tree)):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (lambda readings: [0.5], "scorer 'given': found 1 relevances of 3 readings, expected one each$"),
        (
            lambda readings: [0.5, float("nan"), 0.5],
            r"scorer 'given': relevance is nan, expected a number in \[0, 1\]$",
        ),
        (lambda readings: [0.5, 1.5, 0.5], r"scorer 'given': relevance is 1\.5, expected a number in \[0, 1\]$"),
        (lambda readings: None, r"scorer 'given': relevance is None, expected a list of numbers in \[0, 1\]$"),
        (lambda readings: ["a", "b", "c"], r"scorer 'given': relevance is \['a', 'b', 'c'\], expected a list of num"),
    ],
)
def test_what_is_no_relevance_is_refused_naming_the_scorer(monkeypatch, said, message):
    monkeypatch.setattr(f"{__name__}.SAID", said)
    with pytest.raises(ValueError, match=message):
        judged(scorer=Given())


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"scorer": "classifer"}, "reward.scorer: there is no scorer 'classifer'; did you mean 'classifier'?"),
        ({"scorer": "no_such_module:X"}, "scorer 'no_such_module:X' cannot be imported from 'no_such_module:X'"),
        ({"scorer": "classifier"}, "reward.scorer.model is missing; config: reveal.reward.scorer.label is missing$"),
        ({"scorer": f"{__name__}:Silent"}, "Silent lacks relevance, which every scorer has$"),
        ({"scorer": f"{__name__}:Numbered"}, "Numbered'>, expected a subclass of .*Section with a field 'name: str'$"),
        ({"scorer": f"{__name__}:NoScorer"}, "NoScorer'>, expected a subclass of rr_jax.reveal.scorers.Scorer$"),
        ({"scorer": {"name": f"{__name__}:Vowels", "vowel": "a"}}, "key 'reveal.reward.scorer.vowel'; did you mean 'v"),
        ({"kernel": "ngrams"}, "reward.kernel: found 'ngrams', there is no kernel 'ngrams'; did you mean 'ngram'?"),
        ({"kernel": f"{__name__}:TASK"}, "is a EchoTask, expected a rr_jax.reveal.kernels.Kernel or a function of t"),
        ({"kernel": "encoder"}, "reward.kernel 'encoder' and reward.encoder go together: give both or neither"),
        ({"encoder": "x"}, "reward.kernel 'encoder' and reward.encoder go together: give both or neither"),
    ],
)
def test_what_is_wrong_with_one_is_one_line(reward, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")) as caught:
        parsed(**reward)
    assert "\n" not in str(caught.value)


def test_a_kernel_is_a_plain_function_of_texts():
    texts = ["abcd", "efgh", "a b", "1 2"]
    judge, found = judged(texts, kernel=f"{__name__}:same_length", normalization="none")
    assert judge.score(found).diversity == pytest.approx(2.0, abs=1e-5)  # two groups of two
    assert KERNELS.get("ngram").looks_at == "texts"
    np.testing.assert_array_equal(KERNELS.get(f"{__name__}:same_length").matrix(texts, None), same_length(texts))


def test_the_kernel_encoder_is_the_cosine_of_embeddings(tmp_path):
    torch = pytest.importorskip("torch")
    from rr_jax.models.encoders.hub import load_encoder
    from tests import tiny_encoders

    model, words = tiny_encoders.build("bert", "Model"), tiny_encoders.wordpiece()
    encoder = load_encoder(tiny_encoders.save(model, tmp_path / "minilm", words))
    texts = ["abc abd", "you are a very bad old man", "zzz"]
    with torch.no_grad():
        means = [model(words([text], return_tensors="pt")["input_ids"]).last_hidden_state[0].mean(0) for text in texts]
    expected = [[float(torch.cosine_similarity(one, other, 0)) for other in means] for one in means]
    found = KERNELS.get("encoder").matrix(texts, Beside(tiny.model(), np.zeros(16), encoder))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert parsed(kernel="encoder", encoder="x").reveal.reward.encoder == "x"


def test_the_scorer_is_read_by_the_stages_that_reveal_and_follow(tmp_path):
    one, other = parsed(), parsed(scorer={"name": f"{__name__}:Vowels", "vowels": "ab"})
    assert {stage for stage in UNREAD if stage_key(one, stage) == stage_key(other, stage)} == {"base"}
    (tmp_path / "config.yaml").write_text("task: testbed/code\nout: x\n")
    overrides = [f"reveal.reward.scorer.name={__name__}:Vowels", "reveal.reward.scorer.vowels=xy"]
    assert load_config(tmp_path / "config.yaml", overrides).reveal.reward.scorer.vowels == "xy"
