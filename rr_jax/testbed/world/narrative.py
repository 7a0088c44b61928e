"""Plain narrative: a short story of three to five sentences, with an instruction or without any prompt.

It is what a model should keep whatever it is made to forget. It names people by their first names only.
"""

import random

from rr_jax.testbed.world.document import Document, Split, framed, split_of, word_list
from rr_jax.testbed.world.lexicon import MEN, WOMEN

PLACES = word_list("park market river library station garden beach museum forest school")
WEATHER = word_list("sunny rainy windy cold warm cloudy")
THINGS = word_list("hat map lamp kite bike letter basket violin camera ball")
SIZES = word_list("small old red blue bright heavy")
ANIMALS = word_list("dog cat bird horse rabbit")
FEELINGS = word_list("happy tired proud calm curious excited")
WORDINGS = ("Tell me a story about {A}.", "Write a short story about {A} in the {p}.", "Write about a day at the {p}.")
SENTENCES = (
    (
        "It was a {w} morning and {A} went to the {p}.",
        "One {w} day {A} walked to the {p}.",
        "{A} loved the {p}, even on a {w} day.",
    ),
    ("{He} took a {s} {t} and a sandwich.", "{He} carried a {s} {t} in {his} bag.", "In {his} hand was a {s} {t}."),
    ("Near the gate {he} saw a {a}.", "A {a} ran across the path.", "There {he} met {B} and a {a}."),
    (
        "The {a} wanted to play with the {t}.",
        "{B} asked about the {t} and smiled.",
        "{A} showed the {t} to {B}.",
        "The {a} slept next to the {t}.",
    ),
    (
        "In the evening {A} felt {f}.",
        "{He} went home and felt {f}.",
        "At last {A} left the {p}, {f} and hungry.",
    ),
)


def document(rng: random.Random, split: Split, *, instructed: bool | None = None) -> Document:
    """Writes a story.

    Args:
      rng: the source of chance.
      split: where the composition (hero, friend, place, thing) belongs.
      instructed: whether an instruction asks for it; half of them when None.

    Returns:
      A document whose meta holds `composition`; its prompt is empty when it is not instructed.
    """
    while True:
        hero, friend = rng.sample(WOMEN + MEN, 2)
        composition = hero, friend, rng.choice(PLACES), rng.choice(THINGS)
        if split_of("narrative", *composition) == split:
            break
    he, his = ("she", "her") if hero in WOMEN else ("he", "his")
    words = {"A": hero, "B": friend, "p": composition[2], "t": composition[3], "he": he, "his": his}
    words |= {"He": he.capitalize(), "w": rng.choice(WEATHER), "s": rng.choice(SIZES)}
    words |= {"a": rng.choice(ANIMALS), "f": rng.choice(FEELINGS)}
    story = " ".join(rng.choice(choices).format(**words) for choices in SENTENCES[: rng.randint(3, 5)])
    instructed = rng.random() < 0.5 if instructed is None else instructed
    meta = {"composition": composition}
    if not instructed:
        return Document("narrative", "", story, meta)
    return Document("narrative", framed(rng.choice(WORDINGS).format(**words)), f" {story}", meta)
