import sys
import unicodedata

import ftfy
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_code.text.normalise import (
    LANGUAGES,
    detect_language,
    detect_languages,
    normalize_queries,
    normalize_query,
    query_parts,
    words,
)

ENGLAND = "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
# Characters whose neighbours compose, shrink or vanish in one form or another.
TRICKY = st.text(
    st.sampled_from(
        "aAiIİßſΣςÅé\u0301\u0307\u0345\u200b\u200c\u200d\u200e\ufeff\x00\t\u3000 ﬁ①ﷺ각ᄀ"
        "’“\x1c\x7f\x85❤\ufe0f👩🏽🏴\U000e0067\U000e007f\u094d\u0915\u06ccÃ©â€™\xa0Ð¸\ufffd"
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
        ("🙂\u200d↔\ufe0f", "🙂\u200d↔"),
        ("❤\ufe0f\u200d🔥", "❤\u200d🔥"),
        ("❤\ufe0f", "❤"),
        ("❤\ufe0e", "❤"),
        ("👍🏽", "👍🏽"),
        ("1\ufe0f\u20e3", "1\u20e3"),
        ("\U0001fae8", "\U0001fae8"),  # younger than Python 3.11's table of characters
        (ENGLAND, ENGLAND),
        ("red\U000e0067\U000e007f", "red"),
        ("re\u200cd\u200d car", "red car"),
        ("می\u200b\u200c\u200c\u200dخواهم", "می\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("ന്\u200d", "ന്\u200d"),
        ("a\u034f\u3164\u2800b", "ab"),
        ("葛\U000e0100", "葛"),
        ("İSTANBUL", "istanbul"),
        ("don’t “do”", 'don\'t "do"'),
        ("tom &amp; jerry", "tom &amp; jerry"),
        ("c\x1ca\x1fr\x7f", "c a r"),
        ("\u200d \u200c", ""),
        (" \t\n", ""),
        ("\x00", ""),
        ("", ""),
    ],
)
def test_normalize_query(query, expected):
    assert normalize_query(query) == expected


@pytest.mark.parametrize(
    ("query", "tables"),
    [
        ("crème brûlée à la carte", ["latin-1", "windows-1252", "macroman"]),
        ("Grüße aus Köln", ["latin-1", "windows-1252", "macroman"]),
        ("красные туфли на каблуке", ["latin-1", "sloppy-windows-1252", "windows-1251"]),
        ("赤い靴", ["latin-1", "sloppy-windows-1252", "macroman"]),
    ],
)
def test_text_decoded_by_the_wrong_table_is_repaired(query, tables):
    for table in tables:
        wrong = query.encode("utf-8").decode(table)
        assert wrong != query
        assert normalize_query(wrong) == normalize_query(query), table


@pytest.mark.parametrize(
    "query", ["são paulo", "voilà", "ångström", "señor ñ", "ß", "àéîõü", "ÃO", "µm", "½ £ € ©", "â"]
)
def test_right_text_is_not_repaired(query):
    assert ftfy.fix_encoding(query) == query
    assert normalize_query(query) == " ".join(
        unicodedata.normalize("NFKC", query).casefold().split()
    )


@given(TRICKY)
def test_normalize_query_is_idempotent(text):
    once = normalize_query(text)
    assert normalize_query(once) == once
    assert once == once.strip()


def test_normalize_query_is_idempotent_on_every_assigned_character():
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) not in ("Cs", "Cn", "Co"):
            once = normalize_query(chr(code))
            assert normalize_query(once) == once, hex(code)


def test_normalize_query_refuses_lone_surrogates():
    with pytest.raises(UnicodeEncodeError):
        normalize_query("red \ud800")


ASCII = st.text(st.characters(max_codepoint=127), max_size=12)


@given(st.lists(TRICKY | ASCII | st.none()), st.sampled_from([pa.string(), pa.binary()]))
def test_many_at_once_are_what_they_are_one_by_one(texts, type_):
    found = normalize_queries(pa.array(texts, pa.string()).cast(type_))
    assert found.type == pa.string()
    assert found.to_pylist() == [None if t is None else normalize_query(t) for t in texts]


@given(st.lists(st.binary(max_size=6)))
def test_bytes_that_are_no_utf8_are_null(texts):
    def expected(text):
        try:
            return normalize_query(text.decode("utf-8"))
        except UnicodeDecodeError:
            return None

    found = normalize_queries(pa.array(texts, pa.binary())).to_pylist()
    assert found == [expected(text) for text in texts]


def test_a_slice_of_texts_is_normalised_as_its_rows():
    texts = pa.array(["x", "A  B", None, "É", "y "]).slice(1, 3)
    assert normalize_queries(texts).to_pylist() == ["a b", None, "é"]
    assert normalize_queries(pa.array([], pa.binary())).to_pylist() == []


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
