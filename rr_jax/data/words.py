"""Words of a text in any script: the one place where texts are taken apart for counting, comparing and searching.

Where a script puts no spaces between words (Han, Kana, Thai and others) each letter counts as a word, with the marks on
it; that is what the default word boundaries of Unicode come to without a dictionary (UAX #29). Everywhere else a word is
a run of letters, marks, digits and underscores. Knows characters only, no language and no tokenizer.
"""

import regex

_SCRIPTS = ("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Javanese")
_ALONE = "[" + "".join(rf"\p{{Script={script}}}" for script in _SCRIPTS) + "]"  # a letter that is a word by itself
_UNIT = rf"(?=\w){_ALONE}\p{{M}}*"
_WORD = regex.compile(rf"{_UNIT}|(?:(?!(?=\w){_ALONE})[\w\p{{M}}])+")
_TOKEN = regex.compile(rf"{_WORD.pattern}|[^\w\s\p{{M}}]")
_LETTERS = regex.compile(rf"{_UNIT}|(?:(?!(?=\w){_ALONE})(?:[^\W\d_]|\p{{M}}))+")
_PIECE = regex.compile(rf"{_UNIT}[^\w\s\p{{M}}]*|(?:(?!(?=\w){_ALONE})\S)+")
_JOINED = rf"(?:(?!(?=\w){_ALONE})[\w\p{{M}}])"  # a character that goes on with the word beside it


def words(text: str) -> list[str]:
    """Returns the words of a text, digits and underscores among their characters, without punctuation."""
    return _WORD.findall(text)


def tokens(text: str) -> list[str]:
    """Returns the words of a text and its single punctuation marks and signs."""
    return _TOKEN.findall(text)


def letter_words(text: str) -> list[str]:
    """Returns the words of a text that are made of letters alone; a digit or an underscore ends a word."""
    return _LETTERS.findall(text)


def opening(text: str, count: int) -> str | None:
    """Returns the first `count` words of a text with the punctuation on them, white space brought to single spaces; None
    where the text has no more words than that."""
    text = " ".join(text.split())
    pieces = [match.end() for match in _PIECE.finditer(text)]
    return text[: pieces[count - 1]] if len(pieces) > count else None


def joined(one: str, other: str) -> str:
    """Returns one text after the other, with a space between them where their script has spaces."""
    apart = one and other and not regex.search(rf"{_ALONE}\p{{M}}*$", one) and not regex.match(_ALONE, other)
    return f"{one} {other}" if apart else one + other


def whole(word: str) -> str:
    """Returns a regular expression, for the library `regex`, that finds a word as it is and not inside another one.

    A word may begin or end with any sign. On a side where its script has no spaces, anything may stand beside it.
    """
    before = "" if regex.match(_ALONE, word) else rf"(?<!{_JOINED})"
    after = "" if regex.search(rf"{_ALONE}\p{{M}}*$", word) else rf"(?!{_JOINED})"
    return f"{before}{regex.escape(word, special_only=True)}{after}"
