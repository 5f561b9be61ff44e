import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.mining.spelling import VARIANTS, look_alike, variants, within_edit_distance


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("shoes", "shoes", 0),
        ("shoes", "shoe", 1),
        ("shoes", "shoees", 1),
        ("shoes", "sheos", 1),
        ("shoes", "chuse", 3),
        ("ca", "abc", 2),  # a swap, then an insertion between the swapped
        ("赤い靴", "赤い鞄", 1),
        ("", "ab", 2),
    ],
)
def test_edit_distance(a, b, distance):
    for n in range(4):
        assert within_edit_distance(a, b, n) == (distance <= n)
        assert within_edit_distance(b, a, n) == (distance <= n)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("sunflwer", "sunflower", True),
        ("sunlfwoer", "sunflower", True),
        ("sunfowr", "sunflower", False),  # seven letters: one edit
        ("snflowr field", "sunflower field", True),
        ("cafe", "café", True),
        ("color", "colour", True),
        ("grey", "gry", True),
        ("iphone 14", "iphone 15", False),
        ("iphone 14", "iphone 1", False),
        ("iphone 14", "iphon 14", True),
        ("pixel ٤", "pixel ٥", False),
        ("red car", "blue car", False),
        ("same", "same", True),
    ],
)
def test_look_alike(a, b, expected):
    assert look_alike([a], [b]).tolist() == [expected]
    assert look_alike([b, "x"], [a, "x"]).tolist() == [expected, True]


def _edges(rows):
    names = ("query_a", "query_b", "reformulations", "co_images")
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return pa.table(dict(zip(names, columns, strict=True)))


def _queries(rows):
    ids, texts, clicks = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "query_id": pa.array(ids, pa.int64()),
            "text": pa.array(texts, pa.string()),
            "clicks": pa.array(clicks, pa.float64()),
        }
    )


FLOWERS = [(1, "sunflower", 90.0), (2, "sunflwer", 7.0), (3, "sunflowr", 9.0), (4, "rose", 50.0)]


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([(1, 2, 3, 1)], {2: 1}),
        ([(1, 2, 2, 1)], {}),  # too few steps
        ([(1, 2, 3, 0)], {}),  # no image in common
        ([(1, 4, 9, 9)], {}),  # two words
        ([(2, 3, 3, 1)], {2: 3}),
        ([(2, 3, 3, 1), (1, 3, 3, 1)], {2: 1, 3: 1}),  # followed to the end
        ([(2, 3, 3, 1), (1, 2, 3, 1)], {2: 1}),  # the most clicked of two
        ([(1, 5, 3, 1), (5, 6, 9, 9)], {}),  # nobody knows them
        ([], {}),
    ],
)
def test_variants(edges, expected):
    found = variants(_edges(edges), _queries(FLOWERS), min_steps=3)
    assert found.schema == VARIANTS
    assert dict(zip(*found.to_pydict().values(), strict=True)) == expected


def test_of_equally_many_clicks_the_smaller_id_stays():
    queries = _queries([(-5, "colour", 4.0), (7, "color", 4.0), (9, "colur", 4.0)])
    found = variants(_edges([(7, 9, 3, 1), (-5, 7, 3, 1), (-5, 9, 3, 1)]), queries, 3)
    assert found.to_pydict() == {"query_id": [7, 9], "canonical_id": [-5, -5]}
    assert variants(_edges([(7, 9, 3, 1)]), _queries([]), 3).num_rows == 0


TEXTS = st.text("abé1", min_size=1, max_size=10)
LOGS = st.lists(TEXTS, min_size=1, max_size=8, unique=True).flatmap(
    lambda texts: st.tuples(
        st.lists(
            st.tuples(st.integers(-9, 9), st.integers(0, 3)),
            min_size=len(texts),
            max_size=len(texts),
            unique_by=lambda row: row[0],
        ).map(lambda rows: [(i, t, float(c)) for (i, c), t in zip(rows, texts, strict=True)]),
        st.dictionaries(
            st.tuples(st.integers(-9, 9), st.integers(-9, 9)).filter(
                lambda pair: pair[0] < pair[1]
            ),
            st.tuples(st.integers(1, 4), st.integers(0, 2)),
            max_size=12,
        ),
    )
)


def _oracle(queries, edges, min_steps):
    """Row by row: each query's best, then the chain of bests."""
    known = {i: (text, clicks) for i, text, clicks in queries}
    best = {}
    for i in known:
        better = []
        for (a, b), (steps, images) in edges.items():
            if i not in (a, b) or steps < min_steps or images < 1:
                continue
            other = b if i == a else a
            if other not in known:
                continue
            (mine, my_clicks), (text, clicks) = known[i], known[other]
            allowed = 1 if min(len(mine), len(text)) < 8 else 2
            same_digits = [c for c in mine if c == "1"] == [c for c in text if c == "1"]
            if (-clicks, other) < (-my_clicks, i) and same_digits and _edits(mine, text) <= allowed:
                better.append((-clicks, other))
        if better:
            best[i] = min(better)[1]
    found = {}
    for i in best:
        end = best[i]
        while end in best:
            end = best[end]
        found[i] = end
    return found


def _edits(a, b):
    """Lowrance and Wagner, Journal of the ACM 22 (1975), with unit costs."""
    rows, columns = len(a), len(b)
    far = rows + columns
    d = np.full((rows + 2, columns + 2), far)
    d[1:, 1], d[1, 1:] = range(rows + 1), range(columns + 1)
    last_row = {}
    for i in range(1, rows + 1):
        last_column = 0
        for j in range(1, columns + 1):
            k, m = last_row.get(b[j - 1], 0), last_column
            cost = int(a[i - 1] != b[j - 1])
            last_column = m if cost else j
            d[i + 1, j + 1] = min(
                d[i, j] + cost,
                d[i + 1, j] + 1,
                d[i, j + 1] + 1,
                d[k, m] + (i - k - 1) + 1 + (j - m - 1),
            )
        last_row[a[i - 1]] = i
    return d[rows + 1, columns + 1]


@given(LOGS, st.randoms())
def test_variants_equal_the_oracle_in_any_order_of_rows(log, random):
    queries, edges = log
    rows = [(*pair, *counts) for pair, counts in edges.items()]
    found = variants(_edges(rows), _queries(queries), min_steps=2)
    of = dict(zip(*found.to_pydict().values(), strict=True))
    assert of == _oracle(queries, edges, 2)
    assert not set(of) & set(of.values()), "what a variant stands for is never a variant"
    random.shuffle(rows)
    random.shuffle(queries)
    assert variants(_edges(rows), _queries(queries), min_steps=2) == found
