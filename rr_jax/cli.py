"""Defines the command `rr-jax`, the only place that prints. Bad input is one line on stderr and exit code 2."""

import os
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
# What is said is meant as it stands (a path may hold brackets), and is not folded when it is piped on.
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
notes = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=True)  # progress, beside the result
UsageError: Any = typer.BadParameter.__base__  # of click, or of the copy of click that newer typer brings along

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class _Rate(ProgressColumn):
    """Shows the steps a second."""

    def render(self, task: Task) -> Text:
        """Returns the steps a second, once they are known."""
        return Text("" if not task.speed else f"{task.speed:.1f}/s")


class _Display:
    """Shows progress bars on a terminal, and a line for whatever took more than a second when it is over."""

    def __init__(self) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
        self._bars = Progress(*columns, TimeRemainingColumn(), console=notes, transient=True)
        self._live = notes.is_terminal
        self._started: dict[str, float] = {}
        self._bar: Any = None
        self._at = ("", 0, 0)  # what was last noted

    def __enter__(self) -> "_Display":
        if self._live:
            self._bars.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._over()
        if self._live:
            self._bars.stop()

    def __call__(self, what: str, done: int, of: int) -> None:
        """Notes that `done` of `of` steps of `what` are done."""
        if what != self._at[0]:
            self._over()
            if self._live:
                if self._bar is not None:
                    self._bars.remove_task(self._bar)
                self._bar = self._bars.add_task(what, total=of)
        self._started.setdefault(what, time.perf_counter())
        self._at = (what, done, of)
        if self._live:
            self._bars.update(self._bar, completed=done, total=of)
        if done >= of:
            self._over()

    def _over(self) -> None:
        """Tells that what was last noted is done, or where it ended: another thing begins, or all is over."""
        what, done, of = self._at
        start = self._started.pop(what, None)
        if start is None:
            return
        seconds = time.perf_counter() - start
        rate = f", {done / seconds:.1f}/s" if done > 1 and done / seconds >= 0.1 else ""
        if seconds >= 1:  # what took no time is no news
            ended = "done" if done >= of or of == 1 else f"ended at {done} of {of}"
            notes.print(f"{what}: {ended} ({seconds:.1f} s{rate})")


def _version(wanted: bool) -> None:
    from rr_jax import __version__

    if wanted:
        console.print(f"rr-jax {__version__}")
        raise typer.Exit


@app.callback(help="Make a causal language model forget something without the data to forget.")
def _all(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None: ...


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A YAML configuration.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as out=DIR seed=1.")] = None,
    debug: Debug = False,
) -> None:
    """Runs a configuration to its end; the same command again resumes it."""
    from rr_jax.reporting.page import summary_table
    from rr_jax.runs.config_file import load_config
    from rr_jax.studies.experiment import run as run_experiment

    resolved = load_config(config, overrides or [])
    with _Display() as display:
        summary = run_experiment(resolved, progress=display)
    console.print()
    console.print(summary_table(summary))
    console.print(f"\nreport: {Path(resolved.out) / 'report.html'}")


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="A YAML file with base, seeds, axes and out.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value of the sweep: out=DIR seeds=[0,1].")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each on its share of the cores; on a CPU.")] = 1,
    debug: Debug = False,
) -> None:
    """Runs a grid with seeds; writes a table and figures with 95 % intervals. The same command again resumes."""
    import itertools

    from rr_jax.studies.sweeps.grid import run_sweep
    from rr_jax.studies.sweeps.table import table

    with _Display() as display:
        rows = run_sweep(config, overrides or [], progress=display, note=notes.print, jobs=jobs)
    axes = list(itertools.takewhile(lambda name: name != "seed", rows[0]))
    console.print(table(rows, axes))


