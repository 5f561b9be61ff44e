"""Queries in the one form in which they are counted, however they were typed."""

import sys
import unicodedata

import ftfy
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_code.text.normalise import normalize_queries, normalize_query
from tests.support.inputs.tricky_text import TRICKY

ENGLAND = "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


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
