"""The README's Python block runs as it stands."""

import re
from pathlib import Path


def test_the_readme_example_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    block = re.search(r"<!-- a test runs this block -->\n```python\n(.*?)```", text, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert len(names["texts"]) == 1
    assert names["logits"].shape[-1] == names["lm"].config.vocab_size
    assert (tmp_path / "copy-of-base" / "model.safetensors").exists()


def test_the_family_shown_is_the_one_that_runs():
    root = Path(__file__).parents[1]
    source = (root / "rr_jax" / "models" / "families" / "mistral.py").read_text()
    assert source in (root / "README.md").read_text()
    assert len(source.splitlines()) < 60
