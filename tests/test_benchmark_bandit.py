"""The benchmark of the bandit runs and writes what is read from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_benchmark_writes_a_row_for_each_number_of_arms_and_each_settings(tmp_path):
    pytest.importorskip("torch")  # what is measured against
    out = tmp_path / "bandit.json"
    command = [
        sys.executable,
        ROOT / "scripts/benchmark_bandit.py",
        "--out",
        out,
        "--features",
        "6",
        "--arms",
        "20",
        "9",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["arms"], row["settings"]) for row in rows] == [
        (arms, settings) for arms in (9, 20) for settings in ("default", "instinct")
    ]
    for row in rows:
        assert row["features"] == 6 and row["dtype"] == "float32" and row["torch_dtype"] == "float64"
        assert row["ratio"] == row["torch_seconds"] / row["seconds"] > 0
        assert row["compile_seconds"] > 0 and row["peak_mb"] > 0
