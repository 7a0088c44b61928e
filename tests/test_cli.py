"""The command line: bad input is one line and exit code 2, and nothing is left behind."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from rr_jax import __version__, cli
from rr_jax.lora.adapter import init_adapter
from rr_jax.models.decoder import forward
from rr_jax.models.hub import read_config
from rr_jax.models.spec import linear_shapes
from rr_jax.runs import loop as rounds
from rr_jax.runs.config_file import parse_config
from rr_jax.testbed import BASE
from tests import tiny
from tests.command import rr_jax

ROOT = Path(__file__).parents[1]


def process(*arguments):
    """The command as a user has it: its exit code, and what it says."""
    command = [sys.executable, "-W", "ignore", "-m", "rr_jax.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


BAD = [
    ("unknown key", {"rond": 1}, [], "unknown key 'rond'; did you mean 'round"),
    ("unknown nested key", {}, ["release.lerning=1"], "unknown key 'release.lerning'"),
    ("wrong type", {}, ["seed=first"], "seed: found 'first', input should be a valid integer"),
    (
        "no strength",
        {},
        ["release.strength.forget=[]"],
        "release.strength.forget: found [], list should have at least 1 item",
    ),
    ("no target", {}, ["release.adapter.targets=[]"], "release.adapter.targets: found [], list should have at least 1"),
    ("no file of arms", {}, ["reveal.arms.texts=no.txt"], "reveal.arms.texts: no.txt cannot be read"),
    ("missing model", {"model": "no/such/model"}, [], "there is no folder no/such/model"),
    ("not a number", {}, ["release.train.learning_rate=.inf"], "learning_rate: found inf, input should be a finite"),
    (
        "another model's task",
        {},
        ["task=testbed/toxicity"],
        "testbed/toxicity asks in the testbed's own prompts",
    ),
    (
        "damaged texts",
        {"task": {"name": "custom", "keywords": ["x"], "retain_text": "{}/bad.jsonl"}},
        [],
        "cannot be read",
    ),
    ("unknown target", {}, ["release.adapter.targets=[q,z]"], "no module is called 'z'"),
    ("no retain file", {"task": {"name": "custom", "keywords": ["x"], "retain_text": "no.txt"}}, [], "no.txt"),
]


@pytest.mark.parametrize(("changes", "overrides", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(folder, tmp_path, changes, overrides, message):
    config = tiny.run_config(tmp_path / "run", folder, **changes)
    (tmp_path / "bad.jsonl").write_text('{"text": "one"}\n{broken\n')
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config).replace("{}", str(tmp_path)))
    done = rr_jax("run", tmp_path / "config.yaml", *overrides)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_process_ends_as_the_command_in_this_one_says(folder, tmp_path):
    config = tiny.run_config(tmp_path / "run", folder, rond=1)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for arguments in (("run", tmp_path / "config.yaml"), ("rnu",), ("--version",)):
        here, there = rr_jax(*arguments), process(*arguments)
        assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr)
        assert len((there.stdout + there.stderr).splitlines()) == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for command in ("eval", "report"):
        done = rr_jax(command, tmp_path)
        assert done.returncode == 2
        assert "is not a run folder" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--rond", "3"), "rr-jax: No such option: --rond"),
        (("run",), "rr-jax: Missing argument 'config'."),
        (("rnu",), "rr-jax: No such command 'rnu'."),
        (("generate", BASE, "--prompt", "x", "--seed", "-1"), "Invalid value for '--seed'"),
        (("generate", BASE, "--prompt", "x", "--max-new-tokens", "0"), "Invalid value for '--max-new-tokens'"),
        (("generate", BASE, "--prompt", "x", "--max-new-tokens", "600"), "is 600, but the model has 512 positions"),
        (("generate", "no/such/model", "--prompt", "x", "--temperature", "-1"), "temperature is -1.0, expected a"),
        (("generate", "no/such/model", "--prompt", "x", "--top-p", "0"), "top_p is 0.0, expected a number above 0"),
        (("generate", BASE, "--prompt", "x", "--round", "1"), "--round is 1, but"),
        (("sweep", "no.yaml"), "sweep no.yaml: cannot be read"),
        (("eval", "no/such/run", "--attacks", "--guard", "oracle_watcher"), "--guard does not go with --attacks"),
    ],
    ids=lambda value: " ".join(map(str, value[-2:])) if isinstance(value, tuple) else "",
)
def test_a_misused_command_is_one_line(arguments, message):
    done = rr_jax(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("rr-jax: ") and message in done.stderr


def test_help_and_version_are_no_errors():
    for done in (rr_jax("--help"), rr_jax("run", "--help"), process()):
        assert done.returncode == 0, done.stderr
        assert "Usage: rr-jax" in done.stdout
    assert rr_jax("--version").stdout == f"rr-jax {__version__}\n"


def test_what_ends_short_has_its_line_too(monkeypatch):
    said, clock = [], iter(range(0, 100, 2))
    monkeypatch.setattr(cli.notes, "print", said.append)
    monkeypatch.setattr(cli.time, "perf_counter", lambda: next(clock))
    with cli._Display() as display:
        for done in (0, 4):
            display("collecting", done, 10)
        display("measuring", 0, 1)
        display("training", 1, 2)
        display("training", 2, 2)
        display("repairing", 1, 3)
    assert [line.partition(" (")[0] for line in said] == [
        "collecting: ended at 4 of 10", "measuring: done", "training: done", "repairing: ended at 1 of 3",
    ]  # fmt: skip


def test_generate_continues_a_prompt():
    done = rr_jax("generate", BASE, "--prompt", "Q: Solve this problem:", "--max-new-tokens", "8")
    assert done.returncode == 0, done.stderr
    assert "> Q: Solve this problem:" in done.stdout
    longer = rr_jax("generate", BASE, "--prompt", "Q: Solve this problem:", "--max-new-tokens", "20")
    shown = done.stdout.rstrip("\n")
    assert longer.stdout.startswith(shown) and len(longer.stdout) > len(shown)
    refused = rr_jax("generate", BASE, "--prompt", "x", "--chat")
    assert refused.returncode == 2
    assert "has no chat template" in refused.stderr


def test_an_adapter_of_the_testbed_names_its_base_without_a_path(tmp_path, monkeypatch):
    config = parse_config({"task": {"name": "testbed/ner"}, "out": "unused"})
    adapter = init_adapter(jax.random.key(0), read_config(BASE), 1, ["q"])
    monkeypatch.setattr(rounds, "load_deltas", lambda folder, round_index: (adapter, config, 1))
    cli.export(tmp_path / "run", tmp_path / "adapter", to="adapter")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "rr-jax-testbed"


def test_an_exported_round_gives_the_same_logits_in_transformers(folder, tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.2}
    folder = shutil.copytree(folder, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2} | settings))
    config = tiny.run_config(tmp_path / "run", folder, rounds=1)
    del config["release"]["adapter"]["targets"]
    summary = rounds.run(parse_config(config))
    assert summary.rounds[0].layers["overlap"].keys() == linear_shapes(tiny.CONFIG).keys()  # every module by default
    done = rr_jax("export", tmp_path / "run", tmp_path / "merged", "--round", 1, "--to", "merged")
    assert done.returncode == 0, done.stderr
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    kept = model.generation_config.to_dict()  # decoded elsewhere as the base model is
    assert {name: kept[name] for name in settings} == settings
    assert (kept["bos_token_id"], kept["eos_token_id"]) == (1, 2)
    card = (tmp_path / "merged" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    # of a path of this machine the last part alone
    assert header == {"base_model": "model", "library_name": "transformers", "tags": ["machine-unlearning"]}
    assert str(tmp_path) not in card
    measured = summary.rounds[0].metrics["forget"]
    assert f"| forget | forget | {summary.base['forget'].value:.3f}" in card
    assert f"{measured.value:.3f}" in card and f"| {measured.n} |" in card and "round 1 of a run with seed 0" in card
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "merged").get_vocab() == tiny.tokenizer().get_vocab()
    tokens = np.arange(3, 40)[None, :]
    with torch.no_grad():
        theirs = model(torch.tensor(tokens)).logits.numpy()
    after, _, _ = rounds.load_round(tmp_path / "run", 1)
    np.testing.assert_allclose(forward(after.params, jnp.asarray(tokens), after.config), theirs, atol=1e-4)
    base = forward(tiny.params(), jnp.asarray(tokens), tiny.CONFIG)
    assert np.abs(np.asarray(base) - theirs).max() > 1e-2
    (tmp_path / "file").write_text("")
    for target, message in (
        ("merged", "not an empty folder"),
        ("file", "file is a file"),
        ("file/x", "file is a file"),
    ):
        again = rr_jax("export", tmp_path / "run", tmp_path / target)
        assert again.returncode == 2
        assert message in again.stderr

    peft = pytest.importorskip("peft")
    done = rr_jax("export", tmp_path / "run", tmp_path / "adapter", "--round", 1, "--to", "adapter")
    assert done.returncode == 0, done.stderr
    assert "rank 6 to 6, largest relative error" in done.stdout and done.stdout.count("\n") == 1
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(folder)
    assert "library_name: peft" in (tmp_path / "adapter" / "README.md").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of its own use of transformers
        base = transformers.AutoModelForCausalLM.from_pretrained(folder)
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        np.testing.assert_allclose(adapted(torch.tensor(tokens)).logits.numpy(), theirs, atol=1e-4)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary | {"selected_round": 0}))
    for arguments, message in (
        (("--to", "adapter", "--round", 0), "is the base model: there is nothing"),
        (("--to", "adapter", "--round", 9), "no round 9"),
        (("--to", "merged"), "no round was selected, as no strength kept within the budgets; this is the base model"),
    ):
        done = rr_jax("export", tmp_path / "run", tmp_path / "other", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
    assert not (tmp_path / "other").exists()
