"""Sampling from a language model: token choice, the decoding loop, and strings in and out."""
