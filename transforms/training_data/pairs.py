"""Mined pairs → training examples: images at training resolution with their clicked queries."""

import contextlib
import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.metrics.clicked_queries import ClickedQueries, Places, head_queries
from schemas.base import storage
from schemas.console.progress import Progress
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.datasets.shard_files import open_parquet, read_parquet
from schemas.runs.run import Run
from schemas.tables import mined as tables
from transforms.inference.bisect import inference_failed, run_or_bisect
from transforms.shards.outputs import Output, write_sorted
from transforms.shards.tfrecords import RecordWriter

READ_BATCH = 64
QUERY_BATCH = 65_536
SPLITS = ("train", "validation")
SUPPORT = ["query_id", "train_clicks", "train_images", "head"]

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


def head_rows(mined: Dataset, columns: list[str], limits: Limits) -> pa.Table:
    """The head queries' rows of the mined table `queries`, by rank, reading it in batches."""
    limit, min_images = limits.head_queries, limits.min_query_images
    # Each batch keeps what might be in the head of all.
    found = [
        head_queries(pa.Table.from_batches([batch]), limit, min_images)
        for batch in mined.batches("queries", columns, QUERY_BATCH)
    ]
    none = tables.QUERIES.empty_table().select(columns)
    return head_queries(pa.concat_tables([none, *found]), limit, min_images)


def vocabulary(mined: Dataset, limits: Limits) -> pa.Table:
    """[K] rows of VOCABULARY by rank."""
    head = head_rows(mined, [*SUPPORT, "query", "language"], limits)
    head = head.rename_columns({"train_clicks": "clicks", "train_images": "images"})
    ranks = pa.array(np.arange(head.num_rows))
    return head.append_column("rank", ranks).select(VOCABULARY.names).cast(VOCABULARY)


def held_out_images(mined: Dataset, limit: int) -> tuple[pa.Array, pa.Array]:
    """The first validation images that were clicked at all, and the queries they were clicked for.

    Returns:
      Image ids, at most `limit`, and the distinct ids of their queries.
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
    return pa.concat_arrays(ids), pc.unique(pa.concat_arrays(queries))


def known_of(mined: Dataset, limits: Limits) -> Known:
    """Reads what `Known` holds, the large table of queries in batches."""
    ranks = Places(head_rows(mined, SUPPORT, limits)["query_id"].to_numpy())
    held_out, wanted = held_out_images(mined, limits.validation_images)
    columns = ["query_id", "query"]
    batches = [
        batch.filter(pc.is_in(batch["query_id"], value_set=wanted))
        for batch in mined.batches("queries", columns, QUERY_BATCH)
    ]
    found = pa.Table.from_batches(batches, tables.QUERIES.empty_table().select(columns).schema)
    searched = Places(found["query_id"].to_numpy())
    return Known(ranks, held_out, searched, found["query"].combine_chunks())


def clicked_of(image_ids: pa.Array, pairs: pa.Table, split: str, queries: Places) -> ClickedQueries:
    """The pairs of a split whose query is known.

    Args:
      image_ids: [rows] ids of images.
      pairs: rows of tables.PAIRS.
      split: whose pairs.
      queries: which queries, and their places.

    Returns:
      [rows], empty for an image without such a pair.
    """
    mine = pairs.filter(pc.equal(pairs["split"], split))
    images = pc.fill_null(pc.index_in(mine["image_id"], value_set=image_ids), -1).to_numpy()
    places = queries.of(mine["query_id"].to_numpy())
    known = (images >= 0) & (places >= 0)
    weights = mine["weight"].to_numpy()[known]
    return ClickedQueries.from_pairs(
        images[known].astype(np.int64), places[known], weights, len(image_ids)
    )


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What becomes of the images of a shard.

    Attributes:
      splits: [rows] "train", "validation", or "" for an image that is left out.
      clicked: split → [rows] head queries and weights.
      searched: [rows] places in `Known.texts`.
      left_out: reason → how many.
    """

    splits: np.ndarray
    clicked: dict[str, ClickedQueries]
    searched: ClickedQueries
    left_out: Counter


def choose(images: pa.Table, pairs: pa.Table, known: Known) -> Chosen:
    """Finds the images that become examples, and their queries.

    Args:
      images: image_id and split of one shard of images.
      pairs: rows of tables.PAIRS of the same shard.
      known: see there.
    """
    ids = images["image_id"].combine_chunks()
    clicked = {split: clicked_of(ids, pairs, split, known.ranks) for split in SPLITS}
    searched = clicked_of(ids, pairs, "validation", known.searched)
    train = clicked["train"].counts > 0
    held_out = _is_in(ids, known.held_out) & (searched.counts > 0)
    splits = np.where(train, "train", np.where(held_out, "validation", ""))
    given = np.array(images["split"].to_pylist(), object)
    surplus = _is_in(ids, pairs["image_id"].combine_chunks()) & (given == "validation")
    out = splits == ""
    reasons = np.select(
        [given == "test", surplus], ["test_split", "surplus_validation"], "no_query"
    )
    return Chosen(splits, clicked, searched, Counter(reasons[out].tolist()))


