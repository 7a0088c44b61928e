"""Public names of a package that are imported when they are first used (PEP 562).

Importing JAX or transformers takes seconds, which `rr-jax --help` and a look at a package need not wait for. A package
states its names once, as imports under `if TYPE_CHECKING:` that type checkers and editors read too; `__all__` says
which of them are public. Knows source text alone, no package.
"""

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def names_of(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns `__getattr__` and `__dir__` of a package that imports its public names under `if TYPE_CHECKING:`.

    Looking up a name that is not in `__all__` raises an AttributeError that lists those that are. A name must not be
    that of a module of the package: once that is imported, Python finds the module instead.

    Args:
      package: the `__name__` of the package.
      file: its `__file__`, the `__init__.py` that holds the imports, each as `from MODULE import NAME, ...`.
    """
    homes: dict[str, str] = {}

    def get(name: str) -> Any:
        public = sys.modules[package].__all__
        if name not in public:
            raise AttributeError(f"module {package!r} has no attribute {name!r}, expected one of {', '.join(public)}")
        if not homes:
            homes.update(_imports(file))
        return getattr(importlib.import_module(homes[name]), name)

    def listed() -> list[str]:
        module = sys.modules[package]
        return sorted({*vars(module), *module.__all__})

    return get, listed


def _imports(file: str) -> dict[str, str]:
    """Returns {name: module} of the imports under `if TYPE_CHECKING:` in a source file."""
    blocks = (
        node.body
        for node in ast.parse(Path(file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    found = (node for block in blocks for node in block if isinstance(node, ast.ImportFrom))
    return {alias.name: str(node.module) for node in found for alias in node.names}
