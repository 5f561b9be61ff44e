"""Clean images, their copies and their labels → one row for each picture."""

import dataclasses

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from schemas.datasets import shards as shards_lib
from schemas.datasets.shard_files import read_parquet
from schemas.runs.run import Run
from schemas.tables import mined as tables
from transforms.duplicates.tables import DUPLICATES
from transforms.files.secret_files import FromFiles
from transforms.images.changed import sources_of
from transforms.mining import key_match
from transforms.mining.deletions import Deletions
from transforms.mining.labels import LABELS
from transforms.shards.blocks import from_blocks
from transforms.shards.image_bytes import PLACED_IMAGES, ImageBytes
from transforms.shards.outputs import COUNTS, NOTES, SHARDS, Output, par_do
from transforms.shards.records import PLACE
from transforms.shards.reuse import first_of_each

IMAGE_KEYS = pa.schema([("key", pa.string()), ("image_id", pa.string())])
EARLIER_KEYS = pa.schema([("key", pa.string())])
ATTRIBUTES = pa.schema(
    [("image_id", pa.string()), *[field for field in LABELS if field.name != "key"]]
)
# An image, and the one among its near duplicates that stands for all of them.
COPIES = pa.schema([*PLACED_IMAGES, ("representative", pa.string())])
_WHERE = ("source", *(name for name, _ in PLACE))
IMAGES_PLACED = pa.schema(
    [
        *(field for field in tables.IMAGES if field.name != "image"),
        *(PLACED_IMAGES.field(name) for name in _WHERE),
    ]
)
SPLIT_OF_IMAGES = pa.schema([("image_id", pa.string()), ("split", pa.string())])


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


def find_copies(clean: pa.Table, duplicates: pa.Table) -> Output:
    """Names the representative of each image.

    Args:
      clean: rows of PLACED_IMAGES of one shard of images.
      duplicates: rows of DUPLICATES of the same images.

    Returns:
      Tables `copies` (COPIES) and `keys` (IMAGE_KEYS, of representatives).
    """
    place = pc.index_in(clean["image_id"], value_set=duplicates["image_id"].combine_chunks())
    found = pc.coalesce(duplicates["representative"].take(place), clean["image_id"])
    copies = clean.append_column("representative", found).select(COPIES.names)
    return Output({"copies": copies, "keys": pa.table([clean["key"], found], IMAGE_KEYS)})


def earlier_keys(path: str, forgotten: pa.Array) -> pa.Table:
    """What an earlier run called its images: EARLIER_KEYS.

    Args:
      path: a shard of its table `images`.
      forgotten: [k] string, keys that must be forgotten.
    """
    keys = pc.list_flatten(read_parquet(path, ["keys"])["keys"])
    return pa.table([keys.filter(pc.invert(pc.is_in(keys, value_set=forgotten)))], EARLIER_KEYS)


def join_labels(labels: pa.Table, keys: pa.Table, earlier: pa.Table) -> Output:
    """Finds the images that labels are of; those of other images, as of a larger collection, go.

    Args:
      labels: rows of LABELS of one shard of keys.
      keys: rows of IMAGE_KEYS of the same shard.
      earlier: rows of EARLIER_KEYS of the same shard.

    Returns:
      Table `attributes` (ATTRIBUTES), counts of `known_labels` and of `image_keys`, notes.
    """
    keys = keys.group_by(IMAGE_KEYS.names, use_threads=False).aggregate([])
    known = key_match.match(
        labels["key"], keys["key"], "known_labels", found="labelled", earlier=earlier["key"]
    )
    attributes = labels.filter(known.is_known).join(keys, "key", join_type="inner")
    # All labels of a popular picture meet at one worker: each once.
    attributes = attributes.group_by(ATTRIBUTES.names, use_threads=False).aggregate([])
    attributes = attributes.cast(ATTRIBUTES)
    return Output({"attributes": attributes}, (), known.counts, notes=known.notes)


