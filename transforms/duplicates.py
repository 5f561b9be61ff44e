"""Finds the images that are near duplicates of one another.

Signatures (transforms/signatures.py) → pairs that share keys → pairs that are copies →
clusters, each with its largest image as representative. Everything travels in blocks of
Arrow; a pair is looked at once, on the worker that holds one of its images.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import fingerprint
from transforms import signatures
from transforms.bands import band_keys
from transforms.datasets import GroupShards, SplitByShard, from_blocks
from transforms.signatures import COPY, MARKED, SIGNATURE_BYTES, Limits

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("signature", pa.binary(SIGNATURE_BYTES)),
    ]
)
# A row for each image that another one stands for; the others stand for themselves.
DUPLICATES = pa.schema([("image_id", pa.string()), ("representative", pa.string())])

_UNIQUE = pa.schema(
    [
        ("image", pa.int64()),  # hash64 of the image_id
        ("image_id", pa.string()),
        ("size", pa.int64()),  # pixels
        ("signature", pa.binary(SIGNATURE_BYTES)),
    ]
)
_KEYS = pa.schema(
    [("key", pa.int64()), ("band", pa.int8()), ("whole", pa.bool_()), ("image", pa.int64())]
)
_PAIRS = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("band", pa.int8())])
_HALF_PAIRS = pa.schema([("b", pa.int64()), *[field for field in _UNIQUE if field.name != "image"]])
LINKS = pa.schema(
    [
        ("a", pa.string()),
        ("b", pa.string()),
        ("size_a", pa.int64()),
        ("size_b", pa.int64()),
        ("kind", pa.int8()),  # COPY or MARKED of transforms/signatures.py
        ("difference", pa.float32()),
    ]
)

# A pair is compared when it shares keys of this many bands.
MIN_BANDS = 2
# In a bucket of more images than this each is paired only with this many of them, those
# with the smallest hashes. Copies of one picture stay together, through these. Lost is a
# pair of other images whose every shared key but one is in such buckets: pictures of a
# kind that fills them, say empty pages with one line.
MAX_BUCKET = 64
_PAIRS_AT_ONCE = 1 << 22
_COMPARED_AT_ONCE = 256


def unique_images(images: pa.Table) -> pa.Table:
    """One row (_UNIQUE) for each image_id: an image may arrive under several keys."""
    first = images.group_by("image_id", use_threads=False).aggregate(
        [("width", "max"), ("height", "max"), ("signature", "min")]
    )
    size = pc.multiply(first["width_max"].cast(pa.int64()), first["height_max"])
    hashes = pa.array(fingerprint.hash64_array(first["image_id"]))
    return pa.table([hashes, first["image_id"], size, first["signature_min"]], _UNIQUE)


def pixels_of(column: pa.ChunkedArray) -> np.ndarray:
    """[n, 3, 32, 32] float32 thumbnails of a column of signatures."""
    packed = np.frombuffer(b"".join(column.to_pylist()), np.uint8)
    return signatures.pixels_of(packed.reshape(-1, SIGNATURE_BYTES))


def keys_of(images: pa.Table) -> pa.Table:
    """The keys (_KEYS) of a table of _UNIQUE."""
    tables = [_KEYS.empty_table()]
    for start in range(0, images.num_rows, _COMPARED_AT_ONCE):
        part = images.slice(start, _COMPARED_AT_ONCE)
        keys, useful = band_keys(pixels_of(part["signature"]))
        # A window whose key is the whole picture's finds nothing more.
        useful[:, 1:] &= keys[:, 1:] != keys[:, :1]
        row, window, band = np.nonzero(useful)
        columns = keys[row, window, band], band.astype(np.int8), window == 0
        tables.append(pa.table([*columns, part["image"].to_numpy()[row]], _KEYS))
    return pa.concat_tables(tables)


def pairs_of(keys: pa.Table) -> Iterator[pa.Table]:
    """Pairs (_PAIRS, a < b) of images that share a key, in one of them of the whole picture.

    Args:
      keys: rows of _KEYS, all of each key.
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
        pairs = pa.table([np.minimum(one, other), np.maximum(one, other), band[rows]], _PAIRS)
        pairs = pairs.filter(pa.array(one != other))
        yield pairs.group_by(_PAIRS.names, use_threads=False).aggregate([]).cast(_PAIRS)
        first = last


def candidates(pairs: pa.Table, images: pa.Table) -> pa.Table:
    """Pairs that share enough bands, with one image: rows of _HALF_PAIRS.

    Args:
      pairs: rows of _PAIRS, all of each image a.
      images: rows of _UNIQUE of the same images.
    """
    pairs = pairs.group_by(["a", "b"], use_threads=False).aggregate([("band", "count_distinct")])
    pairs = pairs.filter(pc.greater_equal(pairs["band_count_distinct"], MIN_BANDS))
    found = images.take(pc.index_in(pairs["a"], value_set=images["image"].combine_chunks()))
    return found.drop_columns("image").add_column(0, "b", pairs["b"]).cast(_HALF_PAIRS)


