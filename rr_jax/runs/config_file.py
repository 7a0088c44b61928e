"""A configuration from YAML and `key=value` overrides, and back: one clear line for each bad field.

Knows that a configuration is sections of keys, never what a key means.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from rr_jax.runs.config import RunConfig
from rr_jax.runs.config_errors import explain

# YAML 1.1 reads a number with an exponent as text unless it has a point and a sign: 1.0e-3, but not 1e-3.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class _UniqueKeys(yaml.SafeLoader):
    """Loads YAML, but a key that is given twice is an error and not the last of its values."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Builds a mapping as SafeLoader does; a key may replace one that comes by `<<`."""
        given = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in given if key != "<<" and given.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML file, applies `dotted.key=value` overrides (values are YAML too) and validates.

    Raises:
      ValueError: one line for each bad field: its name, what was found and what was expected.
    """
    tree = read_yaml(Path(path), "config")
    for override in overrides:
        set_value(tree, override)
    return parse_config(tree, str(path))


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Returns the keys and values of a YAML file; `what` it is to be is said in the errors.

    Raises:
      ValueError: it cannot be read, is not YAML, or holds something else.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise ValueError(f"{what} {path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} {path}: is not valid YAML ({' '.join(str(error).split())})") from error
    if tree is None:
        raise ValueError(f"{what} {path}: is empty, expected keys and values")
    if not isinstance(tree, dict):
        raise ValueError(f"{what} {path}: expected keys and values, found {type(tree).__name__}")
    return tree


def parse_config(tree: dict[str, Any], source: str = "config") -> RunConfig:
    """Validates a tree of plain values. Raises ValueError as `load_config`."""
    try:
        return RunConfig.model_validate(_floats(tree))
    except pydantic.ValidationError as error:
        raise ValueError(explain(error, source, RunConfig)) from None


def dump_config(config: RunConfig) -> str:
    """Returns the resolved configuration, every default spelled out, as YAML."""
    return yaml.safe_dump(plain(config), sort_keys=False)


def plain(config: RunConfig) -> dict[str, Any]:
    """Returns the configuration as plain values."""
    return config.model_dump(mode="json", by_alias=True)


def differing_keys(one: dict[str, Any], two: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns the dotted names of all leaves that differ between two plain configurations."""
    names = []
    for key in sorted(set(one) | set(two)):
        left, right = one.get(key), two.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            names += differing_keys(left, right, f"{prefix}{key}.")
        elif left != right or (key in one) != (key in two):
            names.append(prefix + key)
    return names


def set_value(tree: dict[str, Any], override: str) -> None:
    """Puts the value of `dotted.key=value` into a tree of plain values.

    Raises:
      ValueError: it has no key, its value is no YAML, or what is to hold the key is no section.
    """
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ValueError(f"override {override!r}: expected key=value, such as seed=1 or release.train.steps=100")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: the value is not valid YAML") from error
    *parents, leaf = dotted.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ValueError(f"override {override!r}: {parent} is {child!r}, not a section")
        node = child
    node[leaf] = value


def _floats(value: Any) -> Any:
    """Turns texts that people mean as numbers into numbers."""
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
