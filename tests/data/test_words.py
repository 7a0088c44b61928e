"""Words in scripts with and without spaces, counted by hand, and the measures that are made of them."""

import re

import pytest
import regex

from rr_jax.data.words import joined, letter_words, opening, tokens, whole, words
from rr_jax.evaluate.degenerate import flag, repetition
from rr_jax.reveal.reward import ngram_kernel, vendi_score
from rr_jax.tasks.custom import compile_oracle, retain_splits

# (text, number of words, a name in it)
SENTENCES = {
    "Han": ("小明昨天在公园里遇见了一只白色的小狗。", 18, "公园"),
    "Kana and Han": ("太郎は昨日、公園で白い犬に会いました。", 17, "公園"),
    "Thai": ("เมื่อวานสมชายพบสุนัขที่สวน", 20, "สมชาย"),
    "Devanagari": ("राम कल पार्क में टहल रहा था।", 7, "राम"),
    "Cyrillic": ("Вчера Анна гуляла в парке.", 5, "Анна"),
    "Arabic": ("أمس كانت ليلى في الحديقة.", 5, "ليلى"),
    "Latin": ("Lily walked in the park, alone.", 6, "Lily"),
}


@pytest.mark.parametrize("script", SENTENCES)
def test_a_sentence_of_any_script_has_words_and_its_keywords_are_found(script):
    text, count, name = SENTENCES[script]
    assert len(words(text)) == count
    assert not any(flag(text))
    assert compile_oracle([name], None).findall(text) == [name]
    assert all(word in text for word in words(text))
    assert opening(text, count) is None and text.startswith(opening(text, count - 1))


@pytest.mark.parametrize("script", SENTENCES)
def test_repeats_and_near_copies_are_seen_in_any_script(script):
    text = SENTENCES[script][0]
    assert repetition(text) == 0.0
    assert repetition(text * 30) > 0.9
    assert flag(text * 30).repetitive
    near = [text + mark for mark in ".,;:-+=*"]  # eight texts that differ in their last sign
    assert vendi_score(ngram_kernel(near)) < 4.0
    assert vendi_score(ngram_kernel([other[0] for other in SENTENCES.values()])) > 6.5  # seven that share no word


def test_texts_of_a_script_without_spaces_can_be_kept():
    texts = [f"小明昨天在公园里遇见了{number}只白色的小狗。" for number in range(30)]
    splits = retain_splits(texts, compile_oracle(["上海"], None))
    assert sum(map(len, splits.values())) == 30


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("Lily", "Lilys", False),
        ("Lily", "a Lily.", True),
        ("C++", "in C++, and C", True),
        ("राम", "रामायण", False),  # a vowel sign goes on with the word
        ("コーヒー", "コーヒー2杯とABC", True),  # the long vowel mark is of no script alone
        ("コーヒー", "コーヒーABC", True),
        ("❤", "I ❤\ufe0f you", True),
        ("AI", "使用AI模型", True),  # what stands beside it is a word of its own
        ("AI", "SAID", False),
        ("Zoé", "Zoe\u0301", False),  # other characters: normalisation is the writer's choice
        (".", "a.b", False),
    ],
)
def test_a_keyword_is_found_whole(word, text, found):
    assert bool(regex.search(whole(word), text)) == found


def test_words_of_english_are_those_of_the_standard_library():
    text = "It's 3 o'clock, Mr. O_Neil -- (naïve) 4th-rate\tcafé № 5!\n\nEnd_"
    assert words(text) == re.findall(r"\w+", text)
    assert tokens(text) == re.findall(r"\w+|[^\w\s]", text)
    assert letter_words(text) == re.findall(r"[^\W\d_]+", text)
    for count in (1, 3, 8):
        assert opening(text, count) == " ".join(text.split()[:count])


def test_signs_are_no_words_and_go_with_the_word_they_stand_at():
    assert words("❤\ufe0f ❤\ufe0f") == letter_words("❤\ufe0f") == []
    assert flag("❤\ufe0f ❤\ufe0f ❤\ufe0f").too_short
    assert opening("「東京」は大きい", 1) == "「東"
    assert opening("「東京」は大きい", 2) == "「東京」"


def test_joining_puts_a_space_where_the_script_has_one():
    assert joined("Once upon", "Lily") == "Once upon Lily"
    assert joined("我喜欢", "公园") == "我喜欢公园"
    assert joined("コーヒー", "abc") == "コーヒーabc"
    assert joined("", "Lily") == "Lily"
