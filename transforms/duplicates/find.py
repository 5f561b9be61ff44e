"""Finds the images that are near duplicates of one another.

Signatures (transforms/duplicates/signature.py) → pairs that share keys → pairs that are copies →
clusters, each with its largest image as representative. Everything travels in blocks of
Arrow; a pair is looked at once, on the worker that holds one of its images.
"""

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.base import fingerprint
from transforms.duplicates import compare as signatures
from transforms.duplicates import signature
from transforms.duplicates.bands import band_keys
from transforms.duplicates.clusters import clusters_of
from transforms.duplicates.compare import Limits
from transforms.duplicates.signature import SIGNATURE_BYTES
from transforms.duplicates.tables import HALF_PAIRS, IMAGES, KEYS, LINKS, PAIRS, UNIQUE
from transforms.shards.blocks import GroupShards, SplitByShard, from_blocks

# A pair is compared when it shares keys of this many bands.
MIN_BANDS = 2
# In a bucket of more images than this each is paired only with this many of them, those
# with the smallest hashes. Copies of one picture stay together, through these. Lost is a
# pair of other images whose every shared key but one is in such buckets: pictures of a
# kind that fills them, say empty pages with one line.
MAX_BUCKET = 64
_PAIRS_AT_ONCE = 1 << 22
_HALF_PAIRS_AT_ONCE = 1 << 14  # with an image each, some 25 MB
_COMPARED_AT_ONCE = 256


def unique_images(images: pa.Table) -> pa.Table:
    """One row (UNIQUE) for each image_id: an image may arrive under several keys."""
    first = images.group_by("image_id", use_threads=False).aggregate(
        [("width", "max"), ("height", "max"), ("signature", "min")]
    )
    size = pc.multiply(first["width_max"].cast(pa.int64()), first["height_max"])
    hashes = pa.array(fingerprint.hash64_array(first["image_id"]))
    return pa.table([hashes, first["image_id"], size, first["signature_min"]], UNIQUE)


def pixels_of(column: pa.ChunkedArray) -> np.ndarray:
    """[n, 3, 32, 32] float32 thumbnails of a column of signatures."""
    packed = np.frombuffer(b"".join(column.to_pylist()), np.uint8)
    return signature.pixels_of(packed.reshape(-1, SIGNATURE_BYTES))


def keys_of(images: pa.Table) -> pa.Table:
    """The keys (KEYS) of a table of UNIQUE."""
    tables = [KEYS.empty_table()]
    for start in range(0, images.num_rows, _COMPARED_AT_ONCE):
        part = images.slice(start, _COMPARED_AT_ONCE)
        keys, useful = band_keys(pixels_of(part["signature"]))
        # A window whose key is the whole picture's finds nothing more.
        useful[:, 1:] &= keys[:, 1:] != keys[:, :1]
        row, window, band = np.nonzero(useful)
        columns = keys[row, window, band], band.astype(np.int8), window == 0
        tables.append(pa.table([*columns, part["image"].to_numpy()[row]], KEYS))
    return pa.concat_tables(tables)


def pairs_of(keys: pa.Table) -> Iterator[pa.Table]:
    """Pairs (PAIRS, a < b) of images that share a key, in one of them of the whole picture.

    Args:
      keys: rows of KEYS, all of each key.
    """
    keys = keys.sort_by([("key", "ascending"), ("image", "ascending")])
    key, band, image = (keys[name].to_numpy() for name in ("key", "band", "image"))
    whole = keys["whole"].to_numpy()
    whole_key, whole_image = key[whole], image[whole]
    starts = np.searchsorted(whole_key, key, "left")
    counts = np.searchsorted(whole_key, key, "right") - starts
    counts = np.minimum(counts, MAX_BUCKET)
    step = np.concatenate([[0], np.cumsum(counts)])
    first = 0
    while first < len(key):
        last = max(int(np.searchsorted(step, step[first] + _PAIRS_AT_ONCE, "right")) - 1, first + 1)
        rows = np.repeat(np.arange(first, last), counts[first:last])
        within = np.arange(len(rows)) - (step[rows] - step[first])
        one, other = image[rows], whole_image[starts[rows] + within]
        pairs = pa.table([np.minimum(one, other), np.maximum(one, other), band[rows]], PAIRS)
        pairs = pairs.filter(pa.array(one != other))
        yield pairs.group_by(PAIRS.names, use_threads=False).aggregate([]).cast(PAIRS)
        first = last


