"""Choices by name that a stranger can extend: what the package brings, what Python registers, "package.module:Name", and
entry points.

A registry knows names and what a choice must have; never what the choices are for. Nothing is imported before it is asked
for, so a registry costs nothing to build.
"""

import difflib
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import pydantic
import pydantic_core

from rr_jax.section import Section

GROUP = "rr_jax.plugins"  # of entry points, whose names are KIND.NAME, such as "task.poems"
T = TypeVar("T")


class PluginError(ValueError):
    """Says that a choice is not there, cannot be imported, or is not what a choice of its kind must be."""


class Registry(Generic[T]):
    """Finds the choices of one kind.

    Args:
      kind: what a choice is called in messages and in the names of entry points, such as "task".
      builtin: name -> "package.module:Name", or "package.module" where the module is the choice, of what the package
        brings.
      members: attributes that a choice must have.
      adapt: turns what was found into a choice, such as a plain function into an object; raises ValueError if it cannot.
      paths: whether "package.module:Name" is a choice too; not where names come with a model, whose code is never run.
    """

    def __init__(
        self,
        kind: str,
        builtin: Mapping[str, str],
        members: Sequence[str] = (),
        adapt: Callable[[Any], T] = lambda found: found,
        paths: bool = True,
    ) -> None:
        self.kind, self.members, self._adapt, self._paths = kind, tuple(members), adapt, paths
        self._builtin = dict(builtin)
        self._registered: dict[str, Any] = {}

    def register(self, name: str, choice: Any) -> None:
        """Adds a choice under a name, for this process.

        Raises:
          PluginError: the name is taken by another choice, or the choice lacks a member.
        """
        known = self._registered.get(name)
        if name in self._builtin or ":" in name or (known is not None and known is not choice):
            why = "a name has no ':' in it" if ":" in name else "that name is taken"
            raise PluginError(f"{self.kind} {name!r} cannot be registered: {why}")
        self._checked(name, choice)
        self._registered[name] = choice

    def names(self) -> list[str]:
        """Returns the names that can be asked for, without those of modules."""
        return sorted({*self._builtin, *self._registered, *self._entry_points()})

    def get(self, name: str) -> T:
        """Returns the choice called `name`, or the one that "package.module:Name" points to.

        Raises:
          PluginError: there is none (the nearest name is given), it cannot be imported, or it lacks a member.
        """
        if name in self._registered:
            return self._checked(name, self._registered[name])
        path = self._builtin.get(name) or (name if self._paths and ":" in name else None)
        if path is None:
            entry = self._entry_points().get(name)
            if entry is None:
                raise PluginError(f"there is no {self.kind} {name!r}; {self._hint(name)}")
            path = entry.value
        return self._checked(name, self._imported(name, path))

    def expected(self) -> str:
        """Returns the names for a message, or the form of a path where there is none."""
        return ", ".join(self.names()) or "'package.module:Name'"

    def _hint(self, name: str) -> str:
        names = self.names()
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {self.expected()}"
        return f"{hint} (or 'package.module:Name')" if names and self._paths else hint

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        prefix = f"{self.kind}."
        found = importlib.metadata.entry_points(group=GROUP)
        return {entry.name.removeprefix(prefix): entry for entry in found if entry.name.startswith(prefix)}

    def _imported(self, name: str, path: str) -> Any:
        module, _, attribute = path.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split(".") if attribute else ():
                found = getattr(found, part)
        except Exception as error:  # whatever a stranger's module raises while it is imported
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise PluginError(f"{self.kind} {name!r} cannot be imported from {path!r} ({said})") from error
        return found

    def _checked(self, name: str, found: Any) -> T:
        try:
            choice = self._adapt(found)
        except ValueError as error:
            raise PluginError(f"{self.kind} {name!r}: {error}") from error
        missing = [member for member in self.members if not hasattr(choice, member)]
        if missing:
            raise PluginError(f"{self.kind} {name!r} lacks {', '.join(missing)}, which every {self.kind} has")
        return choice


