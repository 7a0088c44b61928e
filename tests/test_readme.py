"""The README's Python blocks import by themselves, and what they define goes through the package."""

import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rr_jax.evaluate.metric import Metric
from rr_jax.runs import loop
from rr_jax.runs.config_file import parse_config
from rr_jax.training.constraint import PENALTIES
from tests import tiny

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_runs(tmp_path, monkeypatch):
    block = re.search(r"<!-- a test runs this block -->\n```python\n(.*?)```", README, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert len(names["texts"]) == 1
    assert names["logits"].shape[-1] == names["lm"].config.vocab_size
    assert (tmp_path / "copy-of-base" / "model.safetensors").exists()


def test_the_family_shown_is_the_one_that_runs():
    source = (ROOT / "rr_jax" / "models" / "families" / "mistral.py").read_text()
    assert source in (ROOT / "docs" / "architecture.md").read_text()
    assert len(source.splitlines()) < 60


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The plug-ins shown, in a module `mine` that has each block by itself."""
    shown = {name: block for block in BLOCKS for name in re.findall(r"^(?:class|def) (\w+)", block, re.MULTILINE)}
    lines = []
    for name in ("Letters", "Words", "Bounded", "read_alike"):
        (tmp_path / f"readme_{name.lower()}.py").write_text(shown[name])
        lines.append(f"from readme_{name.lower()} import {name}")
    (tmp_path / "mine.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name == "mine" or name.startswith("readme_")]:
        del sys.modules[name]


def test_the_plugins_shown_go_through_a_run(mine, folder, tmp_path):
    metrics = [{"name": "mine:Words", "utility": True}]
    tree = tiny.run_config(
        tmp_path / "run",
        folder,
        rounds=1,
        task="mine:Letters",
        evaluate={"validation": 3, "test": 4, "metrics": metrics},
    )
    tree["reveal"]["collect"] |= {"threshold": 0.0}
    tree["release"] |= {
        "objective": {"name": "mine:Bounded", "bound": 4.0},
        "orthogonality": {"penalty": "mine:read_alike"},
    }
    summary = loop.run(parse_config(tree))
    assert summary.forget_metric == "letter_rate" and summary.objective == "mine:Bounded"
    (result,) = summary.rounds
    assert {"letter_rate", "length", "degenerate_share", "mine:Words"} <= result.metrics.keys()
    assert all(isinstance(metric, Metric) and metric.n == 4 for metric in result.metrics.values())


def test_the_penalty_shown_is_the_mean_squared_cosine(mine):
    draw = np.random.default_rng(0)
    one, other = ({"q": {"a": draw.normal(size=(2, 5, 3)), "b": np.zeros((2, 3, 4))}} for _ in range(2))
    a, b = (x["q"]["a"] / np.linalg.norm(x["q"]["a"], axis=1, keepdims=True) for x in (one, other))
    expected = np.mean((a.swapaxes(1, 2) @ b) ** 2)
    found = PENALTIES.get("mine:read_alike").value(*({"q": {"a": jnp.float32(x["q"]["a"])}} for x in (one, other)))
    assert float(found) == pytest.approx(expected, rel=1e-5)
