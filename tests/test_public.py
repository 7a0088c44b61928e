"""The names that the package offers by itself, and that importing it is quiet."""

import operator
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import rr_jax
from rr_jax.testbed import BASE

ROOT = Path(__file__).parents[1]
# transformers looks for torch with find_spec; without it, it says so when imported.
WITHOUT_TORCH = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else real(name, *rest)
{imports}
import transformers
transformers.logging.get_logger("transformers").warning("something else")
"""


def said(imports):
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_TORCH.format(imports=imports)]
    # Where CI is set, transformers hands its lines to the root logger too, and they come twice.
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_that_there_is_no_torch_is_not_said_and_everything_else_is():
    assert "PyTorch was not found" in said("")
    assert said("import rr_jax.runs.loop").strip() == "[transformers] something else"


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "rr_jax/__init__.py"
    assert rr_jax.__version__.count(".") == 2


def test_the_testbed_is_loaded_by_its_name():
    named, there = rr_jax.load("testbed"), rr_jax.load(BASE)
    np.testing.assert_array_equal(named.params["embed"], there.params["embed"])
    assert named.config == there.config


def test_names_are_there_when_they_are_used_and_jax_is_not_imported_before():
    assert set(rr_jax.__all__) <= set(dir(rr_jax))
    for name in rr_jax.__all__:
        assert getattr(rr_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'unload', expected one of LanguageModel"):
        operator.attrgetter("unload")(rr_jax)
    command = [sys.executable, "-c", "import sys, rr_jax, rr_jax.cli; print('jax' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout.strip() == "False"
