"""The command line in the test's own process, which has everything imported; knows no command."""

import contextlib
import io
import subprocess
import warnings

from rr_jax import cli


def rr_jax(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a command; returns what a process of its own would have ended with."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = cli.invoke(list(map(str, arguments)))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())
