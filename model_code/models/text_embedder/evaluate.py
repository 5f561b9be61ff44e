"""How high the partner of a query ranks among other queries, by language and popularity.

Free of TensorFlow. Queries are indices into one list of texts; a *similarity* is a function
of two index arrays, [anchors] and [candidates], to [anchors, candidates] float scores.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from model_code.models.text_embedder.data import Neighbours

Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]

_CHUNK = 256  # anchors compared at once
_POPULAR_SHARE = 0.1


def ranks(scores: np.ndarray, targets: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """The place of each anchor's target among the candidates, from 1.

    Source: the "filtered" setting of Bordes et al., NeurIPS 2013, section 4.1.

    Args:
      scores: [anchors, candidates] float, higher is nearer.
      targets: [anchors] int64 index of a candidate.
      excluded: [anchors, candidates] bool: true partners too, which may rank above.

    Returns:
      [anchors] int64; equals count as above.
    """
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    above = (scores >= own) & ~excluded
    np.put_along_axis(above, targets[:, None], True, axis=1)
    return above.sum(axis=1)


def rank_partners(
    similarity: Similarity, pairs: np.ndarray, candidates: np.ndarray, known: Neighbours
) -> np.ndarray:
    """The place of the second query of each pair among the candidates, for the first.

    Args:
      similarity: see this module.
      pairs: [pairs, 2] int64.
      candidates: [candidates] int64, sorted and different, with every second query.
      known: all pairs that are true: other partners of a query do not count against it, nor
        does the query itself.

    Returns:
      [pairs] int64, from 1.
    """
    anchors, anchor_of = np.unique(pairs[:, 0], return_inverse=True)
    targets = np.searchsorted(candidates, pairs[:, 1])
    found = np.zeros(len(pairs), np.int64)
    for start in range(0, len(anchors), _CHUNK):
        some = anchors[start : start + _CHUNK]
        rows = np.flatnonzero((anchor_of >= start) & (anchor_of < start + _CHUNK))
        places = anchor_of[rows] - start
        scores, excluded = similarity(some, candidates), known.matrix(some, candidates)
        for part in np.array_split(np.arange(len(rows)), -(-len(rows) // _CHUNK)):
            row = places[part]
            found[rows[part]] = ranks(scores[row], targets[rows[part]], excluded[row])
    return found


def retrieval(found: np.ndarray) -> dict[str, float]:
    """Recall at 1 and 10 and mean reciprocal rank of [pairs] places; NaN of none."""
    if not len(found):
        return {"pairs": 0, "recall_at_1": np.nan, "recall_at_10": np.nan, "mrr": np.nan}
    return {
        "pairs": len(found),
        "recall_at_1": float(np.mean(found <= 1)),
        "recall_at_10": float(np.mean(found <= 10)),
        "mrr": float(np.mean(1 / found)),
    }


def summary(
    found: np.ndarray, pairs: np.ndarray, languages: np.ndarray, popular: np.ndarray
) -> dict[str, Any]:
    """`retrieval` over all pairs and over kinds of pairs.

    Args:
      found: [pairs] int64 places.
      pairs: [pairs, 2] int64.
      languages: [queries] codes.
      popular: [queries] bool.

    Returns:
      The figures of all pairs; under "within" and "across" those of one language and of two;
      under "popular" and "rare" those by the query to be found; under "by_language" within
      and across by the language asked in; under "matrix" by language asked in and found.
    """
    asked, answered = languages[pairs[:, 0]], languages[pairs[:, 1]]
    same, wanted = asked == answered, popular[pairs[:, 1]]
    every = np.unique(asked).tolist()
    return retrieval(found) | {
        "within": retrieval(found[same]),
        "across": retrieval(found[~same]),
        "popular": retrieval(found[wanted]),
        "rare": retrieval(found[~wanted]),
        "by_language": {
            language: {
                "within": retrieval(found[same & (asked == language)]),
                "across": retrieval(found[~same & (asked == language)]),
            }
            for language in every
        },
        "matrix": {
            language: {
                other: retrieval(found[(asked == language) & (answered == other)])
                for other in np.unique(answered[asked == language]).tolist()
            }
            for language in every
        },
    }


def most_popular(counts: np.ndarray) -> np.ndarray:
    """[queries] bool: the tenth of queries with most associations, ties left out."""
    return counts > np.quantile(counts, 1 - _POPULAR_SHARE)


def choose_candidates(pairs: np.ndarray, queries: int, most: int) -> np.ndarray:
    """Every second query of the pairs, filled up with others to `most`: sorted, different.

    Queries are ordered by hash, so that those evenly apart are a random sample.
    """
    needed = np.unique(pairs[:, 1])
    others = np.setdiff1d(np.arange(queries), needed)
    more = min(len(others), max(0, most - len(needed)))
    chosen = others[np.linspace(0, len(others), more, endpoint=False).astype(np.int64)]
    return np.union1d(needed, chosen)


def cosines(embs: np.ndarray) -> Similarity:
    """The cosine of [queries, width] unit rows as a similarity."""
    return lambda anchors, candidates: embs[anchors] @ embs[candidates].T


def mean_of_words(table: np.ndarray, ids: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The mean vector of each text's words, without word pairs and without attention.

    Args:
      table: [n-grams, width] float32: a trained table.
      ids: [texts, length] int64, words first.
      words: [texts] int64: the number of words.

    Returns:
      [texts, width] float32, unit rows; zero where a text has no word.
    """
    found = np.zeros((len(ids), table.shape[1]), np.float32)
    for place in range(int(words.max(initial=0))):
        rows = np.flatnonzero(words > place)
        found[rows] += table[ids[rows, place]]
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


