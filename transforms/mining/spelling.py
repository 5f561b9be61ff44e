"""Spelling variants of queries, merged only where the log itself shows them."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rapidfuzz import process
from rapidfuzz.distance import DamerauLevenshtein

from transforms.mining.days import STEPS
from transforms.mining.events import QUERY_TEXTS
from transforms.mining.evidence import add_up
from transforms.mining.pairs import CANDIDATES, KNOWN_QUERIES
from transforms.mining.queries import VARIANTS
from transforms.shards.blocks import GroupShards, from_blocks

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
      queries: [queries] rows query_id int64 (each once), text string, clicks.
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
    texts = queries["text"]
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


_TOLD = ("text", "clicks")
# Two queries that people went between, with what decides whether they are one.
ALIKE = pa.schema(
    [
        *STEPS,
        *[(f"{name}_{side}", KNOWN_QUERIES.field(name).type) for side in "ab" for name in _TOLD],
    ]
)
_HALF_TOLD = pa.schema(list(ALIKE)[: len(STEPS) + len(_TOLD)])
CO_IMAGES = pa.schema([("query_a", pa.int64()), ("query_b", pa.int64()), ("co_images", pa.int64())])


def tell(steps: pa.Table, known: pa.Table, side: str) -> pa.Table:
    """Adds the text and clicks of the query at one side of steps; unknown queries drop out.

    Args:
      steps: rows of STEPS, or of this with one side told.
      known: rows of KNOWN_QUERIES.
      side: "a" or "b".
    """
    place = pc.index_in(steps[f"query_{side}"], value_set=known["query_id"].combine_chunks())
    for name in _TOLD:
        steps = steps.append_column(f"{name}_{side}", known[name].take(place))
    return steps.filter(pc.is_valid(place))


def count_co_images(chosen: pa.Table, alike: pa.Table) -> pa.Table:
    """Counts the images that were clicked for both of two queries: rows of CO_IMAGES.

    Args:
      chosen: rows of CANDIDATES, all of each image's.
      alike: rows of ALIKE.
    """
    clicked = chosen.filter(pc.greater(chosen["score"], 0)).select(["image_id", "query_id"])
    first = clicked.rename_columns(["image_id", "query_a"])
    second = clicked.rename_columns(["image_id", "query_b"])
    found = alike.select(["query_a", "query_b"]).join(first, "query_a", join_type="inner")
    found = found.join(second, ["image_id", "query_b"], join_type="inner")
    found = found.append_column("co_images", pa.array(np.ones(len(found), np.int64)))
    return add_up(found, ["query_a", "query_b"], CO_IMAGES)


def find_variants(
    alike: Iterable[pa.Table], co_images: Iterable[pa.Table], min_steps: int
) -> tuple[pa.Table, pa.Table]:
    """Puts the evidence of all shards together.

    Returns:
      Rows of VARIANTS; and of QUERY_TEXTS, the texts of variants under their canonical ids.
    """
    told = pa.concat_tables([ALIKE.empty_table(), *alike]).combine_chunks()
    counted = pa.concat_tables([CO_IMAGES.empty_table(), *co_images])
    counted = add_up(counted, ["query_a", "query_b"], CO_IMAGES)
    edges = told.select(STEPS.names).join(counted, ["query_a", "query_b"], join_type="inner")
    ends = [
        pa.table([told[f"query_{s}"], *[told[f"{n}_{s}"] for n in _TOLD]], KNOWN_QUERIES)
        for s in "ab"
    ]
    known = pa.concat_tables(ends).group_by(KNOWN_QUERIES.names).aggregate([])
    found = variants(edges, known, min_steps)
    place = pc.index_in(found["query_id"], value_set=known["query_id"].combine_chunks())
    return found, pa.table([found["canonical_id"], known["text"].take(place)], QUERY_TEXTS)


class FindVariants(beam.PTransform):
    """What the log shows of spellings → tagged `variants` and `spellings`, one table each.

    Input: a dict with `steps` (PCollection of STEPS tables), `known` (of KNOWN_QUERIES
    tables) and `images` (shards of images: {chosen}).
    """

    def __init__(self, min_steps: int, num_shards: int, spill: str):
        super().__init__()
        self._min_steps, self._num_shards, self._spill = min_steps, num_shards, spill

    def _tell_first(self, shard) -> Iterator[pa.Table]:
        _, blocks = shard
        steps = add_up(from_blocks(blocks["steps"], STEPS), ["query_a", "query_b"], STEPS)
        steps = steps.filter(pc.greater_equal(steps["reformulations"], self._min_steps))
        yield tell(steps, from_blocks(blocks["known"], KNOWN_QUERIES), "a")

    def _tell_second(self, shard) -> Iterator[pa.Table]:
        _, blocks = shard
        steps = from_blocks(blocks["steps"], _HALF_TOLD)
        told = tell(steps, from_blocks(blocks["known"], KNOWN_QUERIES), "b")
        yield told.filter(
            pa.array(look_alike(told["text_a"].to_pylist(), told["text_b"].to_pylist()))
        )

    def _count(self, shard, alike) -> pa.Table:
        _, blocks = shard
        tables = pa.concat_tables([ALIKE.empty_table(), *alike])
        return count_co_images(from_blocks(blocks["chosen"], CANDIDATES), tables)

    def _find(self, _, alike, co_images):
        found, spellings = find_variants(alike, co_images, self._min_steps)
        yield beam.pvalue.TaggedOutput("variants", found)
        yield beam.pvalue.TaggedOutput("spellings", spellings)

    def expand(self, inputs):
        steps = inputs["steps"]
        for side, tell_side in (("query_a", self._tell_first), ("query_b", self._tell_second)):
            ids = {"steps": side, "known": "query_id"}
            steps = (
                {"steps": steps, "known": inputs["known"]}
                | f"By {side}" >> GroupShards(ids, self._num_shards, self._spill)
                | f"Tell {side}" >> beam.FlatMap(tell_side)
            )
        alike = beam.pvalue.AsList(steps)
        co_images = inputs["images"] | "CountCoImages" >> beam.Map(self._count, alike)
        return (
            steps.pipeline
            | beam.Create([None])
            | beam.FlatMap(self._find, alike, beam.pvalue.AsList(co_images)).with_outputs(
                "variants", "spellings"
            )
        )
