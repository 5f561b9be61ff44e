"""Spelling variants of queries, merged only where the log itself shows them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rapidfuzz import process
from rapidfuzz.distance import DamerauLevenshtein

VARIANTS = pa.schema(
    [
        ("query_id", pa.int64()),
        ("canonical_id", pa.int64()),  # never itself a variant
    ]
)

# Texts shorter than this may differ by one edit, others by two.
_LONG_TEXT = 8
_MAX_EDITS = 2


def within_edit_distance(a: str, b: str, n: int) -> bool:
    """Whether at most n insertions, deletions, substitutions and swaps of neighbours part them.

    Source: the unrestricted Damerau-Levenshtein distance, by rapidfuzz.
    """
    return DamerauLevenshtein.distance(a, b, score_cutoff=n) <= n


def look_alike(a: list[str], b: list[str]) -> np.ndarray:
    """Which texts a[i] and b[i] may be one query, spelled differently.

    They are within one edit, or two where both have 8 characters or more; and
    their digits are equal: "iphone 14" is no way to write "iphone 15".

    Returns:
      [n] bool.
    """
    # Beyond the cutoff rapidfuzz says one more.
    edits = process.cpdist(
        a, b, scorer=DamerauLevenshtein.distance, score_cutoff=_MAX_EDITS, dtype=np.int32
    )
    shorter = np.array([min(len(x), len(y)) for x, y in zip(a, b, strict=True)], np.int64)
    found = edits <= np.where(shorter < _LONG_TEXT, 1, _MAX_EDITS)
    for i in np.flatnonzero(found):
        found[i] = _digits(a[i]) == _digits(b[i])
    return found


def _digits(text: str) -> str:
    return "".join(filter(str.isdecimal, text))


def variants(edges: pa.Table, queries: pa.Table, min_steps: int) -> pa.Table:
    """The queries that are another one, misspelled or spelled otherwise.

    A query is a variant of one with more clicks (of equally many: with the smaller id) if
    people went from one to the other at least `min_steps` times within their sessions,
    clicked some image for both, and the texts `look_alike`. Of several it is a variant of
    the one with the most clicks, and then of what that one is a variant of, to the end. As
    each step goes up in that order, there is no way round.

    Args:
      edges: [edges] rows query_a, query_b int64, reformulations, co_images; each unordered
        pair once. Queries that `queries` lacks are passed over.
      queries: [queries] rows query_id int64 (each once), query string, clicks.
      min_steps: see above.

    Returns:
      Rows of VARIANTS, sorted by query_id.
    """
    linked = pc.and_(
        pc.greater_equal(edges["reformulations"], min_steps),
        pc.greater_equal(edges["co_images"], 1),
    )
    edges = edges.filter(linked)
    queries = queries.sort_by("query_id")
    ids = queries["query_id"].to_numpy()
    clicks = queries["clicks"].to_numpy()
    sides = np.stack([edges["query_a"].to_numpy(), edges["query_b"].to_numpy()])
    if not len(ids) or not sides.size:
        return VARIANTS.empty_table()
    places = np.minimum(np.searchsorted(ids, sides), len(ids) - 1)
    places = places[:, (ids[places] == sides).all(axis=0)]
    texts = queries["query"]
    alike = look_alike(*(texts.take(pa.array(side)).to_pylist() for side in places))
    first, second = places[:, alike]
    # Places are in the order of ids: the lower place has the smaller id.
    is_first_better = (clicks[first] > clicks[second]) | (
        (clicks[first] == clicks[second]) & (first < second)
    )
    better = np.where(is_first_better, first, second)
    worse = np.where(is_first_better, second, first)
    target = np.arange(len(ids))
    # The last that is written stays: the one with the most clicks, then the smallest id.
    order = np.lexsort((-better, clicks[better]))
    target[worse[order]] = better[order]
    while (further := target[target] != target).any():
        target[further] = target[target[further]]
    rows = np.flatnonzero(target != np.arange(len(ids)))
    return pa.table({"query_id": ids[rows], "canonical_id": ids[target[rows]]}, schema=VARIANTS)