@app.command("eval")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    round_index: Annotated[
        int | None, typer.Option("--round", help="0 is the base model; default: the selected round.")
    ] = None,
    attacks: Annotated[
        bool, typer.Option("--attacks", help="Try to bring back what was forgotten; writes attacks.json.")
    ] = False,
    guard: Annotated[
        str | None, typer.Option(help="What stands between the model and who asks, such as oracle_watcher.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for machines instead of a table.")] = False,
    debug: Debug = False,
) -> None:
    """Measures any round's model on test data; with --attacks, also what comes back when it is attacked."""
    import json

    from rr_jax.evaluate.metric import to_plain
    from rr_jax.reporting.page import attacks_table, metrics_table
    from rr_jax.runs.context import guarded, released_model
    from rr_jax.runs.loop import load_deltas, load_model
    from rr_jax.runs.results import RunSummary
    from rr_jax.tasks.evaluation import evaluate_task
    from rr_jax.tasks.registry import make_task

    if attacks:
        if guard is not None:
            raise ValueError(
                "--guard does not go with --attacks, which look at evaluate.guard of the run's configuration"
            )
        from rr_jax.studies.attacks import attack

        with _Display() as display:
            found = attack(folder, round_index, progress=display)
        plain = json.dumps(found.plain(), indent=2, ensure_ascii=False)
        console.print(plain if as_json else attacks_table(found))
        return
    with _Display() as display:
        deltas, config, number = load_deltas(folder, round_index)
        base = load_model(config, display)

        def note(what: str) -> None:
            display(f"round {number}: measuring {what} on test data", 0, 1)

        task = make_task(config.task, base.tokenizer, config.seed)
        behind = guard or (None if deltas is None else config.evaluate.guard)
        generator = guarded(task, released_model(base, deltas), behind)
        size, added = config.evaluate.test, config.evaluate.metrics
        result = evaluate_task(task, generator, "test", size, base=base, metrics=added, progress=note)
        metrics = result.metrics | generator.cost()
    if as_json:
        console.print(json.dumps({"round": number, "metrics": to_plain(metrics)}, indent=2))
        return
    known = number > 0 and (folder / RunSummary.FILE).exists()
    console.print(metrics_table(metrics, RunSummary.read(folder).base if known else {}))


