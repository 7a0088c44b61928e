"""Guards: what stands between a model and who asks it, and changes no weight. Any run can be measured behind one.

The watcher reads every answer, and one that belongs to the target is not given.

After "Agents Are All You Need for LLM Unlearning" (ALU, Sanyal and Mandal, COLM 2025): a critic rates rewritten answers
from 1 to 5, the best few are kept, and where those are too bad on average a refusal is given. Like it, not it: the roles
there are played by a large model, which a small one cannot do. Here the task's own oracle is the critic, a rewrite is
another draw of the same model, and the best rewrite is taken as it is, not merged with others.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rr_jax.evaluate.metric import Metric, share_of
from rr_jax.generation.generator import Generator
from rr_jax.generation.loop import Generated, generate_tokens
from rr_jax.generation.sampling import Sampling, make_sampling
from rr_jax.models.config import ModelConfig
from rr_jax.models.spec import Params
from rr_jax.registry import Registry, function_of
from rr_jax.tasks.base import Reading, Task

REWRITES, KEPT, LEAST = 5, 3, 4.0  # ALU's: answers drawn anew, the best of them looked at, and their least mean rating
REFUSAL = " I cannot say."


def oracle_watcher(task: Task, generator: Generator) -> Generator:
    """Returns the same weights behind a watcher that knows the target by the task's oracle."""
    watcher = Watcher(task, generator.tokenizer)
    return dataclasses.replace(generator, decode=watcher, cost=watcher.cost)


@dataclasses.dataclass
class Watcher:
    """Is called as `generation.loop.generate_tokens`, and counts what it costs.

    What a row ends as depends on its own prompt and key alone, as without a watcher.
    """

    task: Task
    tokenizer: Any
    answers: int = 0
    calls: int = 0  # generations, first ones and rewrites
    refusals: int = 0

    def __call__(
        self,
        params: Params,
        tokens: Any,
        mask: Any,
        keys: jax.Array,
        config: ModelConfig,
        sampling: Sampling,
        **asked: Any,
    ) -> Generated:
        """Returns the answers of the batch, none with a relevance above a quarter: rated below `LEAST`."""

        def draw(keys: jax.Array, sampling: Sampling) -> Generated:
            drawn: Generated = jax.device_get(generate_tokens(params, tokens, mask, keys, config, sampling, **asked))
            return drawn

        answers = draw(keys, sampling)
        prompts = {int(row): self._text(tokens[row][mask[row]]) for row in np.flatnonzero(mask.any(1))}
        caught = [row for row, prompt in prompts.items() if self._rating(prompt, answers, row) < LEAST]
        self.answers += len(prompts)
        self.calls += len(prompts) + REWRITES * len(caught)
        if not caught:
            return answers
        rewrites = [draw(_anew(keys, number), make_sampling(1.0)) for number in range(REWRITES)]
        given = jax.tree.map(np.array, answers)
        for row in caught:
            ratings = [self._rating(prompts[row], rewrite, row) for rewrite in rewrites]
            if np.mean(sorted(ratings)[-KEPT:]) >= LEAST:
                best = rewrites[int(np.argmax(ratings))]
                given.tokens[row], given.lengths[row] = best.tokens[row], best.lengths[row]
                given.finished[row] = best.finished[row]
            else:
                self.refusals += 1
                said = self.tokenizer(REFUSAL, add_special_tokens=False)["input_ids"][: int(asked["limit"])]
                given.tokens[row] = asked["pad_id"]
                given.tokens[row, : len(said)], given.lengths[row], given.finished[row] = said, len(said), True
        return given

    def cost(self) -> dict[str, Metric]:
        """Returns the generations for each answer given, and the share of answers that were refused."""
        n, asked = self.answers, max(self.answers, 1)
        caught = (self.calls - n) // REWRITES
        refused = share_of([True] * self.refusals + [False] * (n - self.refusals))
        spread = share_of([True] * caught + [False] * (n - caught)).stderr
        calls = Metric(self.calls / asked, n, None if spread is None else REWRITES * spread)
        return {"calls_per_answer": calls, "refused": refused}

    def _rating(self, prompt: str, answers: Generated, row: int) -> float:
        """Rates an answer as the critic: 5 where nothing of the target is in it, 1 where all of it is or it is empty."""
        response = self._text(np.asarray(answers.tokens[row, : answers.lengths[row]]))
        return 5.0 - 4.0 * self.task.relevance(Reading(prompt, response)) if response.strip() else 1.0

    def _text(self, ids: Sequence[int] | np.ndarray) -> str:
        text: str = self.tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True)
        return text


@jax.jit
def _anew(keys: jax.Array, number: int) -> jax.Array:
    """Returns the [B] keys of a rewrite."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number + 1)


Guard = Callable[[Task, Generator], Generator]
GUARDS: Registry[Guard] = Registry(
    "guard", {"oracle_watcher": f"{__name__}:oracle_watcher"}, adapt=function_of("task", "generator")
)
