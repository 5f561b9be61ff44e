import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_code.text import LANGUAGES, detect_language, normalize_query, words

# Characters whose neighbours compose, shrink or vanish in one form or another.
TRICKY = st.text(
    st.sampled_from(
        "aAiIİßſΣςÅé\u0301\u0307\u0345\u200b\u200c\u200d\u200e\ufeff\x00\t\u3000 ﬁ①ﷺ각ᄀ"
    )
    | st.characters(exclude_categories=["Cs"]),
    max_size=20,
)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Red  Shoes", "red shoes"),
        ("\tred\u00a0shoes\n", "red shoes"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("ｆｕｌｌ ｗｉｄｔｈ", "full width"),
        ("cafe\u0301", "café"),
        ("a\x00b\u200e\ufeff", "ab"),
        ("cafe\u200e\u0301", "café"),  # the mark between them gone, the two compose
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("\u200d \u200c", ""),
        (" \t\n", ""),
        ("\x00", ""),
        ("", ""),
    ],
)
def test_normalize_query(query, expected):
    assert normalize_query(query) == expected


@given(TRICKY)
def test_normalize_query_is_idempotent(text):
    once = normalize_query(text)
    assert normalize_query(once) == once
    assert once == once.strip()


def test_normalize_query_is_idempotent_on_every_character():
    for code in range(sys.maxunicode + 1):
        if not 0xD800 <= code <= 0xDFFF:
            once = normalize_query(chr(code))
            assert normalize_query(once) == once, hex(code)


def test_normalize_query_refuses_lone_surrogates():
    with pytest.raises(UnicodeEncodeError):
        normalize_query("red \ud800")


@pytest.mark.parametrize(
    ("query", "language"),
    [
        ("the quick brown fox jumps over the dog", "en"),
        ("der schnelle braune Fuchs springt über den Hund", "de"),
        ("赤い靴をはいた女の子", "ja"),
        ("красная обувь для девочки", "ru"),
    ],
)
def test_detect_language(query, language):
    assert detect_language(query) == language


def test_language_that_cannot_be_told():
    assert detect_language("x7") == "und"
    assert "und" not in LANGUAGES


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("big red car", {"big", "red", "car"}),
        ("красная машина", {"красная", "машина"}),
        ("赤い車", set("赤い車")),
        ("iphone手机 case", {"iphone", "手", "机", "case"}),
        ("", set()),
    ],
)
def test_words_are_what_a_script_separates(query, expected):
    assert words(query) == expected
