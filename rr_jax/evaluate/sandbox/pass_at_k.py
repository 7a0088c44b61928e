"""pass@k: the chance that at least one of k programs drawn from a model solves a problem.

Knows counts and texts; programs are run by the sandbox, never here.
"""

import ast
import math
import warnings
from collections.abc import Sequence

from rr_jax.evaluate.sandbox.runner import Result, run_programs

LONGEST_SOURCE = 200_000  # characters; no sample is that long, and the parser's memory grows with the text


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimates pass@k without bias from n samples of one problem, c of them correct.

    1 - C(n-c, k) / C(n, k) as 1 - prod_{i=n-c+1..n} (1 - k/i), and 1 when n - c < k (Chen et al. 2021, eq. 1, and as
    coded in openai/human-eval).

    Raises:
      ValueError: unless 1 <= k <= n and 0 <= c <= n. More than n cannot be estimated from n samples.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@k needs 1 <= k <= n, found k={k} with n={n} samples")
    if not 0 <= c <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n, found c={c} correct of n={n} samples")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def mean_pass_at_k(passed: Sequence[Sequence[bool]], k: int) -> float:
    """Returns the mean of `pass_at_k` over problems. `passed[p][s]` says whether sample s of problem p is correct."""
    if not passed:
        raise ValueError("pass@k needs at least one problem, found none")
    return sum(pass_at_k(len(samples), sum(map(bool, samples)), k) for samples in passed) / len(passed)


def check_solutions(
    solutions: Sequence[str], tests: Sequence[str], timeout: float = 3.0, workers: int = 2
) -> list[Result]:
    """Runs solution + newline + test for each pair, in the sandbox.

    A solution that does not parse by itself is a "syntax error" and is not run: an open string or bracket at its end
    could swallow the test.

    Raises:
      ValueError: for lists of different lengths, or a blank test, which any program would pass.
    """
    if len(solutions) != len(tests):
        raise ValueError(f"expected one test for each solution, found {len(solutions)} solutions, {len(tests)} tests")
    for index, test in enumerate(tests):
        if not test.strip():
            raise ValueError(f"tests[{index}] is blank, expected assertions")
    valid = [syntax_valid(solution) for solution in solutions]
    programs = [s + "\n" + t for s, t, ok in zip(solutions, tests, valid, strict=True) if ok]
    results = iter(run_programs(programs, timeout, workers))
    return [next(results) if ok else Result(False, "syntax error") for ok in valid]


def syntax_valid(text: str) -> bool:
    """Returns whether the text parses as a Python module; a text that exhausts the parser, or is blank, does not."""
    if not text.strip() or len(text) > LONGEST_SOURCE:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as an invalid escape in a string
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: null bytes, lone surrogates
        return False
    return True
