"""The command line on a task about nothing: `cli_script.py ARGUMENTS` is `rr-jax ARGUMENTS` with tests.tiny.EchoTask."""

from rr_jax import cli
from rr_jax.runs import loop as rounds
from rr_jax.studies import surface
from tests import tiny

for place in (rounds, surface):
    place.make_task = lambda section, tokenizer, seed: tiny.EchoTask(tiny.weight_metrics)

if __name__ == "__main__":
    cli.main()
