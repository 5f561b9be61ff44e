"""Mining: checked events, labels and images → images, pairs, queries and their associations.

Every function here takes the tables of one shard and is free of Beam; the PTransforms
under them move the shards.
"""

import dataclasses

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.text import detect_language
from schemas import tables
from schemas.dead_letter import dead_letters
from schemas.fingerprint import hash64
from schemas.stage import Stage
from transforms.datasets import COUNTS, DEAD, SHARDS, Output, from_blocks, write_sorted
from transforms.events import EVENTS, LABELS, QUERY_TEXTS
from transforms.images import CLEAN_IMAGES

IMAGE_KEYS = pa.schema([("key", pa.string()), ("image_id", pa.string())])
CLICKS = pa.schema(
    [("image_id", pa.string()), *[f for f in EVENTS if f.name not in ("key", "position")]]
)
ATTRIBUTES = pa.schema([("image_id", pa.string()), *LABELS])
QUERY_STATS = pa.schema([f for f in tables.QUERIES if f.name not in ("query", "language")])
SESSION_CLICKS = pa.schema([f for f in EVENTS if f.name in ("query_id", "session", "timestamp")])
EDGES = pa.schema([f for f in tables.QUERY_PAIRS if f.name != "weight"])


def join_by_key(images: pa.Table, events: pa.Table, labels: pa.Table, stage: Stage) -> Output:
    """Joins events and labels with the images of their keys.

    An event that was delivered twice counts once: rows that are equal in all columns
    are one event. A key may name several images (photos of one item); each gets the click.

    Args:
      images: rows of IMAGE_KEYS of one shard of keys.
      events: rows of EVENTS of the same shard.
      labels: rows of LABELS of the same shard.
      stage: the run, named in dead letters.

    Returns:
      Tables `clicks` (CLICKS) and `attributes` (ATTRIBUTES: a row for each image, key and
      label), dead letters of unknown images, counts of `clicks` and `known_labels`.
    """
    images = images.group_by(IMAGE_KEYS.names).aggregate([])
    unique = events.group_by(EVENTS.names).aggregate([]).cast(EVENTS)
    known_events = pc.is_in(unique["key"], value_set=images["key"])
    known_labels = pc.is_in(labels["key"], value_set=images["key"])
    lost_events = unique.filter(pc.invert(known_events))
    lost_labels = labels.filter(pc.invert(known_labels))
    letters = [
        dead_letters(
            stage.name, stage.run_id, "unknown_image", keys, [kind] * len(keys), [b""] * len(keys)
        )
        for kind, keys in (
            ("click", lost_events["key"].to_pylist()),
            ("label", lost_labels["key"].to_pylist()),
        )
    ]
    clicks = unique.filter(known_events).join(images, "key", join_type="inner")
    attributes = images.join(labels, "key", join_type="left outer")
    return Output(
        {
            "clicks": clicks.select(CLICKS.names).cast(CLICKS),
            "attributes": attributes.select(ATTRIBUTES.names).cast(ATTRIBUTES),
        },
        tuple(letters),
        {
            "clicks.in": events.num_rows,
            "clicks.out": unique.num_rows - lost_events.num_rows,
            "clicks.dropped_delivered_twice": events.num_rows - unique.num_rows,
            "clicks.dropped_unknown_image": lost_events.num_rows,
            "known_labels.in": labels.num_rows,
            "known_labels.out": labels.num_rows - lost_labels.num_rows,
            "known_labels.dropped_unknown_image": lost_labels.num_rows,
        },
    )


class JoinByKey(beam.PTransform):
    """Shards of keys → tagged `clicks`, `attributes`, `dead`, `counts` (see `join_by_key`)."""

    def __init__(self, stage: Stage):
        super().__init__()
        self._stage = stage

    def _join(self, shard):
        _, blocks = shard
        yield from join_by_key(
            from_blocks(blocks["images"], IMAGE_KEYS),
            from_blocks(blocks["events"], EVENTS),
            from_blocks(blocks["labels"], LABELS),
            self._stage,
        ).tagged()

    def expand(self, shards):
        return shards | beam.ParDo(self._join).with_outputs(DEAD, COUNTS, "clicks", "attributes")