def _is_in(ids: pa.Array, others: pa.Array) -> np.ndarray:
    return pc.is_in(ids, value_set=others).to_numpy(zero_copy_only=False)


@dataclasses.dataclass(frozen=True)
class PreparePairs:
    """Worker of `MapShards`: one shard of images → the shards of its training examples.

    The task is the shard's index and the paths of its images and, or None, of its pairs.
    Examples are written as they are made, by image id: memory is that of one batch.
    """

    run: Run
    mined: str
    limits: Limits
    size: int
    encoding: str
    num_shards: int
    total: int | None
    label: str = "training pairs"
    unit: str = "images"

    def load(self):
        from model_code.models.text_generator.examples import PairEncoder

        return PairEncoder(self.size, self.encoding), known_of(Dataset(self.mined), self.limits)

    def process(self, task, loaded, progress: Progress) -> Output:
        index, images_path, pairs_path = task
        encoder, known = loaded
        images = read_parquet(images_path, columns=["image_id", "split"])
        pairs = tables.PAIRS.empty_table()
        if pairs_path:
            pairs = read_parquet(pairs_path)
        chosen = choose(images, pairs, known)
        dead: list[pa.Table] = []
        counts: Counter[str] = Counter()
        with contextlib.ExitStack() as stack:
            writers = {split: stack.enter_context(self._writer(split, index)) for split in SPLITS}
            for rows, ids, files in _batches(images_path, chosen.splits != ""):
                good, bad = run_or_bisect(encoder.encode, files)
                for first, encoded in good:
                    for place, image in enumerate(encoded, first):
                        split, row = chosen.splits[rows[place]], rows[place]
                        record, size = example_of(chosen, known, row, ids[place], image)
                        writers[split].add(record)
                        counts += {f"{split}.images": 1, f"{split}.pairs": size}
                dead.append(inference_failed(self.run, bad, ids, files))
                progress.add(len(rows))
        progress.add(chosen.left_out.total())
        failed = sum(table.num_rows for table in dead)
        counts += {f"images.dropped_{reason}": n for reason, n in chosen.left_out.items()}
        counts["images.in"] = images.num_rows
        counts["images.out"] = sum(counts[f"{split}.images"] for split in SPLITS)
        counts["images.dropped_inference_failed"] = failed
        shards = [(split, shard) for split in SPLITS for shard in writers[split].shards]
        return Output({}, tuple(dead), dict(counts), tuple(shards))

    def _writer(self, split: str, index: int) -> RecordWriter:
        path = self.run.shard_path(split, index, self.num_shards, "tfrecord")
        return RecordWriter(self.run, path, index)


def _batches(path: str, keep: np.ndarray) -> Iterator[tuple[np.ndarray, list[str], list[bytes]]]:
    """The rows to keep of a shard of images, with their ids and files, a batch at a time."""
    start = 0
    with open_parquet(path) as file:
        for batch in file.iter_batches(READ_BATCH, columns=["image_id", "image"]):
            places = np.flatnonzero(keep[start : start + batch.num_rows])
            kept = batch.take(pa.array(places))
            yield start + places, kept["image_id"].to_pylist(), kept["image"].to_pylist()
            start += batch.num_rows


def example_of(
    chosen: Chosen, known: Known, row: int, image_id: str, image: bytes
) -> tuple[bytes, int]:
    """The example of one image of a shard, serialised, and how many pairs it holds."""
    from model_code.models.text_generator.examples import example

    split = str(chosen.splits[row])
    _, queries, weights = chosen.clicked[split].of(np.array([row]))
    texts = None
    if split == "validation":
        _, places, _ = chosen.searched.of(np.array([row]))
        texts = sorted(known.texts.take(pa.array(places)).to_pylist())
    return example(image_id, image, queries, weights, texts), len(queries)


def write_vocabulary(
    _: None, mined: str, limits: Limits, run: Run, config: dict
) -> Iterator[tuple[str, manifest.Shard]]:
    """Writes the tables `vocabulary`, and `metadata` with `config` as config.json."""
    rows = vocabulary(Dataset(mined), limits)
    yield write_sorted(run, rows, "vocabulary", 0, num_shards=1, keys=["rank"])
    with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
        storage.write_bytes(f"{folder}/config.json", json.dumps(config, indent=1).encode())
        for shard in run.publish("metadata", folder):
            yield "metadata", shard
