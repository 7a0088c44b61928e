"""The stages of a round, as functions from models and earlier results to arrays and plain values.

A stage neither reads nor writes checkpoints and does not know whether the run was interrupted: the loop does. Its side
files (revealed texts, samples) are written whole, so running a stage twice leaves the same files.
"""
