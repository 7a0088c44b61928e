"""Words of a text in any script: the one place where texts are taken apart for counting, comparing and searching.

Where a script puts no spaces between words (Han, Kana, Thai and others) each letter counts as a word, with the marks on
it; that is what the default word boundaries of Unicode come to without a dictionary (UAX #29). Everywhere else a word is
a run of letters, marks, digits and underscores. Knows characters only, no language and no tokenizer.
"""

import regex

_SCRIPTS = ("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Javanese")
_CHARACTER = r"[\p{L}\p{N}_]"
_MARK = r"(?:(?![\ufe0e\ufe0f])\p{M})"  # those two say how the sign before them is drawn
# a letter that is a word by itself; by the extensions of its script, as the long vowel mark of Kana is common to two
_ALONE = rf"(?:(?={_CHARACTER})[{''.join(rf'{chr(92)}p{{scx={script}}}' for script in _SCRIPTS)}])"
_OTHER = rf"(?:(?!{_ALONE}){_CHARACTER})"  # one that goes on with the word beside it
_UNIT = rf"{_ALONE}{_MARK}*"
_WORD = regex.compile(rf"{_UNIT}|{_OTHER}(?:{_OTHER}|{_MARK})*")
_SIGN = r"[^\p{L}\p{N}_\s\p{M}]"
_TOKEN = regex.compile(rf"{_WORD.pattern}|{_SIGN}")
_LETTERS = regex.compile(rf"(?![\p{{N}}_])(?:{_UNIT}|{_OTHER}(?:(?![\p{{N}}_]){_OTHER}|{_MARK})*)")
_PIECE = regex.compile(rf"{_SIGN}*{_UNIT}{_SIGN}*|(?:(?!{_ALONE})\S)+")
_ENDS_ALONE = regex.compile(rf"{_UNIT}$")


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
    apart = one and other and not _ENDS_ALONE.search(one) and not regex.match(_ALONE, other)
    return f"{one} {other}" if apart else one + other


def whole(word: str) -> str:
    """Returns a regular expression, for the library `regex`, that finds a word as it is and not inside another one.

    A word may begin or end with any sign. On a side where its script has no spaces, anything may stand beside it.
    """
    before = "" if regex.match(_ALONE, word) else rf"(?<!{_OTHER}{_MARK}*)"
    after = "" if _ENDS_ALONE.search(word) else rf"(?!{_OTHER}|{_MARK})"
    return f"{before}{regex.escape(word, special_only=True)}{after}"
