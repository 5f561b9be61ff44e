"""The words of a query, and its parts of several."""

import numpy as np
import pyarrow as pa
import regex
from icu4py.breakers import WordBreaker


def words(query: str) -> set[str]:
    """The words of a normalised query, in any script, without white space and punctuation.

    Unicode Standard Annex 29, with ICU's dictionaries for the scripts written without
    spaces. (The text embedder finds words inside a SavedModel, where no library runs: it
    takes each character of such scripts for a word.)
    """
    return {word for word in map(str, WordBreaker(query, "root")) if _IN_WORDS.search(word)}


def query_parts(queries: pa.Array, longest: int) -> tuple[np.ndarray, pa.Array]:
    """The words of queries and their runs of several, which no punctuation but a hyphen cuts.

    Args:
      queries: [n] string, normalised.
      longest: words of a run at most.

    Returns:
      [parts] int64, rising: which query it is of; and [parts] string, each once a query and
      never the whole of it.
    """
    found = [_parts(query, longest) for query in queries.to_pylist()]
    places = np.repeat(np.arange(len(found)), [len(parts) for parts in found])
    return places, pa.array([part for parts in found for part in parts], pa.string())


def _parts(query: str, longest: int) -> list[str]:
    spans, end = [], 0
    for piece in map(str, WordBreaker(query, "root")):
        start, end = end, end + len(piece)
        if _IN_WORDS.search(piece):
            spans.append((start, end))
    parts = set()
    for first, (start, end) in enumerate(spans):
        for next_start, next_end in [(end, end), *spans[first + 1 : first + longest]]:
            if query[end:next_start] not in ("", " ", "-"):
                break
            end = next_end
            parts.add(query[start:end])
    return sorted(parts - {query})


_IN_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}\p{S}]")
