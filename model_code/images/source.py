"""The images of a mined dataset as training batches: decoded once, shuffled by (seed, epoch)."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import pyarrow as pa
import tensorflow as tf

from model_code.images import ops as image_ops
from model_code.runtime.training import epoch_order
from schemas.base.errors import PhraseLensError
from schemas.console.progress import Progress
from schemas.datasets.dataset import Dataset
from schemas.datasets.shard_files import open_parquet
from schemas.tables.arrays import load_array

_DECODE_BATCH = 64


class ImageSource:
    """Some rows of the images table, in memory if they fit and else streamed from the shards.

    Both give the same batches. Images are shuffled by row groups and within them: rows
    are sorted by a content hash, so a row group is a random sample already.

    Args:
      dataset: a mined dataset.
      keep: [rows of the images table, in the order of its shards] bool.
      size: side of the squares that the images are resized to, in pixels.
      cache_bytes: keep the pixels in memory when they take no more than this.
      label: names the decoding in progress lines.

    Attributes:
      rows: how many images there are; they are numbered from 0 in the order of the table.
    """

    def __init__(self, dataset: Dataset, keep: np.ndarray, size: int, cache_bytes: int, label: str):
        self.size = size
        self._groups = list(_row_groups(dataset, keep))
        self._starts = np.cumsum([0, *(len(positions) for _, _, positions in self._groups)])
        self.rows = int(self._starts[-1])
        self._decode = tf.function(
            lambda images: image_ops.decode_and_resize(images, size),
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )
        self._cache: list[np.ndarray] | None = None
        if self.rows * size * size * 3 <= cache_bytes:
            progress = Progress(label, self.rows, "images")
            self._cache = []
            for images in self._decoded(range(len(self._groups))):
                self._cache.append(images)
                progress.add(len(images))
            progress.close()

    def shuffled(
        self, batch_size: int, seed: int, epoch: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of an epoch; images beyond the last whole batch wait for another epoch.

        Yields:
          rows [batch_size] int64 and images [batch_size, size, size, 3] uint8.
        """
        pieces: list[tuple[np.ndarray, np.ndarray]] = []
        missing = batch_size
        groups = epoch_order(seed, epoch, len(self._groups))
        for group, images in zip(groups, self._images(groups), strict=True):
            order = np.random.default_rng([seed, epoch, group]).permutation(len(images))
            while len(order):
                take, order = order[:missing], order[missing:]
                pieces.append((self._starts[group] + take, images[take]))
                missing -= len(take)
                if not missing:
                    rows, pixels = zip(*pieces, strict=True)
                    yield np.concatenate(rows), np.concatenate(pixels)
                    pieces, missing = [], batch_size

    def in_order(self, batch_size: int) -> Iterator[np.ndarray]:
        """All images by row: [≤ batch_size, size, size, 3] uint8 each."""
        for images in self._images(range(len(self._groups))):
            for start in range(0, len(images), batch_size):
                yield images[start : start + batch_size]

    def _images(self, groups: Iterable[int]) -> Iterator[np.ndarray]:
        if self._cache is None:
            return self._decoded(groups)
        return map(self._cache.__getitem__, groups)

    def _decoded(self, groups: Iterable[int]) -> Iterator[np.ndarray]:
        """Decodes row groups in the order given, one ahead of the reader."""
        with ThreadPoolExecutor(1) as pool:
            ahead = None
            for group in groups:
                previous, ahead = ahead, pool.submit(self._read, group)
                if previous is not None:
                    yield previous.result()
            if ahead is not None:
                yield ahead.result()

    def _read(self, group: int) -> np.ndarray:
        path, number, positions = self._groups[group]
        with open_parquet(path) as file:
            column = file.read_row_group(number, ["image"]).column("image")
        data = column.take(pa.array(positions)).to_pylist()
        try:
            parts = [
                self._decode(tf.constant(data[start : start + _DECODE_BATCH])).numpy()
                for start in range(0, len(data), _DECODE_BATCH)
            ]
        except tf.errors.InvalidArgumentError:
            raise self._unreadable(path, number, positions, data) from None
        return np.concatenate(parts)

    def _unreadable(
        self, path: str, group: int, positions: np.ndarray, data: Sequence[bytes]
    ) -> PhraseLensError:
        """What is said of the first image of a row group that cannot be decoded."""
        with open_parquet(path) as file:
            ids = file.read_row_group(group, ["image_id"]).column("image_id")
        for position, image in zip(positions, data, strict=True):
            try:
                self._decode(tf.constant([image]))
            except tf.errors.InvalidArgumentError as error:
                return PhraseLensError(
                    f"image {ids[position].as_py()} of {path}",
                    f"a JPEG or PNG that TensorFlow decodes ({error.message.splitlines()[0]})",
                    "Run mine_pairs again without --reuse: it keeps no such image.",
                )
        raise AssertionError("each image can be decoded, but not all of them together")


def _row_groups(dataset: Dataset, keep: np.ndarray) -> Iterator[tuple[str, int, np.ndarray]]:
    """The path, row group and positions in it of every row to keep."""
    start = 0
    for shard in dataset.shards("images"):
        path = dataset.path(shard)
        with open_parquet(path) as file:
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                positions = np.flatnonzero(keep[start : start + rows])
                start += rows
                if len(positions):
                    yield path, group, positions


class ArraySource:
    """Rows of an array, served as `ImageSource` serves images.

    Args:
      array: [rows, …].
    """

    def __init__(self, array: np.ndarray):
        self.rows = len(array)
        self._array = array

    def shuffled(
        self, batch_size: int, seed: int, epoch: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = epoch_order(seed, epoch, self.rows)
        for start in range(0, self.rows - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            yield rows, self._array[rows]

    def in_order(self, batch_size: int) -> Iterator[np.ndarray]:
        for start in range(0, self.rows, batch_size):
            yield self._array[start : start + batch_size]


class Images(Protocol):
    """Images that can be read one after the other; `rows` says how many."""

    rows: int

    def in_order(self, batch_size: int) -> Iterator[np.ndarray]: ...


def features_of(
    source: Images, encode: Callable, width: int, folder: str, name: str
) -> ArraySource:
    """What a frozen network makes of every image, computed once and kept on disk.

    Args:
      source: the images.
      encode: uint8 images [B, size, size, 3] → features [B, width] float32.
      width: features of an image.
      folder: where the result is kept, and found again by a run that resumes.
      name: of the file, and in progress lines.

    Returns:
      The features by row, memory-mapped.
    """
    path = os.path.join(folder, f"{name}.npy")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        partial = os.path.join(folder, f"{name}.partial.npy")
        written = np.lib.format.open_memmap(partial, "w+", np.float32, (max(source.rows, 1), width))
        progress, done = Progress(name, source.rows, "images"), 0
        for images in source.in_order(_DECODE_BATCH):
            written[done : done + len(images)] = encode(images)
            done += len(images)
            progress.add(len(images))
        progress.close()
        written.flush()
        os.replace(partial, path)
    return ArraySource(load_array(path, mmap_mode="r")[: source.rows])
