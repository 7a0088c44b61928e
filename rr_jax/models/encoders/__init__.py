"""Sentence encoders and classifiers as pure functions, from Hugging Face folders."""
