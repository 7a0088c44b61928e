"""pass@k against counting all subsets, and solutions that try to swallow their tests."""

import itertools

import pytest

from rr_jax.evaluate.sandbox.pass_at_k import check_solutions, mean_pass_at_k, pass_at_k, syntax_valid
from rr_jax.evaluate.sandbox.runner import Result


def _by_counting(n: int, c: int, k: int) -> float:
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    return sum(any(draw) for draw in draws) / len(draws)


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample():
    for n in range(1, 9):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            assert pass_at_k(n, c, k) == pytest.approx(_by_counting(n, c, k), abs=1e-12), (n, c, k)


def test_mean_over_problems():
    passed = [[True, False, False, False], [False] * 3, [True, True]]
    assert mean_pass_at_k(passed, 1) == pytest.approx((0.25 + 0 + 1) / 3)
    assert mean_pass_at_k(passed, 2) == pytest.approx((0.5 + 0 + 1) / 3)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1), (0, 0, 1)])
def test_what_cannot_be_estimated_is_refused(n: int, c: int, k: int):
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, c, k)


def test_no_problems_are_refused():
    with pytest.raises(ValueError, match="at least one problem"):
        mean_pass_at_k([], 1)


@pytest.mark.parametrize(
    "text",
    ["def f(:", "", " \n\t", "x = '\0'", "x = '\ud800'", "(" * 3000 + ")" * 3000, "-" * 100_000 + "1", "#" * 10**6],
)
def test_not_a_module(text: str):
    assert not syntax_valid(text)


def test_a_module_even_with_a_doubtful_escape():
    assert syntax_valid("import re\nx = re.compile('\\d')\n")


def test_solutions_are_run_with_their_tests():
    test = "assert f(2) == 4, '''no'''"
    solutions = {
        "def f(x):\n    return x * 2": Result(True, "passed"),
        "def f(x):\n    return x": Result(False, "failed assertion"),
        "def f(x) return": Result(False, "syntax error"),
        "x = '''": Result(False, "syntax error"),  # test and solution together would parse, and assert nothing
        "": Result(False, "syntax error"),
        "def f(x):\n    return x ** 2": Result(True, "passed"),
    }
    assert syntax_valid("x = '''\n" + "assert f(2) == 4, '''\nno")
    assert check_solutions(list(solutions), [test] * len(solutions)) == list(solutions.values())


def test_solutions_without_tests_are_refused():
    with pytest.raises(ValueError, match=r"tests\[1\] is blank"):
        check_solutions(["x", "x"], ["assert x", " \n"])
    with pytest.raises(ValueError, match="1 solutions, 2 tests"):
        check_solutions(["x"], ["assert x", "assert x"])
