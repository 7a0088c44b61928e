"""Is the process behind `runner.py`: reads programs from standard input, forks one child for each, prints the reasons.

Started as a script in a clean interpreter, never imported by the package; uses the standard library alone, so that it
starts fast, has no threads when it forks, and hands its children nothing worth having.

Three generations: the caller (JAX, threads, secrets), this worker (trusted code only), and a child for each program.
"""

import ast
import builtins
import contextlib
import gc
import importlib
import json
import math
import os
import random
import resource
import select
import signal
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

MEMORY_BYTES = 512 * 2**20  # address space of a child
NOBODY = 65534  # user and group that root becomes: limits on processes do not bind root

# Pure computation, and what the solutions of HumanEval and MBPP import.
MODULES = (
    *("__future__", "array", "bisect", "cmath", "collections", "collections.abc", "copy", "dataclasses", "datetime"),
    *("decimal", "enum", "fractions", "functools", "hashlib", "heapq", "itertools", "math", "operator", "random", "re"),
    *("statistics", "string", "typing"),
)
SYS_NAMES = ("exit", "float_info", "getrecursionlimit", "getsizeof", "maxsize", "maxunicode", "setrecursionlimit")
# Public names that fetch attributes by a string or evaluate text, out of sight of `_refuse`.
LEFT_OUT = {
    "operator": ("attrgetter", "methodcaller"),
    "string": ("Formatter",),
    "typing": ("ForwardRef", "evaluate_forward_ref", "get_type_hints"),
}
# A child can open nothing, so what the interpreter would import on first use must be here before.
IMPORTED_LATE = ("_strptime", "unicodedata", "encodings.ascii", "encodings.latin_1", "encodings.utf_16")

BUILTINS_LEFT_OUT = ("breakpoint", "compile", "input", "open", "vars", "__loader__", "__spec__")
REFUSED_ATTRIBUTES = frozenset(
    (
        *("__base__", "__bases__", "__mro__", "__subclasses__", "mro"),
        *("__dict__", "__get__", "__getattribute__", "__match_args__", "__self__"),
        *("__builtins__", "__closure__", "__code__", "__globals__", "__loader__", "__spec__"),
        *("__traceback__", "ag_frame", "cr_frame", "gi_frame", "tb_frame", "tb_next"),
        *("f_back", "f_builtins", "f_globals", "f_locals"),
    )
)


class Forbidden(Exception):
    """Says that the program asks for an attribute that leads out of the sandbox."""


class _Running(NamedTuple):
    number: int
    pid: int
    pipe: int
    nonce: bytes
    deadline: float


# ---- the worker: starts children, waits for them, believes only those that know their nonce


def supervise(programs: Sequence[str], timeout: float, workers: int) -> list[str]:
    """Runs programs and returns the reason each ended, with at most `workers` children alive at a time."""
    reasons = [""] * len(programs)
    running: dict[int, _Running] = {}
    waiting = iter(enumerate(programs))
    try:
        while True:
            while len(running) < workers and (item := next(waiting, None)):
                child = _start(*item, timeout, list(running))
                running[child.pipe] = child
            if not running:
                return reasons
            patience = min(child.deadline for child in running.values()) - time.monotonic()
            ready, _, _ = select.select(list(running), [], [], max(0.0, patience))
            now = time.monotonic()
            for pipe, child in list(running.items()):
                if pipe in ready or now >= child.deadline:
                    # One message is one atomic write, so one read has all of it. Never wait for the end of the
                    # pipe, which a descendant of the program could hold open.
                    message = os.read(pipe, 4096) if pipe in ready else None
                    reasons[child.number] = _finish(child, message)
                    del running[pipe]
    finally:
        for child in running.values():
            _finish(child, None)


def _start(number: int, program: str, timeout: float, other_pipes: Sequence[int]) -> _Running:
    """Forks the child that runs `program`; in the child this never returns."""
    nonce = os.urandom(16).hex().encode()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(program, timeout, nonce, writer, [reader, *other_pipes])
    os.close(writer)
    return _Running(number, pid, reader, nonce, time.monotonic() + timeout)


def _finish(child: _Running, message: bytes | None) -> str:
    """Ends the child and its process group, and says why it ended. `message` None: its time was up."""
    for kill in (os.killpg, os.kill):  # both: it may not have had the time to become a group
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(child.pid, signal.SIGKILL)
    _, status = os.waitpid(child.pid, 0)
    os.close(child.pipe)
    if message is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return "timeout"
    nonce, _, reason = message.partition(b" ")
    return reason.decode() if nonce == child.nonce and reason else "killed"


# ---- the child: gives up what it could do, runs the program, reports