@dataclasses.dataclass(frozen=True)
class SplitShares:
    """Shares of images that are held out."""

    validation: float
    test: float


def split_of(image_id: str, shares: SplitShares) -> str:
    """The split of an image, from its content hash alone."""
    place = int(image_id[:15], 16) / 16**15
    if place < shares.test:
        return "test"
    return "validation" if place < shares.test + shares.validation else "train"


def build_images(clean: pa.Table, attributes: pa.Table, shares: SplitShares) -> Output:
    """Merges images of equal content: one row with all keys and labels, in one split.

    Where a label file gives splits, they hold; of two that disagree the more held-out one
    does (test before validation before train), so that no copy of a test image trains.

    Returns:
      Table `images` (tables.IMAGES), counts of `unique_images`.
    """
    rows: dict[str, dict] = {}
    # Equal content may arrive as different files; the first in this order is kept.
    order = [(name, "ascending") for name in ("image_id", "key", "image")]
    for row in clean.sort_by(order).to_pylist():
        rows.setdefault(row["image_id"], row | {"keys": set(), "labels": set(), "splits": set()})
        rows[row["image_id"]]["keys"].add(row["key"])
    for row in attributes.to_pylist():
        found = rows[row["image_id"]]
        if row["label"]:
            found["labels"].add(row["label"])
        if row["split"]:
            found["splits"].add(row["split"])
    for row in rows.values():
        given = [split for split in reversed(tables.SPLITS) if split in row["splits"]]
        row["split"] = given[0] if given else split_of(row["image_id"], shares)
        row["keys"], row["labels"] = sorted(row["keys"]), sorted(row["labels"])
    images = pa.Table.from_pylist(list(rows.values()), tables.IMAGES)
    counts = {
        "unique_images.in": clean.num_rows,
        "unique_images.out": images.num_rows,
        "unique_images.dropped_duplicate": clean.num_rows - images.num_rows,
    }
    return Output({"images": images}, (), counts)


def build_pairs(clicks: pa.Table, images: pa.Table, min_clicks: float) -> pa.Table:
    """Adds up clicks by image and query.

    Args:
      clicks: rows of CLICKS.
      images: columns image_id and split of the same shard.
      min_clicks: pairs with fewer are left out.

    Returns:
      Rows of tables.PAIRS.
    """
    pairs = (
        clicks.group_by(["image_id", "query_id"])
        .aggregate([("clicks", "sum")])
        .rename_columns(["image_id", "query_id", "clicks"])
    )
    pairs = pairs.filter(pc.greater_equal(pairs["clicks"], min_clicks))
    totals = pairs.group_by("image_id").aggregate([("clicks", "sum")])
    pairs = pairs.join(totals, "image_id").join(images, "image_id")
    weight = pc.divide(pairs["clicks"], pairs["clicks_sum"])
    return pairs.append_column("weight", weight).select(tables.PAIRS.names).cast(tables.PAIRS)


def co_clicks(pairs: pa.Table, max_queries: int) -> pa.Table:
    """Associates the queries that people chose one image for.

    Args:
      pairs: training rows of tables.PAIRS with whole images.
      max_queries: an image counts with its most clicked queries only, ties by hash, so
        that one image never makes millions of edges.

    Returns:
      Rows of EDGES, one an image and pair of queries: co_clicks is the smaller of the two
      clicks, reformulations 0.
    """
    pairs = pairs.sort_by([("image_id", "ascending"), ("query_id", "ascending")])
    image_ids = pairs["image_id"].to_numpy(zero_copy_only=False)
    queries, clicks = pairs["query_id"].to_numpy(), pairs["clicks"].to_numpy()
    starts = np.flatnonzero(np.r_[True, image_ids[1:] != image_ids[:-1]][: len(pairs)])
    lefts, rights, weights = [], [], []
    for start, end in zip(starts, np.r_[starts[1:], len(queries)][: len(starts)], strict=True):
        ids, counts = queries[start:end], clicks[start:end]
        if len(ids) > max_queries:
            order = np.array([hash64(f"{image_ids[start]}{i}") for i in ids])
            kept = np.sort(np.lexsort((order, -counts))[:max_queries])
            ids, counts = ids[kept], counts[kept]
        left, right = np.triu_indices(len(ids), 1)
        lefts.append(ids[left])
        rights.append(ids[right])
        weights.append(np.minimum(counts[left], counts[right]))
    return _edges(lefts, rights, weights, "co_clicks")


