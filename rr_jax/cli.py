"""The command `rr-jax`: the only place that prints. Bad input is one line on stderr and exit code 2."""

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

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

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no torch is as it should be

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False)
notes = Console(highlight=False, stderr=True)  # progress, so that what is asked for can be piped on

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        return Text("" if not task.speed else f"{task.speed:.1f}/s")


class _Display:
    """Progress bars on a terminal, a line when something begins and ends otherwise."""

    def __init__(self) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
        self._bars = Progress(*columns, TimeRemainingColumn(), console=notes, transient=True)
        self._live = notes.is_terminal
        self._started: dict[str, float] = {}
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> "_Display":
        if self._live:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._bars.stop()

    def __call__(self, what: str, done: int, of: int) -> None:
        """Notes that `done` of `of` steps of `what` are done."""
        start = self._started.setdefault(what, time.perf_counter())
        if what != self._what and self._live:
            if self._bar is not None:
                self._bars.remove_task(self._bar)
            self._bar = self._bars.add_task(what, total=of)
        self._what = what
        if self._live:
            self._bars.update(self._bar, completed=done, total=of)
        if done >= of:
            seconds = time.perf_counter() - self._started.pop(what, start)
            rate = f", {of / seconds:.1f}/s" if of > 1 else ""
            if seconds >= 1:  # what took no time is no news
                notes.print(f"{what}: done ({seconds:.1f} s{rate})")


def _model_at(source: str, round: int | None, chat: bool | None = None) -> Any:
    """The model of a run folder's round, or of a model folder or hub id."""
    from rr_jax.models.hub import load
    from rr_jax.rounds import load_round
    from rr_jax.testbed import BASE

    if (Path(source) / "config.yaml").is_file():
        return load_round(Path(source), round)[0]
    with _Display() as display:
        progress = partial(display, f"loading {source}")
        return load(BASE if source == "testbed" else source, chat=chat, progress=progress)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A YAML configuration.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as out=DIR seed=1.")] = None,
    debug: Debug = False,
) -> None:
    """Runs a configuration to its end; the same command again resumes it."""
    from rr_jax.config import load_config
    from rr_jax.report import summary_table
    from rr_jax.rounds import run as run_rounds

    resolved = load_config(config, overrides or [])
    with _Display() as display:
        summary = run_rounds(resolved, progress=display)
    console.print()
    console.print(summary_table(summary), markup=False)
    console.print(f"\nreport: {Path(resolved.out) / 'report.html'}")


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="A YAML file with base, seeds, axes and out.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value of the sweep: out=DIR seeds=[0,1].")] = None,
    debug: Debug = False,
) -> None:
    """Runs a grid with seeds; writes a table and figures with 95 % intervals. The same command again resumes."""
    from rr_jax.sweep import run_sweep
    from rr_jax.sweep_table import table

    with _Display() as display:
        rows = run_sweep(config, overrides or [], progress=display)
    axes = [name for name in rows[0] if isinstance(rows[0][name], str)]
    console.print(table(rows, axes), markup=False, soft_wrap=True)


@app.command("eval")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    round: Annotated[int | None, typer.Option(help="0 is the base model; default: the selected round.")] = None,
    attacks: Annotated[
        bool, typer.Option("--attacks", help="Try to bring back what was forgotten; writes attacks.json.")
    ] = False,
    debug: Debug = False,
) -> None:
    """All metrics of any round's model on test data; with --attacks, what comes back when it is attacked."""
    import json

    from rr_jax.rounds import load_round
    from rr_jax.tasks.registry import make_task

    if attacks:
        from rr_jax.attacks import attack

        with _Display() as display:
            found = attack(folder, round, progress=display)
        console.print(json.dumps(found, indent=2, ensure_ascii=False), markup=False, soft_wrap=True)
        return
    lm, config, number = load_round(folder, round)
    task = make_task(config.task, lm.tokenizer, config.seed)
    result = task.evaluate(lm, "test", config.evaluate.test)
    console.print(json.dumps({"round": number, "metrics": result.metrics}, indent=2), markup=False)


@app.command()
def generate(
    source: Annotated[str, typer.Argument(metavar="RUN-or-MODEL", help="A run folder, a model folder, or a hub id.")],
    prompt: Annotated[list[str], typer.Option(help="May be given several times.")],
    round: Annotated[int | None, typer.Option(help="Of a run; default: the selected one.")] = None,
    max_new_tokens: Annotated[int, typer.Option()] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    seed: Annotated[int, typer.Option()] = 0,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--raw", help="Prompts are a user's messages; default: if there is a template."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Continues prompts, as they are decoded; of a run, with the base model and then with the round's."""
    from rr_jax.generation.stream import stream_text

    prompts = [text.replace("\\n", "\n") for text in prompt]  # a newline is hard to type
    if (Path(source) / "config.yaml").is_file():
        models = {"before: ": _model_at(source, 0), "after: ": _model_at(source, round)}
    else:
        models = {"": _model_at(source, None, chat)}
    for place, text in enumerate(prompts):
        console.print(Text(f"> {text}", style="bold"))
        for name, lm in models.items():
            sys.stdout.write(name)
            for piece in stream_text(
                lm, text, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, index=place
            ):
                sys.stdout.write(piece)
                sys.stdout.flush()
            sys.stdout.write("\n")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    to: Annotated[str, typer.Option(help="merged: a Hugging Face model folder; adapter: a PEFT one.")] = "merged",
    round: Annotated[int | None, typer.Option(help="Default: the selected round.")] = None,
    debug: Debug = False,
) -> None:
    """Writes a round's model as a Hugging Face folder, or all its rounds' updates as one exact PEFT adapter."""
    from rr_jax.lora import algebra
    from rr_jax.lora.peft import save_peft
    from rr_jax.models.hub import model_folder, read_config, save
    from rr_jax.rounds import load_deltas, load_round, model_source

    if to not in ("merged", "adapter"):
        raise ValueError(f"--to is {to!r}, expected 'merged' or 'adapter'")
    if to == "merged":
        lm, _, number = load_round(folder, round)
        save(lm, target)
        console.print(f"round {number} of {folder} written to {target}")
        return
    deltas, config, number = load_deltas(folder, round)
    if deltas is None:
        raise ValueError(f"round 0 of {folder} is the base model: there is nothing for an adapter to hold")
    small, error = algebra.compact(deltas)
    base = model_source(config)
    save_peft(target, small, read_config(model_folder(base, config.revision)), base)
    before, after = max(algebra.rank(deltas).values()), max(algebra.rank(small).values())
    console.print(
        f"rounds 1 to {number} of {folder} written to {target} as one adapter: rank {before} to {after}, "
        f"largest relative error {max(error.values()):.1e}"
    )


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    debug: Debug = False,
) -> None:
    """Rebuilds report.html from the files of a run."""
    from rr_jax.report import write_report
    from rr_jax.runfolder import read_run

    read_run(folder)
    console.print(f"report: {write_report(folder)}")


def main() -> None:
    """Entry point: turns an error into one line and exit code 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"rr-jax: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("rr-jax: stopped; the same command resumes from the last finished stage", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
