"""The words of queries in many scripts."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_code.text.normalise import normalize_query
from model_code.text.words import query_parts, words
from tests.support.inputs.tricky_text import TRICKY


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("big red car", "big red car"),
        ("красная машина", "красная машина"),
        ("don't stop!", "don't stop"),
        ("3.5 mm wi-fi", "3.5 mm wi fi"),
        ("赤い靴をはいた女の子", "赤い 靴 を はい た 女の子"),
        ("红色的高跟鞋", "红色 的 高跟鞋"),
        ("빨간 자동차", "빨간 자동차"),
        ("รองเท้าสีแดง", "รองเท้า สี แดง"),
        ("សៀវភៅក្រហម", "សៀវភៅ ក្រហម"),
        ("iphone手机 case", "iphone 手机 case"),
        ("👩\u200d🚀 ❤", "👩\u200d🚀 ❤"),
        ("", ""),
        (" ,. ", ""),
    ],
)
def test_words_are_what_a_script_separates(query, expected):
    assert words(query) == set(expected.split())


@given(TRICKY)
def test_words_are_parts_of_their_query(text):
    query = normalize_query(text)
    found = words(query)
    assert all(word in query and not word.isspace() for word in found)
    assert {c for c in query if c.isalnum()} <= set("".join(found))


@pytest.mark.parametrize(
    ("query", "longest", "expected"),
    [
        ("big red dog", 1, ["big", "dog", "red"]),
        ("big red dog", 2, ["big", "big red", "dog", "red", "red dog"]),
        ("big red dog", 3, ["big", "big red", "dog", "red", "red dog"]),
        ("red, red", 2, ["red"]),
        ("don't (ever) stop!", 2, ["don't", "ever", "stop"]),
        ("红色的高跟鞋", 2, ["的", "的高跟鞋", "红色", "红色的", "高跟鞋"]),
        ("t-shirt blue", 2, ["blue", "shirt", "shirt blue", "t", "t-shirt"]),
        ("dog", 2, []),
        ("", 2, []),
    ],
)
def test_parts_of_queries(query, longest, expected):
    places, parts = query_parts(pa.array(["before me", query]), longest)
    assert sorted(parts.filter(pa.array(places == 1)).to_pylist()) == expected


@given(st.lists(TRICKY, max_size=5), st.integers(1, 3))
def test_parts_are_runs_of_words_and_never_the_whole(texts, longest):
    queries = [normalize_query(text) for text in texts]
    places, parts = query_parts(pa.array(queries, pa.string()), longest)
    assert list(places) == sorted(places)
    for place, part in zip(places, parts.to_pylist(), strict=True):
        assert part in queries[place]
        assert part != queries[place]
