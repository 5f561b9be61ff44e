"""Finds the images that are near duplicates of one another.

Signatures (transforms/duplicates/compare.py) → pairs that share keys → pairs that are copies →
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
from transforms.duplicates.bands import band_keys
from transforms.duplicates.compare import COPY, MARKED, SIGNATURE_BYTES, Limits
from transforms.shards.blocks import GroupShards, SplitByShard, from_blocks

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
        ("kind", pa.int8()),  # COPY or MARKED of transforms/duplicates/compare.py
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
_HALF_PAIRS_AT_ONCE = 1 << 14  # with an image each, some 25 MB
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


def candidates(pairs: pa.Table, images: pa.Table) -> Iterator[pa.Table]:
    """Pairs that share enough bands, with one image: tables of _HALF_PAIRS of bounded size.

    Args:
      pairs: rows of _PAIRS, all of each image a.
      images: rows of _UNIQUE of the same images.
    """
    pairs = pairs.group_by(["a", "b"], use_threads=False).aggregate([("band", "count_distinct")])
    pairs = pairs.filter(pc.greater_equal(pairs["band_count_distinct"], MIN_BANDS))
    place = pc.index_in(pairs["a"], value_set=images["image"].combine_chunks())
    for start in range(0, pairs.num_rows, _HALF_PAIRS_AT_ONCE):
        part = slice(start, start + _HALF_PAIRS_AT_ONCE)
        found = images.take(place[part]).drop_columns("image")
        yield found.add_column(0, "b", pairs["b"][part]).cast(_HALF_PAIRS)


def links_of(pairs: pa.Table, images: pa.Table, limits: Limits) -> pa.Table:
    """Compares pairs: a row of LINKS for each that is one picture.

    Args:
      pairs: rows of _HALF_PAIRS.
      images: rows of _UNIQUE, all of the images b among them.
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


class _Graph:
    """Neighbours of nodes 0 … n − 1, with the weight of the link to each."""

    def __init__(self, n: int, a: np.ndarray, b: np.ndarray, weights: np.ndarray):
        source, target = np.concatenate([a, b]), np.concatenate([b, a])
        order = np.lexsort((target, source))
        self._starts = np.searchsorted(source[order], np.arange(n + 1)).tolist()
        self._targets = target[order].tolist()
        self._weights = np.concatenate([weights, weights])[order].tolist()

    def neighbours(self, node: int) -> list[int]:
        return self._targets[self._starts[node] : self._starts[node + 1]]

    def weights(self, node: int) -> list[float]:
        return self._weights[self._starts[node] : self._starts[node + 1]]

    def degrees(self) -> np.ndarray:
        return np.diff(self._starts)


def clusters_of(links: pa.Table) -> pa.Table:
    """Cuts the graph of links into clusters.

    Components alone would drift: of two links each is sound, of a chain of twenty the ends
    are strangers. So images are taken in the order of size, largest first (ties: smallest
    image_id); each that is free stands for the free images within two COPY links of it. An
    image that is alone after that joins, by its best MARKED link, one that has copies, or
    one that is alone too and has more such links: a mark makes a leaf, never a bridge
    between clusters, which would merge pictures that differ by no more than a mark.

    All links of a dataset come to one worker, once; it takes some 300 bytes of memory a
    link. Candidates, of which there are many more, never do.

    Args:
      links: rows of LINKS.

    Returns:
      Rows of DUPLICATES, sorted; they do not depend on the order of the links.
    """
    names = _by_size(links)
    n = len(names)
    a, b = (pc.index_in(links[end], value_set=names).to_numpy() for end in ("a", "b"))
    kind, difference = links["kind"].to_numpy(), links["difference"].to_numpy()
    copies, marked = (
        _Graph(n, a[kind == k], b[kind == k], difference[kind == k]) for k in (COPY, MARKED)
    )
    leaders = np.array(_join_marked(_within_two_links(n, copies), marked), np.int64)
    first = np.full(n, n)
    np.minimum.at(first, leaders, np.arange(n))  # names are in the order of size
    image = np.flatnonzero(first[leaders] != np.arange(n))
    table = pa.table([names.take(image), names.take(first[leaders[image]])], DUPLICATES)
    return table.sort_by("image_id")


def _by_size(links: pa.Table) -> pa.Array:
    """The images of links, largest first; ties: smallest image_id."""
    names = pa.chunked_array([*links["a"].chunks, *links["b"].chunks], pa.string())
    sizes = pa.chunked_array([*links["size_a"].chunks, *links["size_b"].chunks], pa.int64())
    images = pa.table({"name": names, "size": sizes}).group_by("name", use_threads=False)
    order = [("size_max", "descending"), ("name", "ascending")]
    return images.aggregate([("size", "max")]).sort_by(order)["name"].combine_chunks()


def _within_two_links(n: int, copies: _Graph) -> list[int]:
    """[n] the image in whose cluster each is."""
    leader = [-1] * n
    for image in range(n):
        if leader[image] >= 0:
            continue
        leader[image] = image
        near = [other for other in copies.neighbours(image) if leader[other] < 0]
        for other in near:
            leader[other] = image
        for other in near:
            for further in copies.neighbours(other):
                if leader[further] < 0:
                    leader[further] = image
    return leader


def _join_marked(leader: list[int], marked: _Graph) -> list[int]:
    """[n] the same, after images that were alone have joined the cluster of their best link."""
    degrees = marked.degrees()
    members = np.bincount(leader, minlength=len(leader))
    alone = np.flatnonzero((members[leader] == 1) & (degrees > 0))
    alone = alone[np.argsort(-degrees[alone], kind="stable")]
    # Others may join an image that has copies, or comes before them and joined nothing.
    open_ = (members[leader] > 1).tolist()
    for image in alone.tolist():
        links = zip(marked.weights(image), marked.neighbours(image), strict=True)
        choices = [link for link in links if open_[link[1]]]
        if choices:
            leader[image] = leader[min(choices)[1]]
        else:
            open_[image] = True
    return leader


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
        pairs = from_blocks(blocks["pairs"], _PAIRS)
        yield from candidates(pairs, from_blocks(blocks["images"], _UNIQUE))

    def _links(self, shard) -> Iterator[pa.Table]:
        _, blocks = shard
        images = from_blocks(blocks["images"], _UNIQUE)
        for block in blocks["pairs"]:  # all at once would be too much
            yield links_of(from_blocks([block], _HALF_PAIRS), images, self._limits)

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
