"""What is wrong with a tree of plain values, in one line: the name, what was found, what was expected.

Knows pydantic's errors and the sections they are about; never files or what a key means.
"""

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import pydantic

# What keys, values and choices of earlier versions are called now.
RENAMED_KEYS = {
    "release.method": "it is release.objective now, with release.data=true for one that is given the data to forget",
    "release.baseline": "its keys are those of release.objective, release.data, release.examples and release.optimizer now",
    "release.retain.after": "it is release.retain.repair now",
    "release.eta": "it is release.strength now",
    "release.orthogonality.weight": "it is release.orthogonality.penalty_weight now",
}
RENAMED_VALUES = {
    ("release.retain.place", "after"): "repair",
    ("release.retain.place", "joint+after"): "joint+repair",
}
RENAMED_CHOICES = {
    ("release.objective", "reveal_and_release"): "negate",
    ("release.objective", "task_vector"): "negate with release.data=true",
    ("release.objective", "alu_like"): "evaluate.guard=oracle_watcher",
    ("task", "ner"): "testbed/ner",
    ("task", "toxicity"): "testbed/toxicity",
    ("task", "code"): "testbed/code",
}


def explain(error: pydantic.ValidationError, source: str, model: type[pydantic.BaseModel]) -> str:
    """Returns every problem that was found in `source`, which is to be a `model`."""
    return "; ".join(f"{source}: {line}" for line in _lines(error, model, ()))


def _lines(error: pydantic.ValidationError, model: type[pydantic.BaseModel], above: tuple[str, ...]) -> Iterator[str]:
    """Returns one line a problem; the problems of a choice's own section are reported with the keys that lead to it."""
    for problem in error.errors():
        if problem["type"] == "plugin_section":
            inner, section = problem["ctx"]["inner"], problem["ctx"]["model"]
            yield from _lines(inner, section, (*above, *map(str, problem["loc"])))
        else:
            yield _explain(problem, model, above)


def _explain(problem: Any, model: type[pydantic.BaseModel], above: tuple[str, ...]) -> str:
    kind, found, loc = problem["type"], problem.get("input"), problem["loc"]
    path = [*above, *map(str, loc)]
    name = ".".join(path) or "config"
    if name in RENAMED_KEYS and kind == "extra_forbidden":
        return f"unknown key {name!r}; {RENAMED_KEYS[name]}"
    if isinstance(found, str) and (name, found) in RENAMED_VALUES:
        return f"{name}: found {found!r}, which is {RENAMED_VALUES[name, found]!r} now"
    if kind == "extra_forbidden":
        return f"unknown key {name!r}; {_hint(path[-1], _valid_keys(loc[:-1], model), 'valid keys:')}"
    if kind == "missing":
        return f"{name} is missing"
    if kind in ("model_type", "model_attributes_type"):
        keys = _valid_keys(loc, model)
        return f"{name}: found {found!r}, expected a section with keys such as {', '.join(keys[:3])}"
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "plugin_missing":
        return f"{name}.name is missing, {message}"
    if kind == "plugin_name":
        key = f"{name}.name" if isinstance(found, dict) else name
        asked = found["name"] if isinstance(found, dict) else found
        now = RENAMED_CHOICES.get((name, asked))
        if now is not None:
            return f"{key}: there is no {name.rpartition('.')[2]} {asked!r}; it is {now} now"
        return f"{key}: {message}"
    if isinstance(found, dict):
        return f"{name}: {message}" if path else message
    return f"{name}: found {found!r}, {message[:1].lower()}{message[1:]}"


def _hint(found: str, valid: Sequence[str], otherwise: str) -> str:
    near = difflib.get_close_matches(found, valid, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(valid)}"


def _valid_keys(path: Sequence[Any], root: type[pydantic.BaseModel]) -> list[str]:
    """Returns the keys that the section at `path` of a `root` accepts."""
    kinds: list[Any] = [root]
    for part in path:
        field = next((kind.model_fields[part] for kind in kinds if part in kind.model_fields), None)
        if field is None:
            return []
        union = isinstance(field.annotation, types.UnionType) or typing.get_origin(field.annotation) is typing.Union
        options = typing.get_args(field.annotation) if union else (field.annotation,)
        kinds = [one for one in options if isinstance(one, type) and issubclass(one, pydantic.BaseModel)]
    return list(dict.fromkeys(field.alias or name for kind in kinds for name, field in kind.model_fields.items()))