@app.command()
def generate(
    source: Annotated[str, typer.Argument(metavar="RUN-or-MODEL", help="A run folder, a model folder, or a hub id.")],
    prompt: Annotated[list[str], typer.Option(help="May be given several times.")],
    round_index: Annotated[int | None, typer.Option("--round", help="Of a run; default: the selected one.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--raw", help="Prompts are a user's messages; default: if there is a template."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Continues prompts, as they are decoded; of a run, with the base model and then with the round's."""
    from rr_jax import load
    from rr_jax.generation.generator import Generator
    from rr_jax.generation.likelihood import check_logits
    from rr_jax.generation.prompts import encode_prompts
    from rr_jax.generation.sampling import make_sampling
    from rr_jax.generation.stream import stream_text
    from rr_jax.generation.text import check_room
    from rr_jax.runs.context import guarded
    from rr_jax.runs.loop import load_round
    from rr_jax.tasks.registry import make_task

    make_sampling(temperature, top_p=top_p)
    prompts = [text.replace("\\n", "\n") for text in prompt]  # a newline is hard to type
    is_run = (Path(source) / "config.yaml").is_file()
    if is_run and chat is not None:
        raise ValueError(f"--chat and --raw are for a model; {source} is a run, whose configuration says which")
    if not is_run and round_index is not None:
        raise ValueError(f"--round is {round_index}, but {source} is not a run folder (it has no config.yaml)")
    with _Display() as display:
        if is_run:
            lm, config, number = load_round(source, round_index, display)
            guard = None if number == 0 else config.evaluate.guard
            after = Generator(lm)
            if guard is not None:
                after = guarded(make_task(config.task, lm.tokenizer, config.seed), lm, guard)
            models = {"before: ": Generator(load_round(source, 0, display)[0]), "after: ": after}
        else:
            lm = load(source, chat=chat, progress=partial(display, f"loading {source}"))
            if lm.tokenizer is not None:
                check_logits(lm, source)
            models = {"": Generator(lm)}
    if is_run and number == 0:
        selected = "" if round_index == 0 else "no round was selected, as none kept within the budgets: "
        notes.print(f"{selected}round 0 is the base model, so before and after are the same")
    for generator in models.values():
        check_room(generator.lm, encode_prompts(generator.tokenizer, prompts, chat=generator.chat), max_new_tokens)
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed
    }  # fmt: skip
    for index, text in enumerate(prompts):
        console.print(Text(f"> {text}", style="bold"))
        for name, generator in models.items():
            sys.stdout.write(name)
            # a guard decides about a whole answer
            pieces = stream_text(generator.lm, text, index=index, **settings) if generator.streams else generator(
                [text], first_index=index, **settings
            )  # fmt: skip
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
            sys.stdout.write("\n")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    to: Annotated[str, typer.Option(help="merged: a Hugging Face model folder; adapter: a PEFT one.")] = "merged",
    round_index: Annotated[int | None, typer.Option("--round", help="Default: the selected round.")] = None,
    debug: Debug = False,
) -> None:
    """Writes a round's model as a Hugging Face folder, or all its rounds' updates as one exact PEFT adapter."""
    from rr_jax import __version__
    from rr_jax.lora import algebra
    from rr_jax.lora.peft import save_peft
    from rr_jax.models.hub import model_folder, read_config, read_generation, save
    from rr_jax.reporting.card import model_card
    from rr_jax.runs.loop import load_deltas, load_round, model_source
    from rr_jax.runs.results import RunSummary

    if to not in ("merged", "adapter"):
        raise ValueError(f"--to is {to!r}, expected 'merged' or 'adapter'")
    blocking = next((path for path in (target, *target.parents) if path.exists() and not path.is_dir()), None)
    if blocking is not None:
        raise ValueError(f"{blocking} is a file; expected a folder to write to that is new or empty")
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{target} is not an empty folder; a model is only written to a new one")
    deltas, config, number = load_deltas(folder, round_index)
    if not config.release.objective.exports:
        raise ValueError(f"release.objective is {config.release.objective.name!r}, whose change cannot be exported")
    if deltas is None and round_index != 0:
        which = "no round was selected" if round_index is None else f"round {round_index} changed nothing"
        raise ValueError(
            f"{folder}: {which}, as no strength kept within the budgets; this is the base model (--round 0 exports that)"
        )
    source = model_folder(model_source(config), config.revision)
    # A path inside this installation would mean nothing elsewhere.
    base = "rr-jax-testbed" if config.model == "testbed" else config.model
    summary = RunSummary.read(folder) if (folder / RunSummary.FILE).exists() else None
    library = "transformers" if to == "merged" else "peft"
    known = Path(base).name if Path(base).expanduser().is_dir() else base  # a path would mean nothing elsewhere
    card = model_card(config, summary, number, known, library, __version__)
    if to == "merged":
        save(load_round(folder, number)[0], target, generation=read_generation(source), card=card)
        console.print(f"round {number} of {folder} written to {target}")
        return
    if deltas is None:
        raise ValueError(f"round 0 of {folder} is the base model: there is nothing for an adapter to hold")
    small, error = algebra.compact(deltas)
    save_peft(target, small, read_config(source), base, card)
    before, after = max(algebra.rank(deltas).values()), max(algebra.rank(small).values())
    console.print(
        f"rounds 1 to {number} of {folder} written to {target} as one adapter: rank {before} to {after}, "
        f"largest relative error {max(error.values()):.1e}"
    )


@app.command()
def surface(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    round_index: Annotated[int | None, typer.Option("--round", help="Default: the selected round.")] = None,
    forget: Annotated[
        str | None, typer.Option(help="Strengths such as 0,0.2,0.4; default: 9 to 1.5 times the chosen one.")
    ] = None,
    retain: Annotated[str | None, typer.Option(help="Likewise, of the retain adapter; default: 5.")] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="Also the task's metrics at every point; slow.")] = False,
    debug: Debug = False,
) -> None:
    """Draws the loss over both strengths, on revealed rows and on validation texts: surface.json and surface.svg."""
    from rr_jax.studies.surface import draw_surface

    forget_strength, retain_strength = _numbers("--forget", forget), _numbers("--retain", retain)
    with _Display() as display:
        found = draw_surface(
            folder,
            round_index,
            forget_strength=forget_strength,
            retain_strength=retain_strength,
            metrics=metrics,
            progress=display,
        )
    points = f"{len(found.forget_strength)} x {len(found.retain_strength)} points"
    console.print(f"round {found.round_index} of {folder}, {points}: surface.json and surface.svg are in {folder}")
    if found.retain_adapter is None:
        console.print("no retain adapter was added in that round: the surface has one axis")


