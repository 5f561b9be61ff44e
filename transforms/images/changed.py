"""Images that an earlier run has read already are not decoded again.

An earlier run's table `sources` says what came of which bytes. Where a clean image is not those
very bytes, it lies in its table `images`, or, when it is a copy that another one stands for, in
`sources` itself.
"""

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.console import progress
from schemas.datasets.dataset import Dataset
from schemas.datasets.shard_files import open_parquet, read_parquet
from schemas.runs.run import Run
from schemas.tables.mined import SOURCES
from transforms.files.secret_files import FromFiles
from transforms.images.clean import CleanImage, ImageLimits
from transforms.images.read import clean_images, source_of
from transforms.images.readers import read_unit
from transforms.images.units import BATCH_IMAGES, RAW_IMAGES
from transforms.mining.deletions import Deletions
from transforms.rows.checked import checked_file
from transforms.shards.blocks import GroupShards, from_blocks
from transforms.shards.outputs import COUNTS, DEAD, Output, par_do
from transforms.shards.reuse import first_of_each

NAMED_IMAGES = pa.schema([*RAW_IMAGES, ("source", pa.string())])


def name_sources(images: pa.Table) -> Output:
    """RAW_IMAGES → table `raw` (NAMED_IMAGES)."""
    names = [source_of(data or b"") for data in images["image"].to_pylist()]
    return Output({"raw": images.append_column("source", pa.array(names, pa.string()))})


def sources_of(copies: pa.Table, images: pa.Table) -> pa.Table:
    """What a later run needs to know of the images of this one.

    Args:
      copies: rows of COPIES (transforms/mining/images.py) of some pictures.
      images: image_id and source of those that are written to `images`.

    Returns:
      Rows of SOURCES, one for each source.
    """
    data = copies["image"]
    # Most images lie elsewhere: their bytes are not moved.
    copies = copies.drop_columns(["image"]).append_column("row", pa.array(np.arange(len(data))))
    copies = copies.sort_by([("source", "ascending"), ("key", "ascending")])
    copies = first_of_each(copies, "source")
    written = pc.is_in(copies["source"], value_set=images["source"].combine_chunks())
    elsewhere = pc.or_(copies["original"], written)
    rows = pc.if_else(elsewhere, pa.scalar(None, pa.int64()), copies["row"])
    columns = {name: copies[name] for name in SOURCES.names if name not in ("written", "image")}
    columns |= {"written": written, "image": data.take(rows)}
    return pa.table({name: columns[name] for name in SOURCES.names}, SOURCES)


def shards_of_earlier(folder: str) -> list[tuple[str, str]]:
    """For each shard of an earlier run: where its sources lie, and images of the same pictures.

    Args:
      folder: of the run; "" for none.
    """
    if not folder:
        return []
    earlier = Dataset(folder)
    images = {shard.index: shard for shard in earlier.shards("images")}
    return [
        (earlier.path(shard), earlier.path(images[shard.index]))
        for shard in earlier.shards("sources")
    ]


def earlier_sources(paths: tuple[str, str]) -> Iterator[pa.Table]:
    """Rows of SOURCES of one shard, each with its clean image but where that is the source itself.

    Args:
      paths: of a shard of sources, and of the shard of images of the same pictures.
    """
    sources_path, images_path = paths
    sources = read_parquet(sources_path).cast(SOURCES)
    lacking = pc.and_(sources["written"], pc.invert(sources["original"]))
    yield sources.filter(pc.invert(lacking))
    sources = sources.filter(lacking)
    if not sources.num_rows:
        return
    with open_parquet(images_path) as file:
        for batch in file.iter_batches(BATCH_IMAGES, columns=["image_id", "image"]):
            place = pc.index_in(sources["image_id"], value_set=batch["image_id"])
            found = sources.filter(place.is_valid())
            column = found.schema.get_field_index("image")
            images = pa.chunked_array([batch["image"].take(place.drop_null().combine_chunks())])
            yield found.set_column(column, "image", images).cast(SOURCES)


def clean_changed_images(
    raw: pa.Table, known: pa.Table, run: Run, limits: ImageLimits, forgotten: frozenset[str]
) -> Output:
    """As `clean_images`, but decodes only what is not known.

    Args:
      raw: rows of NAMED_IMAGES.
      known: rows of `earlier_sources`, those of the same sources among them.
      run, limits, forgotten: see `clean_images`.
    """
    data = dict(zip(raw["source"].to_pylist(), raw["image"].to_pylist(), strict=True))
    rows = known.filter(pc.is_in(known["source"], value_set=raw["source"].combine_chunks()))
    found = {
        row["source"]: CleanImage(
            row["image_id"],
            row["width"],
            row["height"],
            data[row["source"]] if row["original"] else row["image"],
            row["signature"],
        )
        for row in rows.to_pylist()
    }
    return clean_images(raw, run, limits, forgotten, found)


class ReadChangedImages(beam.PTransform):
    """As ReadImages, with what an earlier run knows.

    Args:
      known: PCollection[shard of `shards_of_earlier`] of an earlier run with the same limits.
      num_shards, spill: of the shuffle that brings images and what is known together.
      run, limits, total, deletions: see ReadImages.
    """

    def __init__(
        self,
        known: beam.PCollection,
        num_shards: int,
        spill: str,
        *,
        run: Run,
        limits: ImageLimits,
        total: int | None,
        deletions: FromFiles[Deletions],
    ):
        super().__init__()
        self._known, self._num_shards, self._spill = known, num_shards, spill
        self._run, self._total, self._deletions = run, total, deletions
        self._limits = limits

    def _clean(self, shard):
        _, blocks = shard
        raw = from_blocks(blocks["raw"], NAMED_IMAGES)
        known = from_blocks(blocks["known"], SOURCES)
        rules = self._run, self._limits, self._deletions().key_set
        for start in range(0, raw.num_rows, BATCH_IMAGES):
            part = raw.slice(start, BATCH_IMAGES)
            yield from clean_changed_images(part, known, *rules).tagged()

    def expand(self, units):
        read_known = beam.FlatMap(earlier_sources).with_output_types(pa.Table)
        known = self._known | "ReadKnown" >> read_known
        fn = _ReadRawFn(self._run, self._total, self._deletions)
        read = units | beam.Reshuffle() | "ReadRaw" >> par_do(fn, tags=(DEAD, COUNTS, "raw"))
        cleaned = (
            {"raw": read.raw, "known": known}
            | GroupShards({"raw": "source", "known": "source"}, self._num_shards, self._spill)
            | "CleanChanged" >> par_do(self._clean, tags=(DEAD, COUNTS, "clean"))
        )
        joined = {
            tag: (read[tag], cleaned[tag]) | f"Join {tag}" >> beam.Flatten()
            for tag in (DEAD, COUNTS)
        }
        return joined | {"clean": cleaned.clean}


class _ReadRawFn(beam.DoFn):
    def __init__(self, run, total, deletions):
        self._run, self._total, self._deletions = run, total, deletions

    def setup(self):
        self._forgotten = self._deletions().key_set
        self._progress = progress.shared("read images", self._total, "images")

    def teardown(self):
        self._progress.close()

    def process(self, unit):
        batches = read_unit(unit, self._forgotten)
        for output in checked_file(batches, "images", name_sources, self._run, unit.files):
            self._progress.add(len(output.tables.get("raw", ())))
            yield from output.tagged()