def _be_child(program: str, timeout: float, nonce: bytes, writer: int, close: Sequence[int]) -> NoReturn:
    try:
        for descriptor in close:
            os.close(descriptor)
        restrict_process(timeout)
        random.seed(0)  # here, because the module reseeds itself in every forked process
        reason = execute(program)
        os.write(writer, nonce + b" " + reason.encode())
    finally:
        os._exit(0)  # whatever happened, the worker's own code must not run a second time in a child


def restrict_process(timeout: float) -> None:
    """Gives up, for good, terminal, output, files, sockets, new processes, memory, CPU time and root."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    limits = {
        "RLIMIT_CPU": math.ceil(timeout) + 1,
        "RLIMIT_AS": MEMORY_BYTES,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NPROC": 0,
        "RLIMIT_NOFILE": 0,  # those already open still work: the pipe and /dev/null
    }
    for name, value in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not every system has, or allows, all of them
            resource.setrlimit(getattr(resource, name), (value, value))
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a container may not allow it
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)


def execute(program: str) -> str:
    """Compiles and runs the program in this process; the reason it ended. "passed" only if its last line has run."""
    try:
        tree = ast.parse(program, "<program>")
        _refuse(tree)
        code = compile(tree, "<program>", "exec", dont_inherit=True, optimize=0)  # assertions stay in
    except Forbidden:
        return "error: Forbidden"
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return "syntax error"
    try:
        exec(code, {"__name__": "program", "__builtins__": SAFE_BUILTINS})
    except AssertionError:
        return "failed assertion"
    except BaseException as error:
        # Not `type(error).__name__`, which a metaclass of the program could make run its code.
        name = type.__dict__["__name__"].__get__(type(error))
        return f"error: {name[:80] if name.isidentifier() else 'Exception'}"
    return "passed"


# ---- what a program sees of Python


def _refuse(tree: ast.AST) -> None:
    """Raises Forbidden for a program that names a refused attribute, by a dot, a class pattern or a class body."""
    for node in ast.walk(tree):
        names: Sequence[str] = ()
        if isinstance(node, ast.Attribute):
            names = (node.attr,)
        elif isinstance(node, ast.MatchClass):
            names = node.kwd_attrs
        elif isinstance(node, ast.Name):
            names = (node.id,) if node.id == "__match_args__" else ()
        for name in names:
            if name in REFUSED_ATTRIBUTES:
                raise Forbidden(name)


def _safe_getattr(value: Any, name: str, *default: Any) -> Any:
    if type(name) is not str:
        raise TypeError("getattr(): attribute name must be string")
    if name in REFUSED_ATTRIBUTES:
        raise Forbidden(name)
    return getattr(value, name, *default)


def _evaluator(mode: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `eval` or `exec` of text only, held to the same rules as the program, in its caller's scope unless told."""

    def evaluate(source: str, globals: dict[str, Any] | None = None, locals: Mapping[str, Any] | None = None) -> Any:
        if type(source) is not str:
            raise TypeError(f"{run.__name__}() takes text here")
        tree: Any = ast.parse(source.lstrip(" \t") if mode == "eval" else source, "<text>", mode)
        _refuse(tree)
        if globals is None:
            caller = sys._getframe(1)
            globals, locals = caller.f_globals, caller.f_locals if locals is None else locals
        globals["__builtins__"] = SAFE_BUILTINS
        return run(compile(tree, "<text>", mode, dont_inherit=True), globals, locals)

    return evaluate


def _safe_import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    if level or name not in FACADES:
        raise ImportError(f"module {name!r} is not available in the sandbox")
    return FACADES[name if fromlist else name.partition(".")[0]]


def _facade(name: str) -> types.ModuleType:
    """Returns a module with the public names of module `name`, but not the modules (such as `sys`) that it imported."""
    module = importlib.import_module(name)
    names = SYS_NAMES if name == "sys" else getattr(module, "__all__", None) or dir(module)
    facade = types.ModuleType(name)
    for public in names:
        value = getattr(module, public, None)
        hidden = public.startswith("_") or public in LEFT_OUT.get(name, ())
        if not hidden and not isinstance(value, types.ModuleType):
            setattr(facade, public, value)
    return facade


FACADES = {name: _facade(name) for name in (*MODULES, "sys")}
vars(FACADES["collections"])["abc"] = FACADES["collections.abc"]
SAFE_BUILTINS = {name: value for name, value in vars(builtins).items() if name not in BUILTINS_LEFT_OUT} | {
    "__import__": _safe_import,
    "eval": _evaluator("eval", eval),
    "exec": _evaluator("exec", exec),
    "getattr": _safe_getattr,
}


def main() -> None:
    """Reads {"programs", "timeout", "workers"} as JSON and prints the list of reasons as JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through the `finally` that ends the children
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    job = json.load(sys.stdin.buffer)
    gc.freeze()  # children share these pages for as long as their collector leaves them alone
    print(json.dumps(supervise(job["programs"], job["timeout"], job["workers"])))


if __name__ == "__main__":
    main()
