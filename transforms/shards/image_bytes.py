"""The bytes of clean images wait in files while rows with their places are joined.

An image's record is its signature, then its bytes. Bytes are written when an image was read, once
for each source of a file however many copies of it come, and read when it is known which image of
each picture is kept: no group holds more than rows of some 150 bytes and a key.
"""

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.base.fingerprint import shard_of
from schemas.tables.mined import IMAGES, SOURCES
from transforms.duplicates.signature import SIGNATURE_BYTES
from transforms.images.read import CLEAN_IMAGES
from transforms.shards.blocks import Together
from transforms.shards.records import PLACE, Place, read_records, write_file
from transforms.shards.reuse import first_of_each

FILE_BYTES = 128 << 20
PART_BYTES = 128 << 20  # of a table's images in memory at once

PLACED_IMAGES = pa.schema(
    [*(field for field in CLEAN_IMAGES if field.name not in ("image", "signature")), *PLACE]
)


def spill_images(clean: pa.Table, num_shards: int, folder: str) -> pa.Table:
    """Writes the bytes of CLEAN_IMAGES into one file below `folder`; returns PLACED_IMAGES.

    They lie in the order of the shards that they will be written to, so that the writer of a shard
    finds them side by side.
    """
    first = first_of_each(
        clean.select(["source", "image_id"]).append_column(
            "row", pa.array(np.arange(clean.num_rows))
        ),
        "source",
    )
    shards = pa.array(shard_of(first["image_id"], num_shards))
    first = first.append_column("shard", shards).sort_by(
        [("shard", "ascending"), ("image_id", "ascending"), ("source", "ascending")]
    )
    parts: list[pa.Buffer] = []
    sizes: list[int] = []
    signatures, images = clean["signature"], clean["image"]
    for row in first["row"].to_pylist():
        record = signatures[row].as_buffer(), images[row].as_buffer()
        parts += record
        sizes.append(sum(part.size for part in record))
    name = write_file(folder, parts)
    ends = np.cumsum(sizes)
    place = pc.index_in(clean["source"], value_set=first["source"].combine_chunks())
    columns = {
        "file": pa.array([name] * clean.num_rows, pa.string()),
        "start": pa.array(ends - sizes).take(place),
        "size": pa.array(sizes, pa.int64()).take(place),
    }
    columns |= {
        field.name: clean[field.name] for field in PLACED_IMAGES if field.name not in columns
    }
    return pa.table({field.name: columns[field.name] for field in PLACED_IMAGES}, PLACED_IMAGES)


class SpillImages(beam.PTransform):
    """PCollection[tables of CLEAN_IMAGES] → PCollection[tables of PLACED_IMAGES]."""

    def __init__(self, num_shards: int, spill: str):
        super().__init__()
        self._num_shards, self._spill = num_shards, spill

    def _spill_images(self, clean: pa.Table) -> Iterator[pa.Table]:
        yield spill_images(clean, self._num_shards, self._spill)

    def expand(self, clean):
        together = Together(self._spill_images, FILE_BYTES)
        return clean | beam.ParDo(together).with_output_types(pa.Table)


class ImageBytes:
    """Puts the bytes of images, and what is needed of their signatures, into the rows of a shard.

    Args:
      folder: as of `spill_images`.
    """

    def __init__(self, folder: str):
        self._folder = folder
        self._signatures: dict[str, bytes] = {}  # of sources whose records were read

    def images(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Rows of IMAGES, in order, in parts of bounded size.

        Args:
          rows: IMAGES but for `image`, with `source` and PLACE.
        """
        for part in _parts(rows, rows["size"].to_numpy()):
            places = _places(part)
            found = read_records(self._folder, places)
            for source, place in zip(part["source"].to_pylist(), places, strict=True):
                self._signatures[source] = found[place][:SIGNATURE_BYTES]
            images = [found[place][SIGNATURE_BYTES:] for place in places]
            yield _with(part, IMAGES, image=pa.array(images, pa.binary()))

    def sources(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Rows of SOURCES, in order, in parts of bounded size; after `images`.

        Args:
          rows: SOURCES but for `signature` and `image`, with PLACE.
        """
        lacking = pc.invert(pc.or_(rows["original"], rows["written"])).to_numpy(
            zero_copy_only=False
        )
        sizes = np.where(lacking, rows["size"].to_numpy(), SIGNATURE_BYTES)
        rows = rows.set_column(rows.schema.get_field_index("size"), "size", pa.array(sizes))
        for part in _parts(rows, sizes):
            names, places = part["source"].to_pylist(), _places(part)
            wanted = [
                place
                for name, place in zip(names, places, strict=True)
                if place[2] > SIGNATURE_BYTES or name not in self._signatures
            ]
            found = read_records(self._folder, wanted)
            signatures = [
                found[place][:SIGNATURE_BYTES] if place in found else self._signatures[name]
                for name, place in zip(names, places, strict=True)
            ]
            images = [
                found[place][SIGNATURE_BYTES:] if place[2] > SIGNATURE_BYTES else None
                for place in places
            ]
            yield _with(
                part,
                SOURCES,
                signature=pa.array(signatures, pa.binary(SIGNATURE_BYTES)),
                image=pa.array(images, pa.binary()),
            )


def _places(rows: pa.Table) -> list[Place]:
    return list(zip(*(rows[name].to_pylist() for name, _ in PLACE), strict=True))


def _parts(rows: pa.Table, sizes: np.ndarray) -> Iterator[pa.Table]:
    """Rows whose records have, but for a single one, at most PART_BYTES."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start] - sizes[start]
        stop = max(int(np.searchsorted(ends, before + PART_BYTES, "right")), start + 1)
        yield rows.slice(start, stop - start)
        start = stop


def _with(rows: pa.Table, schema: pa.Schema, **columns: pa.Array) -> pa.Table:
    found = {field.name: columns.get(field.name) for field in schema}
    arrays = [rows[name] if column is None else column for name, column in found.items()]
    return pa.table(arrays, schema=schema)
