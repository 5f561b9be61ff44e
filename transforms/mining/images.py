"""Clean images, their copies and their labels → one row for each picture."""

import dataclasses

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from schemas.datasets.shard_files import read_parquet
from schemas.runs.run import Run
from schemas.tables import mined as tables
from transforms.duplicates.tables import DUPLICATES
from transforms.files.secret_files import FromFiles
from transforms.images.changed import sources_of
from transforms.images.read import CLEAN_IMAGES
from transforms.mining import key_match
from transforms.mining.deletions import Deletions
from transforms.mining.labels import LABELS
from transforms.shards.blocks import from_blocks
from transforms.shards.outputs import COUNTS, NOTES, SHARDS, Output, par_do, write_sorted

IMAGE_KEYS = pa.schema([("key", pa.string()), ("image_id", pa.string())])
EARLIER_KEYS = pa.schema([("key", pa.string())])
ATTRIBUTES = pa.schema(
    [("image_id", pa.string()), *[field for field in LABELS if field.name != "key"]]
)
# An image, and the one among its near duplicates that stands for all of them.
COPIES = pa.schema([*CLEAN_IMAGES, ("representative", pa.string())])
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
      clean: rows of CLEAN_IMAGES of one shard of images.
      duplicates: rows of DUPLICATES of the same shard.

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
    attributes = attributes.select(ATTRIBUTES.names).cast(ATTRIBUTES)
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
      Tables `images` (tables.IMAGES), `sources` (tables.SOURCES) and `splits`
      (SPLIT_OF_IMAGES), counts of `unique_images`.
    """
    rows: dict[str, dict] = {}
    # Equal content may arrive as different files; the first in this order is kept.
    by = [(name, "ascending") for name in ("image_id", "key", "image")]
    order = pc.sort_indices(copies, sort_keys=by)
    near = pc.sum(pc.not_equal(copies["image_id"], copies["representative"])).as_py() or 0
    keys: dict[str, set] = {}
    # Bytes of images stay where they are until it is known which are kept.
    listed = copies.drop_columns(["signature", "image"]).take(order)
    for place, row in zip(order.to_pylist(), listed.to_pylist(), strict=True):
        keys.setdefault(row["representative"], set()).add(row["key"])
        if row["image_id"] == row["representative"]:
            new = {"place": place, "labels": set(), "splits": set()}
            rows.setdefault(row["image_id"], row | new)
    for row in attributes.to_pylist():
        found = rows[row["image_id"]]
        if row["label"]:
            found["labels"].add(row["label"])
        if row["split"]:
            found["splits"].add(row["split"])
    for row in rows.values():
        given = [split for split in reversed(tables.SPLITS) if split in row["splits"]]
        row["split"] = given[0] if given else split_of(row["image_id"], shares)
        row["keys"], row["labels"] = sorted(keys[row["image_id"]]), sorted(row["labels"])
    images = pa.Table.from_pylist(list(rows.values()), tables.IMAGES)
    data = copies["image"].take(pa.array([row["place"] for row in rows.values()], pa.int64()))
    images = images.set_column(
        images.schema.get_field_index("image"), tables.IMAGES.field("image"), data
    )
    counts = {
        "unique_images.in": copies.num_rows,
        "unique_images.out": images.num_rows,
        "unique_images.dropped_near_duplicate": near,
        "unique_images.dropped_duplicate": copies.num_rows - images.num_rows - near,
    }
    written = pa.table({"source": pa.array([r["source"] for r in rows.values()], pa.string())})
    sources = sources_of(copies, written)
    splits = images.select(SPLIT_OF_IMAGES.names)
    return Output({"images": images, "sources": sources, "splits": splits}, (), counts)


class FindCopies(beam.PTransform):
    """Shards of images ({clean, duplicates}) → tagged `copies`, `keys`."""

    def _find(self, shard):
        _, blocks = shard
        clean = from_blocks(blocks["clean"], CLEAN_IMAGES)
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
        for name, keys in (("images", ["image_id"]), ("sources", ["image_id", "source"])):
            shard = write_sorted(
                self._run, built.tables[name], name, index, num_shards=self._num_shards, keys=keys
            )
            yield beam.pvalue.TaggedOutput(SHARDS, shard)
        yield from Output({"splits": built.tables["splits"]}, (), built.counts).tagged()

    def expand(self, shards):
        return shards | par_do(self._build, tags=(SHARDS, COUNTS, "splits"))
