"""Runs the tiny configuration given as JSON; at its n-th checkpoint it kills itself or finds the disk full, if told to.

Usage: resume_script.py CONFIG_JSON [before|after|full N]
"""

import json
import os
import resource
import signal
import sys

from rr_jax.runs.checkpoint import Checkpoints
from rr_jax.runs.config_file import parse_config
from rr_jax.studies import experiment


def main() -> None:
    """Entry point."""
    config = parse_config(json.loads(sys.argv[1]))
    if len(sys.argv) > 2:
        when, number, save, count = sys.argv[2], int(sys.argv[3]), Checkpoints.save, [0]

        def save_and_die(self, step, stage):
            count[0] += 1
            if when == "after":
                save(self, step, stage)
            if count[0] == number and when == "full":
                resource.setrlimit(
                    resource.RLIMIT_FSIZE, (200, 200)
                )  # the system refuses to write further, as when full
            elif count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            if when != "after":
                save(self, step, stage)

        Checkpoints.save = save_and_die
    experiment.run(config)


if __name__ == "__main__":
    main()
