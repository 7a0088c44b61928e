"""Builds the testbed's base model: `python scripts/build_testbed.py --seed 0 --out DIR`. 15 to 25 minutes on two cores.

The result depends on the seed alone (on one kind of machine: other processors round differently). The package's own
copy is made with seed 0 and lies in rr_jax/testbed/assets.
"""

import argparse
import time
from pathlib import Path

from rr_jax.testbed.base_model.build import build
from rr_jax.testbed.base_model.thresholds import measure, table
from rr_jax.testbed.base_model.training import TINY, Recipe


def report(line: str) -> None:
    """Prints a line at once, also into a file."""
    print(line, flush=True)


def main() -> None:
    """Builds, then measures what was written on held-out text."""
    parser = argparse.ArgumentParser(description="Build the testbed's base model from one seed.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--tiny", action="store_true", help="a few steps of a very small model, to try the script")
    parser.add_argument("--size", type=int, default=128, help="documents of each cell of the table")
    splits = ("validation", "test")
    parser.add_argument("--split", choices=splits, default="validation", help="the held-out text it is judged on")
    options = parser.parse_args()

    started = time.monotonic()
    lm = build(options.out, options.seed, TINY if options.tiny else Recipe(), report)
    report(f"built in {(time.monotonic() - started) / 60:.1f} min; the thresholds on {options.split} text:")
    report(table(measure(lm, options.split, options.size)))


if __name__ == "__main__":
    main()
