"""Images that an earlier run has read already are not decoded again.

An earlier run's table `sources` says what came of which bytes. Where a clean image is not those
very bytes, it lies in its table `images`, or, when it is a copy that another one stands for, in
`sources` itself.
"""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from schemas.base import storage
from schemas.console import progress
from schemas.datasets.dataset import Dataset
from schemas.datasets.shard_files import open_parquet, read_parquet
from schemas.runs.run import Run
from schemas.tables.mined import SOURCES
from transforms.duplicates.signature import SIGNATURE_BYTES
from transforms.files.secret_files import FromFiles
from transforms.images.clean import CleanImage, ImageLimits
from transforms.images.read import clean_images, source_of
from transforms.images.readers import read_unit
from transforms.images.units import BATCH_IMAGES, RAW_IMAGES
from transforms.mining.deletions import Deletions
from transforms.rows.checked import checked_file
from transforms.shards.blocks import (
    Block,
    GroupShards,
    Together,
    from_blocks,
    serialise,
    spill_blocks,
)
from transforms.shards.outputs import COUNTS, DEAD, Output, par_do
from transforms.shards.records import PLACE, write_file
from transforms.shards.reuse import first_of_each

NAMED_IMAGES = pa.schema([*RAW_IMAGES, ("source", pa.string())])
# In which files images of a source wait, and there with what is known of it.
WAITING = pa.schema([("source", pa.string()), ("file", pa.string())])
FILE_BYTES = 64 << 20
_KNOWN_BYTES = 32 << 20  # of known images that go to a file in one table


def name_sources(images: pa.Table) -> Output:
    """RAW_IMAGES → table `raw` (NAMED_IMAGES)."""
    names = [source_of(data or b"") for data in images["image"].to_pylist()]
    return Output({"raw": images.append_column("source", pa.array(names, pa.string()))})


def sources_of(copies: pa.Table, images: pa.Table) -> pa.Table:
    """What a later run needs to know of the images of this one.

    Args:
      copies: rows of COPIES (transforms/mining/images.py) of some pictures.
      images: rows of COPIES that are written to `images`.

    Returns:
      Rows of SOURCES, one for each source, with places instead of bytes, by image_id and source.
    """
    by = [(name, "ascending") for name in ("image_id", "source", "key", "file", "start")]
    found = first_of_each(copies.sort_by(by), "source")
    written = pc.is_in(found["source"], value_set=images["source"].combine_chunks())
    found = found.append_column("written", written)
    places = [name for name, _ in PLACE]
    return found.select([n for n in SOURCES.names if n not in ("signature", "image")] + places)


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


def spill_raw(raw: pa.Table, folder: str) -> pa.Table:
    """Writes NAMED_IMAGES into one file below `folder`; returns WAITING, a row for each source."""
    batches = raw.to_batches(max_chunksize=BATCH_IMAGES)
    name = write_file(folder, [serialise(pa.Table.from_batches(batches, NAMED_IMAGES))])
    sources = pc.unique(raw["source"])
    return pa.table([sources, pa.array([name] * len(sources), pa.string())], WAITING)


def known_by_file(waiting: pa.Table, known: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """For each file, what is known of its sources: tables of SOURCES of bounded size.

    Args:
      waiting: rows of WAITING of one shard of sources.
      known: rows of `earlier_sources` of the same shard.

    Yields:
      File, table; an empty one for a file of which nothing is known.
    """
    waiting = waiting.sort_by([(name, "ascending") for name in ("file", "source")])
    place = pc.index_in(waiting["source"], value_set=known["source"].combine_chunks())
    sizes = pc.fill_null(pc.binary_length(known["image"]), 0).to_numpy() + SIGNATURE_BYTES
    places, files = place.to_pylist(), waiting["file"].to_pylist()
    rows: list[int] = []
    size = 0
    for row, file in enumerate(files):
        if places[row] is not None:
            rows.append(places[row])
            size += int(sizes[places[row]])
        is_last = row + 1 == len(files) or files[row + 1] != file
        if is_last or size >= _KNOWN_BYTES:
            yield file, known.take(pa.array(rows, pa.int64()))
            rows, size = [], 0


class ReadChangedImages(beam.PTransform):
    """As ReadImages, with what an earlier run knows.

    Images as they came wait in files while the names of their sources meet what is known of them.

    Args:
      known: PCollection[shard of `shards_of_earlier`] of an earlier run with the same limits.
      num_shards, spill: of the shuffle that brings sources and what is known together.
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

    def _spill_raw(self, raw: pa.Table) -> Iterator[pa.Table]:
        yield spill_raw(raw, self._spill)

    def _join(self, shard) -> Iterator[tuple[str, Block]]:
        _, blocks = shard
        known = from_blocks(blocks["known"], SOURCES)
        waiting = from_blocks(blocks["waiting"], WAITING)
        yield from spill_blocks(known_by_file(waiting, known), self._spill)

    def _clean(self, waiting: tuple[str, Iterable[Block]]):
        name, blocks = waiting
        known = from_blocks(blocks, SOURCES)
        rules = self._run, self._limits, self._deletions().key_set
        with storage.open_input(storage.join(self._spill, name)) as file:
            for batch in pa.ipc.open_stream(file):
                part = pa.Table.from_batches([batch])
                yield from clean_changed_images(part, known, *rules).tagged()

    def expand(self, units):
        read_known = beam.FlatMap(earlier_sources).with_output_types(pa.Table)
        known = self._known | "ReadKnown" >> read_known
        fn = _ReadRawFn(self._run, self._total, self._deletions)
        read = units | beam.Reshuffle() | "ReadRaw" >> par_do(fn, tags=(DEAD, COUNTS, "raw"))
        spill = beam.ParDo(Together(self._spill_raw, FILE_BYTES)).with_output_types(pa.Table)
        cleaned = (
            {"waiting": read.raw | "SpillRaw" >> spill, "known": known}
            | GroupShards({"waiting": "source", "known": "source"}, self._num_shards, self._spill)
            | "JoinKnown" >> beam.FlatMap(self._join)
            | "ByFile" >> beam.GroupByKey()
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
