"""Prototypes φ_c: the mean vector of the training images that people chose for a query.

Source: CN112204575A / US11907337B2, equation (2); here each image counts by its clicks.
"""

import dataclasses
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.datasets.shard_files import read_parquet
from schemas.tables import mined as tables
from schemas.tables.vectors import arrow_to_vectors, vector, vectors_to_arrow
from transforms.shards.blocks import from_blocks, split_by_shard, to_block

# Vectors are added up in units of 2^-36: integers, whose sum no order of bundles changes.
# No summand passes 1, so 2^27 - 1 images of one query fit into 64 bits.
SUM_UNIT = float(1 << 36)
# The least that an image counts: units would be too coarse for less.
_LEAST_WEIGHT = 2.0**-16
EVIDENCE = ("clicks", "equal")
HELD_OUT = "held_out"


def image_embs_schema(width: int) -> pa.Schema:
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("split", pa.string()),  # train or validation
            ("query_emb", vector((width,))),
        ]
    )


def sums_schema(width: int) -> pa.Schema:
    """Per query: how many images; their weights and weighted vectors, added up in 1 / SUM_UNIT."""
    return pa.schema(
        [
            ("query_id", pa.int64()),
            ("images", pa.int64()),
            ("weight", pa.int64()),
            ("sums", pa.list_(pa.int64(), width)),
        ]
    )


def to_units(values: np.ndarray) -> np.ndarray:
    """Numbers in [-1, 1] → int64 multiples of 1 / SUM_UNIT, off by half of one at most."""
    return np.round(np.asarray(values, np.float64) * SUM_UNIT).astype(np.int64)


def evidence_weights(scores: np.ndarray, evidence: str) -> np.ndarray:
    """How much each image counts in the prototype of a query.

    score / (score + 1) saturates: an image with a thousand clicks counts about twice as much
    as one with a single click, so no image dominates; scores that are click rates, which
    are small, count nearly in proportion.

    Args:
      scores: [n] of tables.PAIRS, the lower bound of a click rate or a number of clicks.
      evidence: one of EVIDENCE; with "equal" each image counts 1.

    Returns:
      [n] float64 from 2^-16 to 1.
    """
    if evidence == "equal":
        return np.ones(len(scores))
    scores = np.maximum(np.asarray(scores, np.float64), 0)
    return np.maximum(scores / (scores + 1), _LEAST_WEIGHT)


def partial_sums(image_embs: pa.Table, pairs: pa.Table, evidence: str = "clicks") -> pa.Table:
    """The summands of φ_c (equation (2)) from one shard of images.

    Args:
      image_embs: f(x) of the images, rows of `image_embs_schema`.
      pairs: rows of tables.PAIRS of the same shard.
      evidence: see `evidence_weights`.

    Returns:
      Rows of `sums_schema`, one a query; only training images count.
    """
    width = image_embs.schema.field("query_emb").type.list_size
    place = pc.index_in(pairs["image_id"], value_set=image_embs["image_id"])
    known = pc.and_(pc.is_valid(place), pc.equal(pairs["split"], "train"))
    queries = pairs["query_id"].filter(known).to_numpy()
    weights = evidence_weights(pairs["score"].filter(known).to_numpy(), evidence)
    vectors = arrow_to_vectors(image_embs["query_emb"])[place.filter(known).to_numpy()]
    sums = to_units(weights[:, None] * vectors)
    return _sum_by_query(queries, np.ones(len(queries), np.int64), to_units(weights), sums, width)


def _sum_by_query(queries, images, weights, sums, width: int) -> pa.Table:
    order = np.argsort(queries, kind="stable")
    queries, columns = queries[order], [part[order] for part in (images, weights, sums)]
    starts = np.flatnonzero(np.r_[True, queries[1:] != queries[:-1]][: len(queries)])
    if len(starts):
        columns = [np.add.reduceat(part, starts) for part in columns]
    schema = sums_schema(width)
    scalars = [pa.array(part, pa.int64()) for part in (queries[starts], *columns[:2])]
    return pa.table([*scalars, vectors_to_arrow(columns[2])], schema)


def add_sums(parts: list[pa.Table], width: int) -> pa.Table:
    """Adds up rows of `sums_schema` by query; the same in any order, to the last bit."""
    table = pa.concat_tables([sums_schema(width).empty_table(), *parts])
    queries, images, weights = (table[name].to_numpy() for name in table.column_names[:3])
    return _sum_by_query(queries, images, weights, arrow_to_vectors(table["sums"]), width)