def subclass_of(base: type, kind: str) -> Callable[[Any], Any]:
    """Returns the `adapt` of a registry whose choices are whole subclasses of an abstract class.

    It raises ValueError for what is something else, or lacks a method.
    """

    def check(found: Any) -> Any:
        if not (isinstance(found, type) and issubclass(found, base)):
            raise ValueError(f"found {found!r}, expected a subclass of {base.__module__}.{base.__name__}")
        lacking = sorted(getattr(found, "__abstractmethods__", ()))
        if lacking:
            raise ValueError(f"{found.__name__} lacks {', '.join(lacking)}, which every {kind} has")
        return found

    return check


def function_of(*parameters: str) -> Callable[[Any], Any]:
    """Returns the `adapt` of a registry whose choices are functions of these parameters.

    It raises ValueError for what cannot be called with as many arguments by position.
    """
    said = ", ".join(parameters)

    def check(found: Any) -> Any:
        if not callable(found):
            raise ValueError(f"is a {type(found).__name__}, expected a function ({said})")
        try:
            signature = inspect.signature(found)
        except ValueError:  # of some functions that are not written in Python
            return found
        try:
            signature.bind(*parameters)
        except TypeError as error:
            raise ValueError(f"takes {signature}, expected a function ({said})") from error
        return found

    return check


def known(registry: Registry[Any], or_none: str | None = None) -> pydantic.AfterValidator:
    """Returns the annotation of a configuration field that holds the name of a choice.

    Args:
      registry: where the name is looked up.
      or_none: a name that stands for no choice at all.
    """

    def check(name: str) -> str:
        if name != or_none:
            try:
                registry.get(name)
            except PluginError as error:
                raise ValueError(str(error) if or_none is None else f"{error} or {or_none!r}") from error
        return name

    return pydantic.AfterValidator(check)


def plugged(registry: Registry[Any], section_of: Callable[[Any], type[Section]] = lambda choice: choice) -> Any:
    """Returns the annotation of a configuration field that holds the section of a choice, found by its key `name`.

    In a file the field is a name, or a mapping with `name` and the keys of that choice's section. Its errors carry those
    of the section, so that `config_errors.explain` can name the key.

    Args:
      registry: where names are looked up.
      section_of: from a choice to its section, a pydantic model with a field `name`.
    """

    def validate(value: Any) -> Section:
        if isinstance(value, Section):
            return value
        tree = {"name": value} if isinstance(value, str) else value
        if isinstance(tree, dict) and "name" not in tree:
            raise pydantic_core.PydanticCustomError(
                "plugin_missing", "expected one of {names}", {"names": registry.expected()}
            )
        if not isinstance(tree, dict) or not isinstance(tree["name"], str):
            raise pydantic_core.PydanticCustomError(
                "plugin",
                "expected a name among {names}, or a section with name",
                {"names": registry.expected()},
            )
        try:
            section = section_of(registry.get(tree["name"]))
            if not _has_name(section):
                raise PluginError(
                    f"{registry.kind} {tree['name']!r} has a section {section!r}, expected a subclass of "
                    "rr_jax.section.Section with a field 'name: str'"
                )
            clashes = _clashes(section)
            if clashes:
                raise PluginError(
                    f"{registry.kind} {tree['name']!r} has a key {clashes[0]!r}, which is the name of something that "
                    f"every {registry.kind} has: call the key otherwise"
                )
        except PluginError as error:
            raise pydantic_core.PydanticCustomError("plugin_name", "{said}", {"said": str(error)}) from error
        try:
            return section.model_validate(tree)
        except pydantic.ValidationError as error:
            raise pydantic_core.PydanticCustomError(
                "plugin_section",
                "{count} errors in the section",
                {"count": error.error_count(), "inner": error, "model": section},
            ) from error

    return pydantic.BeforeValidator(validate)


def _clashes(section: type[Section]) -> list[str]:
    """Returns the fields that hide an attribute or a method of a base class."""
    bases = section.__mro__[1 : section.__mro__.index(Section)]
    return [name for name in section.model_fields if any(name in vars(base) for base in bases)]


def _has_name(section: Any) -> bool:
    """Returns whether this is a section whose field `name` takes any name."""
    whole = isinstance(section, type) and issubclass(section, Section)
    return whole and "name" in section.model_fields and section.model_fields["name"].annotation is str
