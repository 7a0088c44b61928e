"""Measures of what a model still knows, what it can still do, and whether its texts say anything at all."""