class TfIdf:
    """tf-idf over bags, by cosine: idf = ln((1 + n) / (1 + df)) + 1.

    Source: Salton and Buckley, Information Processing and Management 1988; smoothed as
    though one more text held every term.

    Args:
      ids: [texts, length] int64, 0 for none: the terms of every text.
      fitted: [fitted] int64: the texts that document frequencies are counted in.
    """

    def __init__(self, ids: np.ndarray, fitted: np.ndarray):
        terms, columns = np.unique(ids, return_inverse=True)
        self.terms = len(terms)
        rows = np.repeat(np.arange(len(ids)), ids.shape[1])
        present = ids.ravel() != 0
        codes = rows[present] * self.terms + columns.ravel()[present]
        codes, counts = np.unique(codes, return_counts=True)
        self._rows, self._columns = codes // self.terms, codes % self.terms
        is_fitted = np.zeros(len(ids), bool)
        is_fitted[fitted] = True
        frequency = np.bincount(self._columns[is_fitted[self._rows]], minlength=self.terms)
        idf = np.log((1 + len(fitted)) / (1 + frequency)) + 1
        values = counts * idf[self._columns]
        norms = np.sqrt(np.bincount(self._rows, values**2, minlength=len(ids)))
        self._values = (values / norms[self._rows]).astype(np.float32)
        self._starts = np.searchsorted(self._rows, np.arange(len(ids) + 1))

    def _of(self, some: np.ndarray) -> tuple[np.ndarray, ...]:
        """[found] row in `some`, [found] column and [found] value, row by row."""
        sizes = self._starts[some + 1] - self._starts[some]
        ends = np.cumsum(sizes)
        places = np.arange(sizes.sum()) + np.repeat(self._starts[some] - ends + sizes, sizes)
        rows = np.repeat(np.arange(len(some)), sizes)
        return rows, self._columns[places], self._values[places]

    def similarity(self, anchors: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Cosines [anchors, candidates] float32; 0 where a text has no term."""
        rows, columns, values = self._of(anchors)
        used, places = np.unique(columns, return_inverse=True)
        dense = np.zeros((len(used) + 1, len(anchors)), np.float32)
        dense[places, rows] = values
        rows, columns, values = self._of(candidates)
        places = np.minimum(np.searchsorted(used, columns), max(len(used) - 1, 0))
        hits = used[places] == columns if len(used) else np.zeros(len(columns), bool)
        rows, places, values = rows[hits], places[hits], values[hits]
        scores = np.zeros((len(candidates), len(anchors)), np.float32)
        if len(rows):
            starts = np.flatnonzero(np.diff(rows, prepend=-1))
            scores[rows[starts]] = np.add.reduceat(dense[places] * values[:, None], starts)
        return scores.T


def table(title: str, methods: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of `summary` by method, for people: recall@1, recall@10 and MRR."""
    kinds = ("", "within", "across", "popular", "rare")
    lines = [f"{title:22}" + "".join(f"{kind or 'all':>18}" for kind in kinds)]
    for name, found in methods.items():
        cells = [found[kind] if kind else found for kind in kinds]
        lines.append(f"{name:22}" + "".join(f"{_cell(cell):>18}" for cell in cells))
    counts = [found[kind]["pairs"] if kind else found["pairs"] for kind in kinds]
    return "\n".join([*lines, f"{'pairs':22}" + "".join(f"{count:18,}" for count in counts)])


def _cell(found: Mapping[str, float]) -> str:
    names = ("recall_at_1", "recall_at_10", "mrr")
    if not found["pairs"]:
        return "–"
    return " ".join(f"{found[name]:.3f}".removeprefix("0") for name in names)