def means(sums: pa.Table) -> np.ndarray:
    """φ_c, before it is brought to any length: rows of `sums_schema` → [n, M] float64."""
    weights = sums["weight"].to_numpy().astype(np.float64)
    return arrow_to_vectors(sums["sums"]).astype(np.float64) / weights[:, None]


class SumVectors(beam.CombineFn):
    """Adds up vectors by query, for `CombinePerKey` over shards of queries.

    A key is a whole shard of queries and a value a block of sums, so that the lifted
    combiner adds vectors in NumPy before the shuffle instead of moving each by itself.
    """

    COMPACT_AFTER = 16

    def __init__(self, width: int):
        self._width = width

    def create_accumulator(self) -> list[pa.Table]:
        return []

    def add_input(self, accumulator: list[pa.Table], block: bytes) -> list[pa.Table]:
        accumulator.append(from_blocks([block], sums_schema(self._width)))
        return self.compact(accumulator) if len(accumulator) > self.COMPACT_AFTER else accumulator

    def merge_accumulators(self, accumulators: Iterable[list[pa.Table]]) -> list[pa.Table]:
        return self.compact([table for tables_ in accumulators for table in tables_])

    def compact(self, accumulator: list[pa.Table]) -> list[pa.Table]:
        return [add_sums(accumulator, self._width)] if accumulator else []

    def extract_output(self, accumulator: list[pa.Table]) -> bytes:
        return to_block(add_sums(accumulator, self._width))


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What calibration needs of one or more shards of images.

    Attributes:
      image_embs: validation images, rows of `image_embs_schema`.
      pairs: theirs, with image_id, query_id, split and weight.
      train_images: how many images train.
      train_sum: [M] integers, the sum of their vectors in units of 1 / SUM_UNIT.
    """

    image_embs: pa.Table
    pairs: pa.Table
    train_images: int
    train_sum: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """μ, the mean vector of training images: [M] float64."""
        return (self.train_sum / max(self.train_images, 1)).astype(np.float64) / SUM_UNIT


def hold_out(image_embs: pa.Table, pairs: pa.Table) -> HeldOut:
    """Takes from one shard of images what `HeldOut` says."""
    training = pc.equal(image_embs["split"], "train")
    vectors = arrow_to_vectors(image_embs.filter(training)["query_emb"])
    held_out = image_embs.filter(pc.invert(training))
    mine = pairs.filter(pc.is_in(pairs["image_id"], value_set=held_out["image_id"]))
    mine = mine.select(["image_id", "query_id", "split", "weight"])
    return HeldOut(held_out, mine, len(vectors), to_units(vectors).sum(0))


def join_held_out(parts: Iterable[HeldOut], width: int) -> HeldOut:
    """Joins shards, in any order, to one: rows in the order of their ids."""
    found = list(parts)
    pairs = pa.schema([field for field in tables.PAIRS if field.name in _PAIR_COLUMNS])
    embs = [image_embs_schema(width).empty_table(), *[part.image_embs for part in found]]
    rows = [pairs.empty_table(), *[part.pairs for part in found]]
    order = [("image_id", "ascending"), ("query_id", "ascending")]
    return HeldOut(
        pa.concat_tables(embs).sort_by("image_id").combine_chunks(),
        pa.concat_tables(rows).sort_by(order).combine_chunks(),
        sum(part.train_images for part in found),
        # Python's integers: billions of images do not fit into 64 bits.
        sum((part.train_sum.astype(object) for part in found), np.zeros(width, object)),
    )


_PAIR_COLUMNS = ("image_id", "query_id", "split", "weight")


class Prototypes(beam.PTransform):
    """PCollection[(paths of image_embs and pairs)] → `sums` and `held_out`.

    `sums` is PCollection[(shard of queries, block of `sums_schema`)], `held_out`
    PCollection[HeldOut], one a shard of images.
    """

    def __init__(self, width: int, num_shards: int, evidence: str):
        super().__init__()
        self._width, self._num_shards, self._evidence = width, num_shards, evidence

    def _sum(self, paths: tuple[str, str]):
        embs_path, pairs_path = paths
        embs = read_parquet(embs_path)
        columns = [*_PAIR_COLUMNS, "score"]
        pairs = read_parquet(pairs_path, columns=columns)
        sums = partial_sums(embs, pairs, self._evidence)
        yield from split_by_shard(sums, "query_id", self._num_shards)
        yield beam.pvalue.TaggedOutput(HELD_OUT, hold_out(embs, pairs))

    def expand(self, paths):
        parts = paths | beam.FlatMap(self._sum).with_outputs(HELD_OUT, main="sums")
        return {
            "sums": parts["sums"] | beam.CombinePerKey(SumVectors(self._width)),
            HELD_OUT: parts[HELD_OUT],
        }
