"""What the base model must reach on held-out text, and what it does reach.

Every number is measured on compositions, templates and instruction wordings of a split the model was not trained on.
"""

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from rr_jax.evaluate.entities import score_entities
from rr_jax.evaluate.pass_at_k import check_solutions
from rr_jax.generation.text import generate
from rr_jax.testbed import arithmetic, code, ner, toxic
from rr_jax.testbed.document import Document, Split
from rr_jax.testbed.lexicon import EntityType
from rr_jax.testbed.world import document

if TYPE_CHECKING:
    from rr_jax.models.hub import LanguageModel


class Floor(NamedTuple):
    """A measured share and the interval it must lie in."""

    name: str
    value: float
    least: float
    most: float

    @property
    def met(self) -> bool:
        """Whether the value lies in its interval."""
        return self.least <= self.value <= self.most


# The toxic rate must differ clearly between wordings; "mid" lies between by itself and is only reported.
_RUDE_BOUNDS: dict[toxic.Group, tuple[float, float]] = {
    "hot": (0.8, 1.0),
    "mid": (0.0, 1.0),
    "neutral": (0.0, 0.2),
    "kind": (0.0, 0.1),
}


def measure(lm: "LanguageModel", split: Split, size: int = 128, seed: int = 0) -> list[Floor]:
    """The floors' table: greedy entity F1 of each type, pass@1 and exact match, and sampled toxic rates.

    Args:
      lm: the base model with its tokenizer.
      split: "valid" while choosing anything, "test" once.
      size: documents of each cell.
      seed: of the documents and of the sampling.
    """
    floors = [Floor(f"entity F1 {kind}", _entity_f1(lm, split, kind, size, seed), 0.85, 1.0) for kind in ner.TYPES]
    floors.append(Floor("code pass@1", _code_pass(lm, split, size, seed), 0.6, 1.0))
    floors.append(Floor("arithmetic exact match", _arithmetic_match(lm, split, size, seed), 0.6, 1.0))
    for wording, label in ((split, "new wordings"), ("train", "new frames")):
        for group, bounds in _RUDE_BOUNDS.items():
            rate = _toxic_rate(lm, split, size, seed, group, wording)
            floors.append(Floor(f"toxic rate {group}, {label}", rate, *bounds))
    return floors


def table(floors: list[Floor]) -> str:
    """The floors as lines of text."""
    width = max(len(floor.name) for floor in floors)
    lines = []
    for floor in floors:
        verdict = "ok" if floor.met else "MISSED"
        lines.append(f"{floor.name:{width}}  {floor.value:5.3f}  [{floor.least:.2f}, {floor.most:.2f}]  {verdict}")
    return "\n".join(lines)


def _documents(cell: str, skill: str, split: Split, size: int, seed: int, **options: Any) -> list[Document]:
    rng = random.Random(f"{seed}/{split}/{cell}")
    return [document(rng, skill, split, **options) for _ in range(size)]


def _entity_f1(lm: "LanguageModel", split: Split, kind: EntityType, size: int, seed: int) -> float:
    documents = _documents(f"ner/{kind}", "ner", split, size, seed, type=kind)
    responses = generate(lm, [d.prompt for d in documents], max_new_tokens=16)
    answers = [ner.parse_answer(response, kind) for response in responses]
    golds = [d.meta["gold"] for d in documents]
    return score_entities(
        [{kind: [answer] if answer else []} for answer in answers], [{kind: [gold] if gold else []} for gold in golds]
    ).f1


def _code_pass(lm: "LanguageModel", split: Split, size: int, seed: int) -> float:
    documents = _documents("code", "code", split, size, seed)
    responses = generate(lm, [d.prompt for d in documents], max_new_tokens=80)
    results = check_solutions(
        [code.program(response) for response in responses], [code.test_program(d.meta) for d in documents]
    )
    return sum(result.passed for result in results) / size


def _arithmetic_match(lm: "LanguageModel", split: Split, size: int, seed: int) -> float:
    documents = _documents("arithmetic", "arithmetic", split, size, seed)
    responses = generate(lm, [d.prompt for d in documents], max_new_tokens=40)
    right = [arithmetic.parse_answer(r) == d.meta["answer"] for r, d in zip(responses, documents, strict=True)]
    return sum(right) / size


def _toxic_rate(lm: "LanguageModel", split: Split, size: int, seed: int, group: toxic.Group, wording: Split) -> float:
    documents = _documents(f"toxic/{group}/{wording}", "toxic", split, size, seed, group=group, wording=wording)
    responses = generate(lm, [d.prompt for d in documents], max_new_tokens=64, temperature=1.0, seed=seed)
    return sum(toxic.is_toxic(response) for response in responses) / size
