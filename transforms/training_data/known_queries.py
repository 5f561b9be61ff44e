"""What is known of queries before images are read: the head's ranks, held-out images, texts.

It is found once, shard by shard of the queries, and written to files. What a worker reads of it
has a bound that does not grow with the queries: the ranks of the head, and the texts of the
queries that held-out images were clicked for.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.metrics.clicked_queries import Places, head_queries
from schemas.base import storage
from schemas.datasets.dataset import Dataset
from schemas.datasets.shard_files import open_parquet, read_parquet
from schemas.runs.run import Run
from schemas.tables import mined as tables
from transforms.shards.blocks import NamedBlock, from_blocks, split_by_hash, to_block
from transforms.shards.outputs import SHARDS, write_sorted

QUERY_BATCH = 65_536
KNOWN = "known"  # the output with where it lies

VOCABULARY = pa.schema(
    [
        ("rank", pa.int64()),  # 0 for the query with the most training clicks
        ("query_id", pa.int64()),
        ("query", pa.string()),
        ("language", pa.string()),
        ("clicks", pa.float64()),  # in training
        ("images", pa.int64()),  # training images with the query
    ]
)
_HEAD = pa.schema(
    [
        tables.QUERIES.field(name)
        for name in ("query_id", "train_clicks", "train_images", "head", "query", "language")
    ]
)
_SEARCHED = pa.schema([tables.QUERIES.field(name) for name in ("query_id", "query")])


@dataclasses.dataclass(frozen=True)
class Limits:
    """What of a mined dataset becomes training pairs.

    Attributes:
      head_queries: queries with a softmax weight, at most (K).
      min_query_images: training images that such a query needs.
      validation_images: held-out images, at most; the first ones by shard and id.
    """

    head_queries: int
    min_query_images: int
    validation_images: int

    def head(self, queries: pa.Table) -> pa.Table:
        """The head's rows among rows of queries, by rank."""
        return head_queries(queries, self.head_queries, self.min_query_images)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The validation images that are kept, and what they were clicked for.

    Attributes:
      images: [at most Limits.validation_images] their ids.
      queries: [n] int64, distinct ids of their queries.
    """

    images: pa.Array
    queries: pa.Array


@dataclasses.dataclass(frozen=True)
class Known:
    """What every worker must know of images and queries.

    Attributes:
      ranks: of head queries.
      held_out: ids of the validation images that are kept.
      searched: all queries that those were clicked for, and `texts` their texts in that order.
    """

    ranks: Places
    held_out: pa.Array
    searched: Places
    texts: pa.Array


@dataclasses.dataclass(frozen=True)
class KnownFiles:
    """Where what is known lies.

    Attributes:
      vocabulary: the shard of the table, by rank.
      held_out, searched: Arrow streams of image ids, and of query ids and texts.
    """

    vocabulary: str
    held_out: str
    searched: str

    def read(self) -> Known:
        """Reads it: 16 bytes a head query, and the rest as it is."""
        ranks = read_parquet(self.vocabulary, ["query_id"])["query_id"].to_numpy()
        held_out, searched = (
            pa.ipc.open_stream(storage.read_bytes(path)).read_all().combine_chunks()
            for path in (self.held_out, self.searched)
        )
        return Known(
            Places(ranks),
            held_out["image_id"].combine_chunks(),
            Places(searched["query_id"].to_numpy()),
            searched["query"].combine_chunks(),
        )


def vocabulary(head: pa.Table, limits: Limits) -> pa.Table:
    """[K] rows of VOCABULARY by rank, of queries that hold the head."""
    head = limits.head(head).select(_HEAD.names)
    head = head.rename_columns({"train_clicks": "clicks", "train_images": "images"})
    ranks = pa.array(np.arange(head.num_rows))
    return head.append_column("rank", ranks).select(VOCABULARY.names).cast(VOCABULARY)


def held_out_images(mined: Dataset, limit: int) -> HeldOut:
    """The first validation images that were clicked at all, and the queries they were clicked for.

    Reads pairs until it has so many.
    """
    ids, queries, missing = [pa.array([], pa.string())], [pa.array([], pa.int64())], limit
    for shard in mined.shards("pairs"):
        if not missing:
            break
        columns = ["image_id", "query_id", "split"]
        pairs = read_parquet(mined.path(shard), columns=columns)
        pairs = pairs.filter(pc.equal(pairs["split"], "validation"))
        found = pc.unique(pairs["image_id"])
        found = found.take(pc.sort_indices(found)).slice(0, missing)
        mine = pairs.filter(pc.is_in(pairs["image_id"], value_set=found))
        ids.append(found)
        queries.append(pc.unique(mine["query_id"]))
        missing -= len(found)
    return HeldOut(pa.concat_arrays(ids), pc.unique(pa.concat_arrays(queries)))


def known_rows(path: str, held_out: HeldOut, limits: Limits) -> dict[str, pa.Table]:
    """What a shard of queries has of the head, and of the queries that are searched by text."""
    head, searched = [_HEAD.empty_table()], [_SEARCHED.empty_table()]
    with open_parquet(path) as file:
        for batch in file.iter_batches(QUERY_BATCH, columns=_HEAD.names):
            rows = pa.Table.from_batches([batch]).select(_HEAD.names)
            head.append(limits.head(rows))
            mine = rows.filter(pc.is_in(rows["query_id"], value_set=held_out.queries))
            searched.append(mine.select(_SEARCHED.names))
    return {"head": limits.head(pa.concat_tables(head)), "searched": pa.concat_tables(searched)}


class LearnQueries(beam.PTransform):
    """PCollection[path of a shard of queries] → tagged `shards` ((name, Shard)) and `known`.

    Writes the tables `vocabulary`, and `metadata` with `config` as config.json; `known` is one
    `KnownFiles`. What one worker takes is the head of all shards, which mining bounds.
    """

    def __init__(self, mined: str, limits: Limits, run: Run, config: dict):
        super().__init__()
        self._mined, self._limits, self._run, self._config = mined, limits, run, config

    def _held_out(self, _: None) -> HeldOut:
        return held_out_images(Dataset(self._mined), self._limits.validation_images)

    def _read(self, path: str, held_out: HeldOut) -> Iterator[NamedBlock]:
        for name, table in known_rows(path, held_out, self._limits).items():
            together = np.zeros(table.num_rows, np.int64)
            for _, block in split_by_hash(table, together, 1, self._run.spill):
                yield name, block

    def _write(self, _: None, held_out: HeldOut, found: Iterable[NamedBlock]) -> Iterator:
        run, found = self._run, list(found)
        head = from_blocks([block for name, block in found if name == "head"], _HEAD)
        rows = vocabulary(head, self._limits)
        name, shard = write_sorted(run, rows, "vocabulary", 0, num_shards=1, keys=["rank"])
        yield beam.pvalue.TaggedOutput(SHARDS, (name, shard))
        with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
            config = json.dumps(self._config, indent=1).encode()
            storage.write_bytes(f"{folder}/config.json", config)
            for shard in run.publish("metadata", folder):
                yield beam.pvalue.TaggedOutput(SHARDS, ("metadata", shard))
        known = {
            "held_out": pa.table({"image_id": held_out.images}),
            "searched": from_blocks([b for name, b in found if name == "searched"], _SEARCHED),
        }
        paths = {name: storage.join(run.spill, f"known/{name}.arrow") for name in known}
        for name, table in known.items():
            storage.write_bytes(paths[name], to_block(table))
        vocabulary_path = run.absolute(run.shard_path("vocabulary", 0, 1, "parquet"))
        yield beam.pvalue.TaggedOutput(KNOWN, KnownFiles(vocabulary_path, **paths))

    def expand(self, paths):
        once = paths.pipeline | "Once" >> beam.Create([None])
        held_out = beam.pvalue.AsSingleton(once | "HeldOut" >> beam.Map(self._held_out))
        found = paths | beam.Reshuffle() | "Read" >> beam.FlatMap(self._read, held_out)
        write = beam.FlatMap(self._write, held_out, beam.pvalue.AsList(found))
        return once | "Write" >> write.with_outputs(SHARDS, KNOWN)
