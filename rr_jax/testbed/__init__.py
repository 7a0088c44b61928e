"""The testbed: a small world of synthetic text with a base model that ships with the package.

Floor of the package: it knows how texts are made, what a right answer is and how the base model was trained, and
nothing about revealing, releasing or tasks.
"""

from pathlib import Path

BASE = Path(__file__).parent / "assets"
"""Folder of the base model: a Hugging Face folder that `rr_jax.models.hub.load` reads."""
