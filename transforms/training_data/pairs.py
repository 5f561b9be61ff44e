"""Mined pairs → training examples: images at training resolution with their clicked queries."""

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.metrics.clicked_queries import ClickedQueries, Places
from schemas.console.progress import Progress
from schemas.datasets.shard_files import open_parquet, read_parquet
from schemas.runs.run import Run
from schemas.tables import mined as tables
from transforms.inference.bisect import inference_failed, run_or_bisect
from transforms.shards.outputs import Output
from transforms.shards.tfrecords import RecordWriter
from transforms.training_data.known_queries import Known, KnownFiles

READ_BATCH = 64
SPLITS = ("train", "validation")


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

    The task is the shard's index, the paths of its images and, or None, of its pairs, and where
    what is known of queries lies. Examples are written as they are made, by image id: memory is
    that of one batch.
    """

    run: Run
    size: int
    encoding: str
    num_shards: int
    total: int | None
    label: str = "training pairs"
    unit: str = "images"

    def load(self):
        from model_code.models.text_generator.examples import PairEncoder

        # Nothing is known yet where a runner sets workers up before earlier steps have ended.
        return PairEncoder(self.size, self.encoding), functools.lru_cache(1)(KnownFiles.read)

    def process(self, task, loaded, progress: Progress) -> Output:
        (index, images_path, pairs_path), files = task
        encoder, read_known = loaded
        known = read_known(files)
        images = read_parquet(images_path, columns=["image_id", "split"])
        pairs = tables.PAIRS.empty_table()
        if pairs_path:
            pairs = read_parquet(pairs_path)
        chosen = choose(images, pairs, known)
        dead: list[pa.Table] = []
        counts: Counter[str] = Counter()
        with contextlib.ExitStack() as stack:
            writers = {split: stack.enter_context(self._writer(split, index)) for split in SPLITS}
            for rows, ids, data in _batches(images_path, chosen.splits != ""):
                good, bad = run_or_bisect(encoder.encode, data)
                for first, encoded in good:
                    for place, image in enumerate(encoded, first):
                        split, row = chosen.splits[rows[place]], rows[place]
                        record, size = example_of(chosen, known, row, ids[place], image)
                        writers[split].add(record)
                        counts += {f"{split}.images": 1, f"{split}.pairs": size}
                dead.append(inference_failed(self.run, bad, ids, data))
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
