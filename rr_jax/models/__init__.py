"""Causal language models as pure functions of pytrees."""
