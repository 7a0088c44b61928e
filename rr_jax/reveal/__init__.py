"""Reveal: search for the instructions and soft prompts that make a model disclose what it is to forget."""