def build_images(copies: pa.Table, attributes: pa.Table, shares: SplitShares) -> Output:
    """Merges the copies of a picture: one row with all keys and labels, in one split.

    Where a label file gives splits, they hold; of two that disagree the more held-out one
    does (test before validation before train), so that no copy of a test image trains.

    Args:
      copies: rows of COPIES, all of each representative's.
      attributes: rows of ATTRIBUTES of the same representatives.
      shares: of images that are held out, where no file says it.

    Returns:
      Tables `images` (tables.IMAGES) and `sources` (tables.SOURCES), both with places instead of
      bytes, in the order that they are written in; `splits` (SPLIT_OF_IMAGES); counts of
      `unique_images`.
    """
    # Equal content may arrive as different files; the first in this order is kept.
    by = [(name, "ascending") for name in ("image_id", "key", "source", "file", "start")]
    own = copies.filter(pc.equal(copies["image_id"], copies["representative"])).sort_by(by)
    kept = first_of_each(own, "image_id")
    ids = kept["image_id"].to_pylist()
    labels: dict[str, set[str]] = {image_id: set() for image_id in ids}
    given: dict[str, set[str]] = {image_id: set() for image_id in ids}
    for row in attributes.to_pylist():
        if row["label"]:
            labels[row["image_id"]].add(row["label"])
        if row["split"]:
            given[row["image_id"]].add(row["split"])
    splits = [
        next((s for s in reversed(tables.SPLITS) if s in given[i]), None) or split_of(i, shares)
        for i in ids
    ]
    columns = {name: kept[name] for name in ("image_id", "width", "height", *_WHERE)}
    columns["keys"] = _keys_of(copies, kept["image_id"])
    columns["split"] = pa.array(splits, pa.string())
    columns["labels"] = pa.array([sorted(labels[i]) for i in ids], pa.list_(pa.string()))
    images = pa.table({name: columns[name] for name in IMAGES_PLACED.names}, IMAGES_PLACED)
    near = copies.num_rows - own.num_rows
    counts = {
        "unique_images.in": copies.num_rows,
        "unique_images.out": images.num_rows,
        "unique_images.dropped_near_duplicate": near,
        "unique_images.dropped_duplicate": own.num_rows - images.num_rows,
    }
    found = {
        "images": images,
        "sources": sources_of(copies, kept),
        "splits": images.select(SPLIT_OF_IMAGES.names),
    }
    return Output(found, (), counts)


def _keys_of(copies: pa.Table, representatives: pa.ChunkedArray) -> pa.ChunkedArray:
    """The keys of each picture, sorted: lists of text."""
    by = ["representative", "key"]
    keys = copies.group_by(by, use_threads=False).aggregate([])
    keys = keys.sort_by([(name, "ascending") for name in by])
    lists = keys.group_by("representative", use_threads=False).aggregate([("key", "list")])
    place = pc.index_in(representatives, value_set=lists["representative"].combine_chunks())
    return lists["key_list"].take(place)


class NameOnlyCopies(beam.PTransform):
    """Tables of PLACED_IMAGES → tagged `copies`, `keys`; each image stands for itself."""

    def _find(self, clean):
        yield from find_copies(clean, DUPLICATES.empty_table()).tagged()

    def expand(self, clean):
        return clean | par_do(self._find, tags=("copies", "keys"))


class FindCopies(beam.PTransform):
    """Shards of images ({clean, duplicates}) → tagged `copies`, `keys`."""

    def _find(self, shard):
        _, blocks = shard
        clean = from_blocks(blocks["clean"], PLACED_IMAGES)
        yield from find_copies(clean, from_blocks(blocks["duplicates"], DUPLICATES)).tagged()

    def expand(self, shards):
        return shards | par_do(self._find, tags=("copies", "keys"))


class ReadEarlierKeys(beam.PTransform):
    """PCollection[shard of `known_images.shards_of_earlier`] → tables of EARLIER_KEYS."""

    def __init__(self, deletions: FromFiles[Deletions]):
        super().__init__()
        self._deletions = deletions

    def _read(self, _: str, images: str) -> pa.Table:
        return earlier_keys(images, self._deletions().key_array)

    def expand(self, shards):
        return shards | beam.MapTuple(self._read).with_output_types(pa.Table)


class JoinLabels(beam.PTransform):
    """Shards of keys ({labels, keys, earlier}) → tagged `attributes`, `counts`, `notes`."""

    def _join(self, shard):
        _, blocks = shard
        schemas = {"labels": LABELS, "keys": IMAGE_KEYS, "earlier": EARLIER_KEYS}
        tables = [from_blocks(blocks[name], schema) for name, schema in schemas.items()]
        yield from join_labels(*tables).tagged()

    def expand(self, shards):
        return shards | par_do(self._join, tags=("attributes", COUNTS, NOTES))


class BuildImages(beam.PTransform):
    """Shards of pictures ({copies, attributes}) → tagged `shards`, `splits`, `counts`."""

    def __init__(self, run: Run, shares: SplitShares, num_shards: int):
        super().__init__()
        self._run, self._shares, self._num_shards = run, shares, num_shards

    def _build(self, shard):
        index, blocks = shard
        copies = from_blocks(blocks["copies"], COPIES)
        attributes = from_blocks(blocks["attributes"], ATTRIBUTES)
        built = build_images(copies, attributes, self._shares)
        data = ImageBytes(self._run.spill)
        parts = {
            "images": (tables.IMAGES, data.images(built.tables["images"])),
            "sources": (tables.SOURCES, data.sources(built.tables["sources"])),
        }
        for name, (schema, rows) in parts.items():
            path = self._run.shard_path(name, index, self._num_shards, "parquet")
            shard = shards_lib.write_parts(self._run.output, path, index, schema, rows)
            yield beam.pvalue.TaggedOutput(SHARDS, (name, shard))
        yield from Output({"splits": built.tables["splits"]}, (), built.counts).tagged()

    def expand(self, shards):
        return shards | par_do(self._build, tags=(SHARDS, COUNTS, "splits"))