def reformulations(clicks: pa.Table, gap_seconds: float) -> pa.Table:
    """Associates queries that follow each other in a session.

    Args:
      clicks: rows of SESSION_CLICKS with whole sessions.
      gap_seconds: a longer pause ends a session.

    Returns:
      Rows of EDGES: reformulations counts the steps from one query to the other.
    """
    keys = ["session", "timestamp", "query_id"]
    clicks = clicks.group_by(keys).aggregate([]).sort_by([(key, "ascending") for key in keys])
    session, time = clicks["session"].to_numpy(), clicks["timestamp"].to_numpy()
    query = clicks["query_id"].to_numpy()
    steps = np.flatnonzero(
        (session[1:] == session[:-1])
        & (query[1:] != query[:-1])
        & (time[1:] - time[:-1] <= gap_seconds)
    )
    left, right = (
        np.minimum(query[steps], query[steps + 1]),
        np.maximum(query[steps], query[steps + 1]),
    )
    return _edges([left], [right], [np.ones(len(steps))], "reformulations")


def _edges(lefts: list, rights: list, weights: list, evidence: str) -> pa.Table:
    joined = [np.concatenate(part) if part else np.empty(0) for part in (lefts, rights, weights)]
    none = np.zeros(len(joined[2]))
    columns = {
        "query_a": joined[0].astype(np.int64),
        "query_b": joined[1].astype(np.int64),
        "co_clicks": joined[2] if evidence == "co_clicks" else none,
        "reformulations": joined[2] if evidence == "reformulations" else none,
    }
    return sum_edges(pa.table(columns, schema=EDGES))


def sum_edges(edges: pa.Table) -> pa.Table:
    """Adds up rows of EDGES by pair of queries."""
    names = ["co_clicks", "reformulations"]
    sums = edges.group_by(["query_a", "query_b"]).aggregate([(name, "sum") for name in names])
    return sums.rename_columns(EDGES.names).cast(EDGES)


def query_stats(pairs: pa.Table) -> pa.Table:
    """Clicks and images of each query among rows of tables.PAIRS: rows of QUERY_STATS."""
    trains = pc.equal(pairs["split"], "train")
    zero = pa.scalar(0.0)
    pairs = pairs.append_column("train_clicks", pc.if_else(trains, pairs["clicks"], zero))
    pairs = pairs.append_column("train_images", pc.cast(trains, pa.int64()))
    pairs = pairs.append_column("images", pa.array(np.ones(len(pairs), np.int64)))
    return sum_stats(pairs.select(QUERY_STATS.names).cast(QUERY_STATS))


def sum_stats(stats: pa.Table) -> pa.Table:
    """Adds up rows of QUERY_STATS by query."""
    names = QUERY_STATS.names[1:]
    sums = stats.group_by("query_id").aggregate([(name, "sum") for name in names])
    return sums.rename_columns(QUERY_STATS.names).cast(QUERY_STATS)


def build_queries(stats: pa.Table, texts: pa.Table) -> pa.Table:
    """The table of queries of one shard.

    Args:
      stats: rows of QUERY_STATS.
      texts: rows of QUERY_TEXTS; the language that most rows of the log give wins, and
        where none does the text is identified.

    Returns:
      Rows of tables.QUERIES, for the queries that have pairs.
    """
    votes = texts.group_by(["query_id", "query", "language"]).aggregate([("rows", "sum")])
    order = [("query_id", "ascending"), ("rows_sum", "descending"), ("language", "ascending")]
    chosen: dict[int, tuple[str, str]] = {}
    for row in votes.sort_by(order).to_pylist():
        text, language = chosen.get(row["query_id"], (row["query"], ""))
        chosen[row["query_id"]] = (text, language or row["language"])
    stats = sum_stats(stats)
    queries, languages = [], []
    for query_id in stats["query_id"].to_pylist():
        text, language = chosen[query_id]
        queries.append(text)
        languages.append(language or detect_language(text))
    stats = stats.append_column("query", pa.array(queries, pa.string()))
    stats = stats.append_column("language", pa.array(languages, pa.string()))
    return stats.select(tables.QUERIES.names).cast(tables.QUERIES)


