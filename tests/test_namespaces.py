"""Public namespaces: every name resolves, is documented and comes when it is used; `python -m rr_jax` is the command."""

import importlib
import operator
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rr_jax

ROOT = Path(__file__).parents[1]
NAMESPACES = (
    "data",
    "dynamics",
    "evaluate",
    "generation",
    "lora",
    "models",
    "parallel",
    "release",
    "reveal",
    "tasks",
    "training",
)


@pytest.mark.parametrize("name", ["rr_jax", *(f"rr_jax.{name}" for name in NAMESPACES)])
def test_every_public_name_resolves_and_is_documented(name):
    package = importlib.import_module(name)
    assert package.__doc__
    assert len(set(package.__all__)) == len(package.__all__) > 0
    assert set(package.__all__) <= set(dir(package))
    for public in package.__all__:
        found = getattr(package, public)
        # the module of that name, once imported, would stand in the way of the function
        assert not isinstance(found, ModuleType), public
        if callable(found) and not hasattr(found, "__origin__"):  # not the aliases of types
            assert (found.__doc__ or "").strip(), public
            assert found.__module__.startswith("rr_jax"), public
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'unheard', expected one of "):
        operator.attrgetter("unheard")(package)


def test_namespaces_import_nothing_before_a_name_is_used():
    code = f"""
import importlib, sys
for name in {NAMESPACES}:
    importlib.import_module("rr_jax." + name)
print("jax" in sys.modules, "numpy" in sys.modules)
from rr_jax.lora import negate
print("jax" in sys.modules, negate.__module__)
"""
    done = run("-c", code)
    assert done.stdout.split() == ["False", "False", "True", "rr_jax.lora.algebra"], done.stderr


def test_python_m_is_the_command():
    done = run("-m", "rr_jax", "--help")
    assert done.returncode == 0, done.stderr
    assert "sweep" in done.stdout
    wrong = run("-m", "rr_jax", "no-such-command")
    assert wrong.returncode == 2
    assert "no-such-command" in wrong.stderr


def test_the_package_says_that_it_is_typed():
    assert (Path(rr_jax.__file__).parent / "py.typed").is_file()


def run(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment, check=False)
