"""Prints the parity table of docs/results.md: family x what was compared, largest difference from transformers or PEFT.

`python scripts/parity_table.py`, with the packages of the extra [test]. A row takes the worst of a family's variants
in tests/models/tiny_models.py: random tiny models, float32, hyper-parameters far from the defaults.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rr_jax.models import families, hub
from tests.models import parity
from tests.models.tiny_models import VARIANTS, build

COLUMNS = ("logits", "decode", "LoRA gradient", "merged export", "adapter export")


def measure(name: str) -> tuple[float, ...]:
    """The five differences of one variant."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = build(name)
        model.save_pretrained(place / "model")
        lm = hub.load(place / "model")
        logits = max(f(model, lm) for f in (parity.logits, parity.padded_logits, parity.packed_logits))
        other_tokens, decode = parity.decoding(model, lm)
        if other_tokens:
            raise SystemExit(f"{name}: {other_tokens:.0%} of the greedy tokens differ")
        exports = (parity.lora_gradient, parity.merged_export, parity.adapter_export)
        return (logits, decode, *(export(model, lm, place) for export in exports))


def main() -> None:
    """Measures all variants and prints Markdown."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    print(f"| family | {' | '.join(COLUMNS)} |")
    print("| --- |" + " --- |" * len(COLUMNS))
    for family in families.FAMILIES.names():
        found = [measure(name) for name in VARIANTS if name.split("-")[0] == family]
        worst = [max(column) for column in zip(*found, strict=True)]
        print(f"| `{family}` | {' | '.join(f'{value:.0e}' for value in worst)} |", flush=True)


if __name__ == "__main__":
    main()
