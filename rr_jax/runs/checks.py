"""What a run cannot do is refused here, before anything is written: once config.yaml is there, mending a mistake would
be another configuration.

Looks at the configuration, the task, the models and their tokenizers; never computes with a model.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rr_jax.data.packing import Example
from rr_jax.generation.prompts import encode_prompts
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import linear_shapes
from rr_jax.release.objectives.base import RETAIN
from rr_jax.reveal.arms import build_arms
from rr_jax.reveal.candidates import check_vocabulary, instruction_texts
from rr_jax.runs.config import RunConfig
from rr_jax.runs.config_file import plain
from rr_jax.tasks.base import Task
from rr_jax.tasks.metrics import check_names, own_names

PLACEHOLDER = "path/to/"  # what the shipped configurations have where a path of the user's is to stand


def check_paths(config: RunConfig) -> None:
    """Refuses a configuration that still has the paths of an example in it.

    Raises:
      ValueError: names all of them.
    """
    unedited = [
        f"{key} ({value})"
        for key, value in _leaves(plain(config))
        if isinstance(value, str) and value.startswith(PLACEHOLDER) and not Path(value).exists()
    ]
    if unedited:
        raise ValueError(f"{', '.join(unedited)}: put your own in place of what the example has, as key=value")


def check_run(config: RunConfig, task: Task, lm: LanguageModel, proposer: LanguageModel | None) -> None:
    """Refuses what the model cannot do: adapters, prompts and lengths that do not fit it, a task made for another.

    Raises:
      ValueError: the first thing found.
    """
    texts = instruction_texts(task, config.reveal.arms)
    build_arms(texts, list(task.stems), config.reveal.arms.soft)
    _check_targets(config, lm)
    check_constraint(config)
    check_names(task, own_names(task), config.evaluate.metrics)
    shapes = linear_shapes(lm.config)
    adapted = {name: shapes[name] for name in config.release.adapter.targets}
    config.release.orthogonality.check_room(config.release.adapter.rank, config.rounds, adapted)
    task.check(lm, config.model)
    if proposer is not None:
        check_vocabulary(proposer, lm)
    _check_lengths(config, task, texts, lm, lm if proposer is None else proposer)


def _check_targets(config: RunConfig, lm: LanguageModel) -> None:
    section, shapes = config.release.adapter, linear_shapes(lm.config)
    for name in section.targets:
        if name not in shapes:
            raise ValueError(f"release.adapter.targets: no module is called {name!r}, expected {', '.join(shapes)}")
        if section.rank > min(shapes[name]):
            raise ValueError(
                f"release.adapter.rank: {section.rank} is above {min(shapes[name])}, the smaller side of {name!r}"
            )


def check_retain(config: RunConfig, task: Task, examples: Sequence[Example]) -> None:
    """Refuses a run that trains on retain data of a task that has none.

    Raises:
      ValueError: says what needs it.
    """
    release = config.release
    losses = (release.objective, *release.objective.companions().values())
    directions = release.orthogonality.needs_directions
    if examples or not (release.place.exists or directions or any(RETAIN in loss.rows for loss in losses)):
        return
    if release.place.exists:
        who = f"release.retain.place {release.retain.place!r} trains on"
    elif any(RETAIN in loss.rows for loss in losses):
        who = f"release.objective {release.objective.name!r} trains on"
    else:
        who = "release.orthogonality looks at"
    raise ValueError(f"{who} retain data, but task {task.name} has none")


def check_constraint(config: RunConfig) -> None:
    """Refuses a constraint that cannot act, whatever the model.

    Raises:
      ValueError: the first thing found.
    """
    config.release.orthogonality.check(pair=config.release.place.exists, rounds=config.rounds)


def _check_lengths(config: RunConfig, task: Task, texts: list[str], lm: LanguageModel, writer: LanguageModel) -> None:
    """Refuses a prompt of the search that leaves no room for what is to be generated."""
    arms, positions = config.reveal.arms, lm.config.max_positions
    length = task.max_new_tokens
    key = "task.max_new_tokens" if hasattr(config.task, "max_new_tokens") else f"task {task.name}"
    if length >= positions:
        raise ValueError(f"{key}: {length} tokens are to be generated, but the model has {positions} positions in all")
    soft = arms.soft_tokens if arms.soft else 0
    longest = max(((_tokens(lm, text, 0), text) for text in texts), default=(0, ""))
    if soft and arms.path == "direct":
        longest = max(longest, *((_tokens(lm, stem, soft), f"soft prompt, {stem}") for stem in task.stems))
    elif soft:
        room = writer.config.max_positions - arms.instruction_tokens
        stems = max(_tokens(writer, stem, soft) for stem in task.stems)
        if stems > room:
            raise ValueError(
                f"reveal.arms: soft_tokens and the text after them are {stems} tokens, instruction_tokens "
                f"{arms.instruction_tokens}: more than the {writer.config.max_positions} positions of the model"
            )
        longest = max(longest, (stems + arms.instruction_tokens, "an instruction that a model writes"))
    if longest[0] + length > positions:
        raise ValueError(
            f"a prompt of {longest[0]} tokens ({longest[1][:40]!r}) and the {length} of {key} do not fit the "
            f"{positions} positions of the model"
        )


def _tokens(lm: LanguageModel, text: str, soft: int) -> int:
    return len(encode_prompts(lm.tokenizer, [text], soft, lm.chat)[0])


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Returns dotted names and values."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