def _numbers(option: str, text: str | None) -> list[float] | None:
    """Reads the numbers of an option that takes several, separated by commas."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} is {text!r}, expected numbers such as 0,0.2,0.4") from None


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    debug: Debug = False,
) -> None:
    """Rebuilds report.html from the files of a run."""
    from rr_jax.reporting.page import write_report
    from rr_jax.runs.folder import read_run

    read_run(folder)
    console.print(f"report: {write_report(folder)}")


def invoke(arguments: list[str]) -> int:
    """Returns the exit code of a command run in this process: 2 after bad input, of which one line is on stderr.

    Raises:
      KeyboardInterrupt: if the command was interrupted, as typer.Abort too.
    """
    try:
        # Returns what an Exit asks for: of --help and --version, and of an interruption that typer saw first.
        code = app(arguments, prog_name="rr-jax", standalone_mode=False) or 0
    except UsageError as error:
        return _refuse(f"{error.format_message()} (see --help)")
    except (ValueError, OSError) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _refuse(str(error) or type(error).__name__)
    if code == 130:
        raise KeyboardInterrupt
    return int(code)


def main() -> None:
    """Runs the command line: an error is one line and exit code 2, Ctrl-C one line and 130, SIGTERM the same and 143."""
    arguments = sys.argv[1:] or ["--help"]
    resumes = "; the same command resumes from the last finished stage" if arguments[0] in ("run", "sweep") else ""

    asked: list[int] = []  # the number of a signal that is no Ctrl-C

    def terminate(number: int, _: object) -> NoReturn:
        asked.append(number)
        raise KeyboardInterrupt  # from here on as Ctrl-C: what is open is closed

    def stop(*_: object) -> NoReturn:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # whoever presses twice gets the same line
        notes.show_cursor()
        print(f"rr-jax: stopped{resumes}", file=sys.stderr)
        _leave(128 + asked[0] if asked else 130)

    signal.signal(signal.SIGTERM, terminate)

    def swallowed(found: Any) -> None:
        """Ends the process where an interruption met a callback of the garbage collector: Python does not pass it on."""
        (stop if issubclass(found.exc_type, KeyboardInterrupt) else sys.__unraisablehook__)(found)

    sys.unraisablehook = swallowed
    try:
        code = invoke(arguments)
    except (KeyboardInterrupt, typer.Abort):
        stop()
    _leave(code)


def _refuse(message: str) -> int:
    """Says on one line of stderr what is wrong, and returns the exit code of bad input."""
    print(f"rr-jax: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _leave(code: int) -> NoReturn:
    """Ends the process at once.

    Python's own way out waits for no thread of JAX or Orbax that is still at work, and such a thread can crash on what
    is being taken down: a finished or interrupted run would end with -11. Nothing is lost without it: checkpoints are
    closed where they were opened and appear whole or not at all, and every other file is written whole.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads any more
            code = code or 1
    os._exit(code)


if __name__ == "__main__":
    main()
