"""Images through networks: decoded ahead, in batches, and only the bad ones of a batch die."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.runtime.ahead import Ahead
from model_code.runtime.settings import EmbeddingSettings
from schemas.tables.vectors import Vectors, arrow_to_vectors
from transforms.inference.bisect import run_or_bisect


class UnknownImages:
    """Of images that are read, those to embed; the others are kept aside.

    Args:
      read: what `transforms.shards.reuse.read_images` yields.

    Attributes:
      rows: images read so far.
      known: of those that an earlier run has embedded: their rows, and its rows of them.
    """

    def __init__(self, read: Iterable[tuple[pa.Table, pa.Array, pa.Table | None]]):
        self._read = read
        self.rows = 0
        self.known: list[tuple[pa.Table, pa.Table]] = []

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for images, is_known, found in self._read:
            self.rows += images.num_rows
            if found is not None:
                self.known.append((images.filter(is_known), found))
            yield from images.filter(pc.invert(is_known)).to_batches()

    @property
    def reused(self) -> int:
        return sum(rows.num_rows for rows, _ in self.known)


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What became of the images of a batch.

    Attributes:
      good: (places in the batch [n] int64, their embeddings: name → [n, *shape] float32).
      bad: (place, error) of each image that failed by itself.
    """

    good: list[tuple[np.ndarray, Mapping[str, np.ndarray]]]
    bad: list[tuple[int, Exception]]


def full_batches(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """The same rows in the same order, `size` at a time: a part of a batch costs a whole one."""
    waiting: list[pa.RecordBatch] = []
    missing = size
    for batch in batches:
        while batch.num_rows:
            waiting.append(batch.slice(0, missing))
            batch = batch.slice(missing)
            missing -= waiting[-1].num_rows
            if not missing:
                yield pa.Table.from_batches(waiting)
                waiting, missing = [], size
    if waiting:
        yield pa.Table.from_batches(waiting)


def embed_ahead(
    load: Callable[[], Any], batches: Iterable[pa.Table]
) -> Iterator[tuple[pa.Table, Embedded]]:
    """Embeds batches; a thread reads and decodes the next ones while the networks work.

    Args:
      load: returns a `model_code.images.embedder.ImageEmbedder`; called when there is a batch.
      batches: with the columns image, width and height, and any others.
    """
    ahead = Ahead((batch, *_decode(load(), batch)) for batch in batches)
    try:
        for batch, places, pixels, bad in ahead:
            yield batch, _embed(load(), places, pixels, bad)
    finally:
        ahead.close()


def _decode(embedder: Any, batch: pa.Table) -> tuple[np.ndarray, Any, list]:
    """Places and pixels of the images that can be decoded, and (place, error) of the others."""
    images, sizes = batch["image"].to_pylist(), pixel_bytes(batch)

    def decode(places: Sequence[int]):
        return embedder.decode([images[p] for p in places], [sizes[p] for p in places])

    parts, bad = run_or_bisect(decode, range(len(images)))
    places = np.setdiff1d(np.arange(len(images)), [place for place, _ in bad])
    pixels = [pixels for _, pixels in parts]
    return places, tuple(map(np.concatenate, zip(*pixels, strict=True))), bad


def _embed(embedder: Any, places: np.ndarray, pixels: Any, bad: list) -> Embedded:
    def embed(rows: Sequence[int]):
        return embedder.embed_pixels(tuple(part[rows[0] : rows[-1] + 1] for part in pixels))

    found, failed = run_or_bisect(embed, range(len(places)))
    good = [(places[start : start + rows_of(embs)], embs) for start, embs in found]
    bad = bad + [(int(places[row]), error) for row, error in failed]
    return Embedded(good, sorted(bad, key=lambda one: one[0]))


def pixel_bytes(images: pa.Table) -> list[int]:
    """Bytes of the pixels of each image, by its width and height; 0 where these are null."""
    pixels = pc.multiply(images["width"].cast(pa.int64()), images["height"].cast(pa.int64()))
    return pc.multiply(pixels, 3).fill_null(0).to_pylist()


def image_embedder(generator: str, pixel_embedder: str | None, settings: EmbeddingSettings):
    """Loads a `model_code.images.embedder.ImageEmbedder`."""
    from model_code.images.embedder import ImageEmbedder

    return ImageEmbedder(generator, pixel_embedder, settings)


def embeddings_of(rows: pa.Table, vectors: Vectors) -> dict[str, np.ndarray]:
    """The embeddings that rows of a table hold: name → [n, *shape] float32."""
    return {name: arrow_to_vectors(rows[name], shape) for name, shape in vectors.items()}


def rows_of(embs: Mapping[str, np.ndarray]) -> int:
    """How many images the embeddings are of."""
    return len(next(iter(embs.values())))
