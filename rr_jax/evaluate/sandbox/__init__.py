"""Runs programs that a model wrote, in a restricted process, and counts which pass."""