def candidates(pairs: pa.Table, images: pa.Table) -> Iterator[pa.Table]:
    """Pairs that share enough bands, with one image: tables of HALF_PAIRS of bounded size.

    Args:
      pairs: rows of PAIRS, all of each image a.
      images: rows of UNIQUE of the same images.
    """
    pairs = pairs.group_by(["a", "b"], use_threads=False).aggregate([("band", "count_distinct")])
    pairs = pairs.filter(pc.greater_equal(pairs["band_count_distinct"], MIN_BANDS))
    place = pc.index_in(pairs["a"], value_set=images["image"].combine_chunks())
    for start in range(0, pairs.num_rows, _HALF_PAIRS_AT_ONCE):
        part = slice(start, start + _HALF_PAIRS_AT_ONCE)
        found = images.take(place[part]).drop_columns("image")
        yield found.add_column(0, "b", pairs["b"][part]).cast(HALF_PAIRS)


def links_of(pairs: pa.Table, images: pa.Table, limits: Limits) -> pa.Table:
    """Compares pairs: a row of LINKS for each that is one picture.

    Args:
      pairs: rows of HALF_PAIRS.
      images: rows of UNIQUE, all of the images b among them.
      limits: see `signatures.compare`.
    """
    others = images.take(pc.index_in(pairs["b"], value_set=images["image"].combine_chunks()))
    tables = [LINKS.empty_table()]
    for start in range(0, pairs.num_rows, _COMPARED_AT_ONCE):
        a, b = (table.slice(start, _COMPARED_AT_ONCE) for table in (pairs, others))
        kinds, differences = signatures.compare(
            pixels_of(a["signature"]), pixels_of(b["signature"]), limits
        )
        columns = [a["image_id"], b["image_id"], a["size"], b["size"], kinds, differences]
        tables.append(pa.table(columns, LINKS).filter(pa.array(kinds > 0)))
    return pa.concat_tables(tables)


class FindDuplicates(beam.PTransform):
    """PCollection[pa.Table of IMAGES, more columns allowed] → PCollection[pa.Table of DUPLICATES].

    An image_id may arrive several times. A row comes out for every image that is not its
    own representative, at most one for each image_id.

    Args:
      num_shards: into how many parts images, keys and pairs are cut.
      spill: folder for large blocks.
      limits: what copies may differ by.
    """

    def __init__(self, num_shards: int, spill: str, limits: Limits | None = None):
        super().__init__()
        self._num_shards, self._spill, self._limits = num_shards, spill, limits or Limits()

    def _candidates(self, shard) -> Iterator[pa.Table]:
        _, blocks = shard
        pairs = from_blocks(blocks["pairs"], PAIRS)
        yield from candidates(pairs, from_blocks(blocks["images"], UNIQUE))

    def _links(self, shard) -> Iterator[pa.Table]:
        _, blocks = shard
        images = from_blocks(blocks["images"], UNIQUE)
        for block in blocks["pairs"]:  # all at once would be too much
            yield links_of(from_blocks([block], HALF_PAIRS), images, self._limits)

    def expand(self, tables):
        shards, spill = self._num_shards, self._spill
        images = (
            tables
            | "Select" >> beam.Map(lambda table: table.select(IMAGES.names))
            | "ByImage" >> SplitByShard("image_id", shards, spill)
            | "GroupImages" >> beam.GroupByKey()
            | "Unique" >> beam.MapTuple(lambda _, x: unique_images(from_blocks(x, IMAGES)))
        )
        pairs = (
            images
            | "Keys" >> beam.Map(keys_of)
            | "ByKey" >> SplitByShard("key", shards, spill)
            | "GroupKeys" >> beam.GroupByKey()
            | "Pairs" >> beam.FlatMapTuple(lambda _, x: pairs_of(from_blocks(x, KEYS)))
        )
        half = (
            {"pairs": pairs, "images": images}
            | "JoinFirst" >> GroupShards({"pairs": "a", "images": "image"}, shards, spill)
            | "Candidates" >> beam.FlatMap(self._candidates)
        )
        links = (
            {"pairs": half, "images": images}
            | "JoinSecond" >> GroupShards({"pairs": "b", "images": "image"}, shards, spill)
            | "Links" >> beam.FlatMap(self._links)
        )
        return (
            links
            | "OneShard" >> SplitByShard("a", 1, spill)
            | "GroupLinks" >> beam.GroupByKey()
            | "Clusters" >> beam.MapTuple(lambda _, x: clusters_of(from_blocks(x, LINKS)))
        )