def links_of(pairs: pa.Table, images: pa.Table, limits: Limits) -> pa.Table:
    """Compares pairs: a row of LINKS for each that is one picture.

    Args:
      pairs: rows of _HALF_PAIRS, all of each image b.
      images: rows of _UNIQUE of the same images.
      limits: see `signatures.compare`.
    """
    pairs = pairs.sort_by([("b", "ascending"), ("image_id", "ascending")])
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


def clusters_of(links: pa.Table) -> pa.Table:
    """Cuts the graph of links into clusters.

    Components alone would drift: of two links each is sound, of a chain of twenty the ends
    are strangers. So copies are taken in the order of size, largest first (ties: smallest
    image_id); each that is free stands for the free images within two links of it. An
    image that has no copy then joins, by its best link of the kind MARKED, one that has, or
    one that is alone too and has more such links: a mark makes a leaf, never a bridge
    between clusters, which would merge pictures that differ by no more than a mark.

    All links of a dataset are on one worker: some 200 bytes of memory a link, 10 million
    links in 2 GB. A dataset with more is beyond what this function is for.

    Args:
      links: rows of LINKS.

    Returns:
      Rows of DUPLICATES, sorted; they do not depend on the order of the links.
    """
    size: dict[str, int] = {}
    copies: dict[str, set[str]] = defaultdict(set)
    marked: dict[str, dict[str, float]] = defaultdict(dict)
    for a, b, size_a, size_b, kind, difference in zip(
        *(links[name].to_pylist() for name in LINKS.names), strict=True
    ):
        size[a], size[b] = size_a, size_b
        if kind == COPY:
            copies[a].add(b)
            copies[b].add(a)
        elif kind == MARKED:
            marked[a][b] = marked[b][a] = difference
    order = sorted(size, key=lambda image: (-size[image], image))
    leader = _within_two_links(order, copies)
    _join_marked(order, leader, marked)
    members: dict[str, list[str]] = defaultdict(list)
    for image in order:  # the largest comes first
        members[leader[image]].append(image)
    rows = sorted((image, group[0]) for group in members.values() for image in group[1:])
    columns = zip(*rows, strict=True) if rows else ([], [])
    return pa.table([pa.array(column, pa.string()) for column in columns], DUPLICATES)


def _within_two_links(order: Sequence[str], copies: Mapping[str, set[str]]) -> dict[str, str]:
    """Image → the image whose cluster it is in."""
    leader: dict[str, str] = {}
    for image in order:
        if image in leader:
            continue
        leader[image] = image
        near = [other for other in copies.get(image, ()) if other not in leader]
        for other in near:
            leader[other] = image
        for further in {x for other in near for x in copies[other]}:
            leader.setdefault(further, image)
    return leader


def _join_marked(order, leader: dict[str, str], marked: Mapping[str, Mapping[str, float]]) -> None:
    """Lets images that are alone join the cluster of their best link; changes `leader`."""
    members: dict[str, int] = defaultdict(int)
    for image in leader:
        members[leader[image]] += 1
    alone = [image for image in order if members[leader[image]] == 1 and image in marked]
    rank = {
        image: place
        for place, image in enumerate(sorted(alone, key=lambda image: -len(marked[image])))
    }
    joined = set()
    for image in rank:
        choices = [
            (difference, other)
            for other, difference in marked[image].items()
            if other not in joined and rank.get(other, -1) < rank[image]
        ]
        if choices:
            leader[image] = leader[min(choices)[1]]
            joined.add(image)


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

    def _candidates(self, shard) -> pa.Table:
        _, blocks = shard
        return candidates(
            from_blocks(blocks["pairs"], _PAIRS), from_blocks(blocks["images"], _UNIQUE)
        )

    def _links(self, shard) -> pa.Table:
        _, blocks = shard
        pairs = from_blocks(blocks["pairs"], _HALF_PAIRS)
        return links_of(pairs, from_blocks(blocks["images"], _UNIQUE), self._limits)

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
            | "Pairs" >> beam.FlatMapTuple(lambda _, x: pairs_of(from_blocks(x, _KEYS)))
        )
        half = (
            {"pairs": pairs, "images": images}
            | "JoinFirst" >> GroupShards({"pairs": "a", "images": "image"}, shards, spill)
            | "Candidates" >> beam.Map(self._candidates)
        )
        links = (
            {"pairs": half, "images": images}
            | "JoinSecond" >> GroupShards({"pairs": "b", "images": "image"}, shards, spill)
            | "Links" >> beam.Map(self._links)
        )
        return (
            links
            | "OneShard" >> SplitByShard("a", 1, spill)
            | "GroupLinks" >> beam.GroupByKey()
            | "Clusters" >> beam.MapTuple(lambda _, x: clusters_of(from_blocks(x, LINKS)))
        )
