"""Runs the command line as `python -m rr_jax`, for where the script `rr-jax` is not on the path."""

from rr_jax.cli import main

if __name__ == "__main__":
    main()
