"""Pairs and sessions → query–query associations: which queries want the same, which do not."""

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.runs.run import Run
from schemas.tables import mined as tables
from transforms.mining.events import CLICK_UNIT
from transforms.mining.evidence import add_up
from transforms.mining.queries import QUERY_IDS, ids_of, rename_variants
from transforms.shards.blocks import GroupShards, from_blocks
from transforms.shards.outputs import par_do, write_sorted

# One row for each piece of evidence, summed later; query_a < query_b.
EDGES = pa.schema(
    [
        ("query_a", pa.int64()),
        ("query_b", pa.int64()),
        ("co_clicks", pa.int64()),  # in 1/CLICK_UNIT
        ("reformulations", pa.int64()),
        ("skips", pa.int64()),
    ]
)
DEGREES = pa.schema([("query_id", pa.int64()), ("degree", pa.int64())])
WEIGHTED_EDGES = pa.schema([*EDGES, ("degree_a", pa.int64()), ("degree_b", pa.int64())])

MIN_SKIPS = 2  # images that must speak against two queries
SHRINKAGE = 10 * CLICK_UNIT  # evidence that an edge needs to count for half of what it could


def co_clicks(pairs: pa.Table, max_queries: int) -> pa.Table:
    """Associates the queries that people chose one image for.

    Args:
      pairs: training rows of tables.PAIRS with whole images.
      max_queries: an image counts with its best queries only, so that one image never
        makes millions of edges.

    Returns:
      Rows of EDGES; co_clicks is the sum, over images, of the smaller of the two clicks.
    """
    images, queries, clicks = _linked(pairs, max_queries)
    edges = []
    starts, sizes = _groups(images)
    for size in np.unique(sizes[sizes > 1]).tolist():
        rows = starts[sizes == size][:, None] + np.arange(size)
        left, right = np.triu_indices(size, 1)
        a, b = rows[:, left].ravel(), rows[:, right].ravel()
        edges.append(_edges(queries[a], queries[b], co_clicks=np.minimum(clicks[a], clicks[b])))
    return sum_edges(edges)


def skips(pairs: pa.Table, refused: pa.Table, max_queries: int) -> pa.Table:
    """Sets queries against each other where an image was chosen for one and refused for the other.

    Args:
      pairs: training rows of tables.PAIRS with whole images.
      refused: columns image_id and query_id: people looked at the image and let it be.
      max_queries: see `co_clicks`.

    Returns:
      Rows of EDGES; skips counts images.
    """
    images, queries, _ = _linked(pairs, max_queries)
    chosen = pa.table({"image_id": images, "query": queries})
    both = chosen.join(refused.select(["image_id", "query_id"]), "image_id", join_type="inner")
    ones = np.ones(len(both), np.int64)
    return sum_edges([_edges(both["query"].to_numpy(), both["query_id"].to_numpy(), skips=ones)])


def _linked(pairs: pa.Table, max_queries: int) -> tuple[pa.ChunkedArray, np.ndarray, np.ndarray]:
    """Image, query and clicks (in 1/CLICK_UNIT) of each image's best pairs, image by image."""
    best = [("image_id", "ascending"), ("score", "descending"), ("clicks", "descending")]
    pairs = pairs.sort_by([*best, ("query_id", "ascending")])
    starts, sizes = _groups(pairs["image_id"])
    place = np.arange(len(pairs)) - np.repeat(starts, sizes)
    pairs = pairs.filter(pa.array(place < max_queries))
    clicks = np.round(pairs["clicks"].to_numpy() * CLICK_UNIT).astype(np.int64)
    return pairs["image_id"], pairs["query_id"].to_numpy(), clicks


