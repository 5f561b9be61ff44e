"""The languages of queries, long and short."""

import pytest

from model_code.text.language import LANGUAGES, detect_language, detect_languages


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


@pytest.mark.parametrize("query", ["x7", "", "2024", "👍", "a", "☕ 50%"])
def test_language_that_cannot_be_told(query):
    assert detect_language(query) == "und"
    assert "und" not in LANGUAGES


@pytest.mark.parametrize(
    ("query", "language"),
    [
        ("ルビー", "ja"),
        ("食べ物", "ja"),
        ("빨강", "ko"),
        ("大韓 독립", "ko"),
        ("ผล", "th"),
        ("אור 5", "he"),
        ("φως", "el"),
        ("ღვინო", "ka"),
        ("நீர்", "ta"),
        ("నీరు", "te"),
    ],
)
def test_a_script_of_one_language_tells_it_in_few_letters(query, language):
    assert detect_language(query) == language


def test_languages_of_many_queries_are_those_of_each():
    queries = ["the red shoes of the girl", "ルビー", "x7", "der schnelle braune Fuchs"]
    assert detect_languages(queries) == [detect_language(query) for query in queries]
    assert detect_languages([]) == []
