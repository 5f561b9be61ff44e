import datetime
import itertools

import pyarrow as pa
import pytest

from schemas.tables import mined as tables
from transforms.mining import queries
from transforms.mining.days import QUERY_DAYS, QUERY_USERS
from transforms.mining.events import QUERY_TEXTS


def table(schema, rows):
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def test_query_stats():
    rows = [("x", 1, "train", 2), ("y", 1, "test", 3), ("y", 2, "test", 5)]
    pairs = [dict(zip(("image_id", "query_id", "split", "clicks"), r, strict=True)) for r in rows]
    stats = queries.query_stats(pa.Table.from_pylist(pairs, tables.PAIRS)).to_pylist()
    assert {r["query_id"]: tuple(r.values())[1:] for r in stats} == {
        1: (5.0, 2, 2.0, 1),
        2: (5.0, 1, 0.0, 0),
    }


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_build_queries(order):
    votes = [(1, "en", 2), (1, "de", 1), (1, "de", 1)]
    built, history = queries.build_queries(
        table(queries.QUERY_STATS, [(q, 1, 1, 1, 1) for q in (2, 1, 1)]),
        texts=table(
            QUERY_TEXTS,
            [(1, "rote schuhe"), (2, "the quick brown fox jumps over the dog"), (1, "rote schuhe")],
        ),
        languages=table(queries.VOTES, [votes[i] for i in order]),
        users=table(QUERY_USERS, [(1, 3), (1, 4), (9, 5)]),
        days=table(
            QUERY_DAYS,
            [(1, 20_000, 1024, 3), (1, 20_002, 512, 1), (1, 20_000, 512, 1), (9, 1, 1, 1)],
        ),
        spellings=table(QUERY_TEXTS, [(1, "rote shuhe"), (1, "rotte schuhe"), (1, "rote shuhe")]),
    )
    found = {row["query_id"]: row for row in built.to_pylist()}
    assert set(found) == {1, 2}
    assert found[1]["query"] == "rote schuhe"
    assert found[1]["language"] == "de", "a tie goes by the alphabet"
    assert found[2]["language"] == "en"
    assert (found[1]["clicks"], found[1]["users"], found[2]["users"]) == (2.0, 7, 0)
    first = datetime.date(1970, 1, 1) + datetime.timedelta(20_000)
    assert (found[1]["first_day"], found[1]["last_day"]) == (first, first + datetime.timedelta(2))
    assert found[2]["first_day"] is None
    assert found[1]["variants"] == ["rote shuhe", "rotte schuhe"]
    days = {(r["query_id"], r["day"]): (r["clicks"], r["impressions"]) for r in history.to_pylist()}
    assert days == {(1, first): (1.5, 4), (1, first + datetime.timedelta(2)): (0.5, 1)}
    assert built.schema == tables.QUERIES
    assert history.schema == tables.QUERY_DAYS


def test_each_id_has_one_text_however_rows_are_ordered():
    rows = [(1, "shoe"), (1, "boot"), (1, "shoe"), (2, "hat"), (1, "sandal")]
    for order in itertools.permutations(rows):
        kept, others = queries.one_text_each(table(QUERY_TEXTS, order))
        assert [tuple(row.values()) for row in kept.to_pylist()] == [(1, "boot"), (2, "hat")]
        assert [tuple(row.values()) for row in others.to_pylist()] == [(1, "sandal"), (1, "shoe")]
    assert [len(part) for part in queries.one_text_each(QUERY_TEXTS.empty_table())] == [0, 0]


@pytest.mark.parametrize(
    ("histogram", "most", "expected"),
    [
        ({5: 2, 3: 1, 1: 9}, 3, 3),
        ({5: 2, 3: 2, 1: 9}, 3, 5),
        ({5: 4}, 3, 6),
        ({5: 2, 0: 7}, 100, 5),
        ({}, 3, 1),
    ],
)
def test_head_has_no_ties_at_its_border_and_nothing_without_support(histogram, most, expected):
    assert queries.head_support(histogram, most) == expected
