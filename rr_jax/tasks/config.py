"""The configuration of the tasks that come with the package."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field, PositiveFloat, PositiveInt

from rr_jax.section import Section


class ToxicityTask(Section):
    """Forget the toxic register (testbed)."""

    name: Literal["toxicity"]


class NerTask(Section):
    """Forget one entity type, keep the others (testbed)."""

    name: Literal["ner"]
    forget: Literal["person", "location", "organization", "date"] = "person"


class CodeTask(Section):
    """Forget writing code, keep arithmetic (testbed)."""

    name: Literal["code"]


class CustomTask(Section):
    """Forget what a list of keywords or a regular expression recognises, in any model."""

    name: Literal["custom"]
    keywords: list[str] = []  # whole words, case-sensitive; give these or `regex`
    regex: str | None = None
    retain_text: str  # a .txt (blank line between texts), .jsonl, .json, .csv or .parquet file, or a hub data set
    text_field: str = "text"  # the column that holds the text, where there are columns
    max_texts: PositiveInt = 5000  # of the retain file, from its beginning
    prompts: list[str] = [""]  # what evaluation continues; "" is the bare start token
    arms: list[str] = []  # instruction texts to search over; empty: openings of the retain texts, and the keywords
    facts: list[str] = []  # texts that a full disclosure would contain, to report recall; empty: the keywords
    # What of a revealed text the forget adapter learns: the words that match, given what precedes them, or all of it.
    learn: Literal["matches", "response"] = "matches"
    max_new_tokens: PositiveInt = 128  # length of a generated text, in search, collection and evaluation
    temperature: PositiveFloat = 1.0  # of evaluation

    @pydantic.model_validator(mode="after")
    def _one_oracle(self) -> "CustomTask":
        if bool(self.keywords) == (self.regex is not None):
            raise ValueError("give either keywords or regex, and not both")
        return self


TaskConfig = Annotated[ToxicityTask | NerTask | CodeTask | CustomTask, Field(discriminator="name")]
