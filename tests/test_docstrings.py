"""Docstrings of functions and classes are sentences: their first word is a verb, such as "Returns" or "Holds"."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rr_jax"
# an s is the third person's, if the word is none of the nouns that docstrings began with
NOUNS = (
    "Arms|Documents|Examples|Frobenius|Jobs|Keys|Losses|Metrics|"
    "Parameters|Progress|Responses|Rows|Steps|Sums|Texts|Workers"
)
VERB = re.compile(rf"(?!(?:{NOUNS})\b)[A-Z][a-z]*s\b(?! of\b)")


def definitions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node


@pytest.mark.parametrize("folder", sorted(p.name for p in PACKAGE.iterdir() if p.is_dir() and list(p.glob("*.py"))))
def test_a_docstring_begins_with_a_verb(folder):
    paths = sorted((PACKAGE / folder).rglob("*.py")) + sorted(PACKAGE.glob("*.py"))
    texts = {(path, node.lineno): ast.get_docstring(node) for path in paths for node in definitions(path)}
    assert len(texts) > 10
    assert not {where: text for where, text in texts.items() if text and not VERB.match(text)}
