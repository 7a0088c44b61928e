"""Choices by name: the package's own, registered ones, paths, entry points, and what is wrong with each."""

import sys
from typing import Annotated

import pydantic
import pytest

from rr_jax.registry import PluginError, Registry, plugged
from rr_jax.runs.config_errors import explain
from rr_jax.section import Section


class Small(Section):
    """A choice with a section of its own."""

    name: str = "small"
    size: int = 1
    act = staticmethod(lambda: None)


class Lacking:
    """A choice without what a choice must have."""


def made():
    registry = Registry("thing", {"small": f"{__name__}:Small"}, ["act"])
    registry.register("lacking-nothing", Small)
    return registry


def test_a_name_is_found_in_the_package_among_the_registered_and_by_its_path():
    registry = made()
    assert registry.get("small") is registry.get("lacking-nothing") is registry.get(f"{__name__}:Small") is Small
    assert registry.names() == ["lacking-nothing", "small"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smal", "there is no thing 'smal'; did you mean 'small'?"),
        ("other", "expected one of lacking-nothing, small"),
        ("no.such.module:Name", "cannot be imported from 'no.such.module:Name' .ModuleNotFoundError"),
        (f"{__name__}:Nothing", "has no attribute 'Nothing'"),
        (f"{__name__}:Lacking", "lacks act, which every thing has"),
    ],
)
def test_what_is_wrong_with_a_name_is_one_line(name, said):
    with pytest.raises(PluginError, match=said):
        made().get(name)


def test_a_taken_name_and_a_choice_that_lacks_something_are_not_registered():
    registry = made()
    for name, choice, said in (
        ("small", Small, "that name is taken"),
        ("a:b", Small, "no ':'"),
        ("new", Lacking, "lacks act"),
    ):
        with pytest.raises(PluginError, match=said):
            registry.register(name, choice)


def test_entry_points_are_choices(tmp_path, monkeypatch):
    (tmp_path / "stranger_choice.py").write_text("def act():\n    return 7\n")
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rr_jax.plugins]\nthing.seven = stranger_choice:act\nother.x = stranger_choice:act\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("thing", {})
    assert registry.names() == ["seven"]
    assert registry.get("seven")() == 7
    sys.modules.pop("stranger_choice")


def test_errors_in_a_choice_s_section_name_their_key():
    class Outer(Section):
        chosen: Annotated[pydantic.SerializeAsAny[Section], plugged(made())]

    assert Outer.model_validate({"chosen": "small"}).chosen == Small()
    assert Outer.model_validate({"chosen": {"name": "small", "size": 3}}).model_dump() == {
        "chosen": {"name": "small", "size": 3}
    }
    for tree, said in (
        ({"chosen": {"name": "small", "siz": 3}}, "unknown key 'chosen.siz'; did you mean 'size'?"),
        ({"chosen": {"name": "small", "size": "x"}}, "chosen.size: found 'x', input should be a valid integer"),
        ({"chosen": "smal"}, "chosen: there is no thing 'smal'; did you mean 'small'? (or 'package.module:Name')"),
        ({"chosen": 3}, "chosen: found 3, expected a name among lacking-nothing, small, or a section with name"),
    ):
        with pytest.raises(pydantic.ValidationError) as error:
            Outer.model_validate(tree)
        assert explain(error.value, "config", Outer) == f"config: {said}"