def _groups(sorted_ids: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Start and size of each run of equal values."""
    codes = sorted_ids.combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]][: len(codes)])
    return starts, np.diff(np.r_[starts, len(codes)])


def _edges(a: np.ndarray, b: np.ndarray, **evidence: np.ndarray) -> pa.Table:
    none = np.zeros(len(a), np.int64)
    columns = [evidence.get(name, none) for name in EDGES.names[2:]]
    return pa.table([np.minimum(a, b), np.maximum(a, b), *columns], EDGES)


def step_edges(steps: pa.Table) -> pa.Table:
    """Rows of days.STEPS as rows of EDGES."""
    a, b = steps["query_a"].to_numpy(), steps["query_b"].to_numpy()
    return _edges(a, b, reformulations=steps["reformulations"].to_numpy())


def sum_edges(edges: list[pa.Table]) -> pa.Table:
    """Adds up rows of EDGES by pair of queries; a query is no pair with itself."""
    joined = pa.concat_tables([EDGES.empty_table(), *edges])
    joined = joined.filter(pc.not_equal(joined["query_a"], joined["query_b"]))
    return add_up(joined, ["query_a", "query_b"], EDGES)


def rename_queries(edges: pa.Table, variants: pa.Table) -> pa.Table:
    """Moves the edges of a spelling variant to the query that it is a spelling of."""
    for side in ("query_a", "query_b"):
        edges = rename_variants(edges, variants, side)
    evidence = {name: edges[name].to_numpy() for name in EDGES.names[2:]}
    return sum_edges([_edges(edges["query_a"].to_numpy(), edges["query_b"].to_numpy(), **evidence)])


def edge_strength(edges: pa.Table) -> np.ndarray:
    """[edges] int64: co-clicks and reformulations, each step worth a click; in 1/CLICK_UNIT."""
    return edges["co_clicks"].to_numpy() + CLICK_UNIT * edges["reformulations"].to_numpy()


def degrees(edges: pa.Table) -> pa.Table:
    """How much evidence a query has with any other: rows of DEGREES."""
    strength = edge_strength(edges)
    ends = np.r_[edges["query_a"].to_numpy(), edges["query_b"].to_numpy()]
    table = pa.table([ends, np.r_[strength, strength]], DEGREES)
    return add_up(table, ["query_id"], DEGREES)


def build_query_pairs(edges: pa.Table) -> pa.Table:
    """Weighs associations and keeps the negatives that are sure.

    The weight of an edge of strength n between queries of degrees d and e is
    n / (√(d e) + SHRINKAGE): the geometric mean of the chances that a random walk on the
    click graph takes it from either end, so that a query that goes with everything ties
    nothing together; shrunk where there is little evidence.

    Args:
      edges: rows of WEIGHTED_EDGES.

    Returns:
      Rows of tables.QUERY_PAIRS. A pair with no evidence for it and at least MIN_SKIPS
      images against it is a negative of weight 0.

    Source: Craswell and Szummer, Random walks on the click graph, SIGIR 2007, section 3.
    """
    strength = edge_strength(edges)
    hubs = edges["degree_a"].to_numpy().astype(float) * edges["degree_b"].to_numpy()
    weight = strength / (np.sqrt(hubs) + SHRINKAGE)
    clicked = edges["co_clicks"].to_numpy() > 0
    stepped = edges["reformulations"].to_numpy() > 0
    evidence = np.select(
        [clicked & stepped, clicked, stepped], ["both", "co_click", "reformulation"], "skip"
    )
    pairs = pa.table(
        {
            "query_a": edges["query_a"],
            "query_b": edges["query_b"],
            "co_clicks": pc.divide(edges["co_clicks"].cast(pa.float64()), float(CLICK_UNIT)),
            "reformulations": edges["reformulations"].cast(pa.float64()),
            "skips": edges["skips"].cast(pa.float64()),
            "weight": weight.astype(np.float32),
            "evidence": pa.array(evidence.tolist(), pa.string()),
        },
        tables.QUERY_PAIRS,
    )
    return pairs.filter(pa.array((strength > 0) | (edges["skips"].to_numpy() >= MIN_SKIPS)))


class KeepKnown(beam.PTransform):
    """PCollections of {edges, known} → EDGES tables whose two queries both are known.

    An id is a hash of what was typed: whoever guesses a rare query could find it by its id.
    """

    def __init__(self, num_shards: int, spill: str):
        super().__init__()
        self._num_shards, self._spill = num_shards, spill

    def _keep(self, shard, side) -> Iterator[pa.Table]:
        _, blocks = shard
        edges = from_blocks(blocks["edges"], EDGES)
        known = from_blocks(blocks["known"], QUERY_IDS)
        yield edges.filter(pc.is_in(edges[side], value_set=known["query_id"].combine_chunks()))

    def expand(self, inputs):
        edges = inputs["edges"]
        known = inputs["known"] | beam.Map(ids_of)
        for side in ("query_a", "query_b"):
            ids = {"edges": side, "known": "query_id"}
            edges = (
                {"edges": edges, "known": known}
                | f"By {side}" >> GroupShards(ids, self._num_shards, self._spill)
                | f"Keep {side}" >> beam.FlatMap(self._keep, side)
            )
        return edges


class BuildQueryPairs(beam.PTransform):
    """PCollection[EDGES tables] → PCollection[(name, Shard)] of tables.QUERY_PAIRS."""

    def __init__(self, run: Run, num_shards: int):
        super().__init__()
        self._run, self._num_shards = run, num_shards

    def _sum(self, shard):
        _, blocks = shard
        edges = sum_edges([from_blocks(blocks["edges"], EDGES)])
        yield beam.pvalue.TaggedOutput("edges", edges)
        yield beam.pvalue.TaggedOutput("degrees", degrees(edges))

    def _attach(self, shard, side, schema) -> Iterator[pa.Table]:
        _, blocks = shard
        edges = from_blocks(blocks["edges"], schema)
        found = add_up(from_blocks(blocks["degrees"], DEGREES), ["query_id"], DEGREES)
        place = pc.index_in(edges[side], value_set=found["query_id"].combine_chunks())
        degree = pc.fill_null(found["degree"].take(place), 0)
        yield edges.append_column(f"degree_{side[-1]}", degree)

    def _write(self, shard):
        index, blocks = shard
        pairs = build_query_pairs(from_blocks(blocks["edges"], WEIGHTED_EDGES))
        keys = ["query_a", "query_b"]
        return write_sorted(
            self._run, pairs, "query_pairs", index, num_shards=self._num_shards, keys=keys
        )

    def expand(self, edges):
        def by(side: str, **more: str) -> GroupShards:
            return GroupShards({"edges": side} | more, self._num_shards, self._run.spill)

        summed = (
            {"edges": edges} | "Sum" >> by("query_a") | par_do(self._sum, tags=("edges", "degrees"))
        )
        weighted, schema = summed.edges, EDGES
        for side in ("query_a", "query_b"):
            weighted = (
                {"edges": weighted, "degrees": summed.degrees}
                | f"By {side}" >> by(side, degrees="query_id")
                | f"Attach {side}" >> beam.FlatMap(self._attach, side, schema)
            )
            schema = pa.schema(list(WEIGHTED_EDGES)[: len(schema) + 1])
        return {"edges": weighted} | "Gather" >> by("query_a") | beam.Map(self._write)
