"""What a run cannot do is refused here, before anything is written: once config.yaml is there, mending a mistake would
be another configuration.

Looks at the configuration, the task, the models and their tokenizers; never computes with a model.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rr_jax.generation.prompts import encode_prompts
from rr_jax.lora.orthogonality import PENALTIES
from rr_jax.models.hub import LanguageModel
from rr_jax.models.spec import linear_shapes
from rr_jax.release.config import LOSSES, BaselineConfig, ReleaseConfig
from rr_jax.reveal.arms import build_arms
from rr_jax.reveal.candidates import check_vocabulary, instruction_texts
from rr_jax.runs.config import RunConfig
from rr_jax.runs.config_file import plain
from rr_jax.tasks.base import Task

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
    _check_method(config.release)
    _check_targets(config, lm)
    check_constraint(config)
    _check_widths(config, lm)
    task.check(lm, config.model)
    if proposer is not None:
        check_vocabulary(proposer, lm)
    _check_lengths(config, task, texts, lm, lm if proposer is None else proposer)


def _check_method(release: ReleaseConfig) -> None:
    """Refuses settings that the method looks at none of."""
    baseline, apart, method = release.baseline, release.orthogonality, release.method
    if not release.is_baseline and baseline != BaselineConfig():
        raise ValueError(
            "release.baseline is given, but release.method is 'reveal_and_release', which looks at none of it"
        )
    if baseline.optimizer == "sophia" and method not in LOSSES:
        raise ValueError(
            f"release.baseline.optimizer is 'sophia', but {method!r} is none of the losses it is for: {', '.join(LOSSES)}"
        )
    if baseline.beta is not None and method not in ("npo", "simnpo"):
        raise ValueError(f"release.baseline.beta is of npo and simnpo, but release.method is {method!r}")
    if not release.is_baseline:
        return
    if apart.penalty == "activations" or apart.projection == "null_space":
        raise ValueError(
            "release.orthogonality looks at activations, by which the forget adapter of reveal_and_release is held apart, "
            f"and none of {method!r}"
        )
    if release.retain.place == "none" and apart.projection != "none":
        raise ValueError(
            f"release.orthogonality.projection is {apart.projection!r}, but {method!r} with release.retain.place 'none' "
            "has no two adapters to hold apart"
        )


def _check_targets(config: RunConfig, lm: LanguageModel) -> None:
    section, shapes = config.release.adapter, linear_shapes(lm.config)
    for name in section.targets:
        if name not in shapes:
            raise ValueError(f"release.adapter.targets: no module is called {name!r}, expected {', '.join(shapes)}")
        if section.rank > min(shapes[name]):
            raise ValueError(
                f"release.adapter.rank: {section.rank} is above {min(shapes[name])}, the smaller side of {name!r}"
            )


def check_constraint(config: RunConfig) -> None:
    """Refuses a constraint that cannot act, whatever the model: without a retain adapter, or on what is zero already.

    Raises:
      ValueError: the first thing found.
    """
    release, apart = config.release, config.release.orthogonality
    alone = release.retain.place == "none" and not release.is_baseline
    for key, value in (("penalty", apart.penalty), ("projection", apart.projection)):
        acts_alone = "activations" if key == "penalty" else "null_space"
        if alone and value not in ("none", acts_alone) and (key == "projection" or apart.weight > 0):
            raise ValueError(
                f"release.orthogonality.{key} is {value!r}, but with release.retain.place 'none' there is no retain "
                f"adapter to be held apart from: give release.orthogonality.{key}=none (or {acts_alone})"
            )
    of_pairs = apart.penalty in PENALTIES and apart.weight > 0
    if apart.memory and (config.rounds == 1 or not (of_pairs or apart.projection != "none")):
        raise ValueError(
            "release.orthogonality.memory holds apart from earlier rounds by a penalty of two adapters with a weight, or "
            f"by a projection: expected one (found penalty {apart.penalty!r} with weight {apart.weight:g}, projection "
            f"{apart.projection!r}) and more than one round (found {config.rounds})"
        )
    if apart.projection == "null_space" and apart.penalty == "activations" and apart.weight > 0:
        raise ValueError(
            "release.orthogonality.projection 'null_space' makes what penalty 'activations' adds up zero: give "
            "release.orthogonality.penalty=none"
        )
    if (
        of_pairs
        and apart.projection == "complement"
        and apart.penalty in ("normalized", "olora", "frobenius", "input_angles")
    ):
        raise ValueError(
            f"release.orthogonality.projection 'complement' makes what penalty {apart.penalty!r} adds up zero, and its "
            "gradient rounding noise: give release.orthogonality.penalty=none"
        )


def _check_widths(config: RunConfig, lm: LanguageModel) -> None:
    """Refuses a constraint that leaves a module no direction."""
    shapes, apart, rank = linear_shapes(lm.config), config.release.orthogonality, config.release.adapter.rank
    of_pairs = apart.penalty in PENALTIES and apart.weight > 0
    looks = apart.penalty == "activations" or apart.projection == "null_space"
    own = rank + rank * (config.rounds - 1) * apart.memory
    if looks or apart.projection != "none" or (of_pairs and apart.penalty == "input_angles"):
        others = apart.directions if looks else rank
        _check_room(
            own + others, config.release.adapter.targets, {name: shape[0] for name, shape in shapes.items()}, "inputs"
        )
    if of_pairs and apart.penalty == "output_angles":
        _check_room(
            own + rank, config.release.adapter.targets, {name: shape[1] for name, shape in shapes.items()}, "outputs"
        )


def _check_room(taken: int, targets: Sequence[str], widths: dict[str, int], side: str) -> None:
    for name in targets:
        if taken > widths[name]:
            raise ValueError(
                f"release.orthogonality: rank, directions and memory take {taken} directions of the "
                f"{widths[name]} {side} of {name!r}: none would be left"
            )


def _check_lengths(config: RunConfig, task: Task, texts: list[str], lm: LanguageModel, writer: LanguageModel) -> None:
    """Refuses a prompt of the search that leaves no room for what is to be generated."""
    arms, positions = config.reveal.arms, lm.config.max_positions
    length = task.max_new_tokens
    key = "task.max_new_tokens" if hasattr(config.task, "max_new_tokens") else f"task {task.name}"
    if length >= positions:
        raise ValueError(f"{key}: {length} tokens are to be generated, but the model has {positions} positions in all")
    soft = arms.soft_tokens if arms.soft else 0
    longest = max((_tokens(lm, text, 0), text) for text in texts)
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
    """Dotted names and values."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