@dataclasses.dataclass(frozen=True)
class MiningRules:
    """What makes a pair and an association; see the flags of beam_jobs/mine_pairs."""

    shares: SplitShares
    min_clicks: float
    max_queries: int
    gap_seconds: float


class BuildImagesAndPairs(beam.PTransform):
    """Shards of images → tagged `shards`, `stats`, `edges`, `sessions`, `counts`."""

    def __init__(self, stage: Stage, rules: MiningRules, num_shards: int):
        super().__init__()
        self._stage, self._rules, self._num_shards = stage, rules, num_shards

    def _build(self, shard):
        index, blocks = shard
        built = build_images(
            from_blocks(blocks["clean"], CLEAN_IMAGES),
            from_blocks(blocks["attributes"], ATTRIBUTES),
            self._rules.shares,
        )
        images = built.tables["images"]
        splits = images.select(["image_id", "split"])
        clicks = from_blocks(blocks["clicks"], CLICKS)
        pairs = build_pairs(clicks, splits, self._rules.min_clicks)
        yield beam.pvalue.TaggedOutput(SHARDS, self._write(images, "images", index, ["image_id"]))
        if pairs.num_rows:
            keys = ["image_id", "query_id"]
            yield beam.pvalue.TaggedOutput(SHARDS, self._write(pairs, "pairs", index, keys))
        train_pairs = pairs.filter(pc.equal(pairs["split"], "train"))
        train_clicks = clicks.join(splits, "image_id")
        train_clicks = train_clicks.filter(pc.equal(train_clicks["split"], "train"))
        yield from dataclasses.replace(
            built,
            tables={
                "stats": query_stats(pairs),
                "edges": co_clicks(train_pairs, self._rules.max_queries),
                "sessions": train_clicks.select(SESSION_CLICKS.names)
                .cast(SESSION_CLICKS)
                .drop_null(),
            },
        ).tagged()

    def _write(self, table, name, index, keys):
        return write_sorted(self._stage, table, name, index, self._num_shards, keys)

    def expand(self, shards):
        return shards | beam.ParDo(self._build).with_outputs(
            SHARDS, COUNTS, "stats", "edges", "sessions"
        )


class Reformulations(beam.PTransform):
    """Shards of sessions → PCollection of EDGES tables."""

    def __init__(self, gap_seconds: float):
        super().__init__()
        self._gap_seconds = gap_seconds

    def _find(self, shard):
        _, blocks = shard
        return reformulations(from_blocks(blocks["sessions"], SESSION_CLICKS), self._gap_seconds)

    def expand(self, shards):
        return shards | beam.Map(self._find)


class BuildQueryPairs(beam.PTransform):
    """Shards of edges → PCollection[(name, Shard)] of tables.QUERY_PAIRS."""

    def __init__(self, stage: Stage, num_shards: int):
        super().__init__()
        self._stage, self._num_shards = stage, num_shards

    def _build(self, shard):
        index, blocks = shard
        edges = sum_edges(from_blocks(blocks["edges"], EDGES))
        weight = pc.log1p(pc.add(edges["co_clicks"], edges["reformulations"]))
        pairs = edges.append_column("weight", weight).cast(tables.QUERY_PAIRS)
        keys = ["query_a", "query_b"]
        return write_sorted(self._stage, pairs, "query_pairs", index, self._num_shards, keys)

    def expand(self, shards):
        return shards | beam.Map(self._build)


class BuildQueries(beam.PTransform):
    """Shards of queries → PCollection[(name, Shard)] of tables.QUERIES."""

    def __init__(self, stage: Stage, num_shards: int):
        super().__init__()
        self._stage, self._num_shards = stage, num_shards

    def _build(self, shard):
        index, blocks = shard
        stats = from_blocks(blocks["stats"], QUERY_STATS)
        if stats.num_rows:
            queries = build_queries(stats, from_blocks(blocks["texts"], QUERY_TEXTS))
            yield write_sorted(
                self._stage, queries, "queries", index, self._num_shards, ["query_id"]
            )

    def expand(self, shards):
        return shards | beam.FlatMap(self._build)
