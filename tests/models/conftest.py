"""The random tiny models of `tiny_models`, each made once a session."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.tiny_models import build


@pytest.fixture(scope="session")
def hf_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """name of a variant -> (torch model, its folder), each made once."""
    made: dict[str, tuple[Any, Path]] = {}

    def get(name: str) -> tuple[Any, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = build(name)
            model.save_pretrained(folder)
            made[name] = (model, folder)
        return made[name]

    return get
