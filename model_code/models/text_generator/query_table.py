"""The vectors of millions of queries, on one device or spread over many.

Row k lies on device k mod D, which alone reads and updates it. What devices tell each other in a
step are the batch's image embeddings [B, M], their gradient, one partition sum an image, and the
gradients of the tower: no row of the table, whatever K is. Source: An et al., Partial FC:
Training 10 Million Identities on a Single Machine, 2021, section 3.2 (arXiv 2010.05222).
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from model_code.runtime.sparse_adagrad import SparseAdagrad
from schemas.base.errors import PhraseLensError

_CHUNK = 1 << 16  # rows in memory at once, besides the table
# Adagrad starts below the squared gradients it meets, so that it adapts from the first step.
_FIRST_ACCUMULATOR = 1e-6


def unit_rows(x: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(x, 1, epsilon=1e-12)


class Devices:
    """The devices of a table, and what they tell each other.

    Only the rows of tables are spread. The tower's variables are held once a process, outside
    the strategy's scope; devices of one process read them from there, and each process applies
    the same reduced gradients to its own. Shapes depend on which device a query falls on, so
    that this runs on CPUs and GPUs; TPUs, which compile fixed shapes, it does not support.

    Args:
      strategy: MirroredStrategy for the devices of one process, MultiWorkerMirroredStrategy
        for those of several; None for one device and no tf.distribute.

    Attributes:
      count: D, over all processes.
      local: the numbers of this process's devices, of 0 … D − 1.
      names: and their names, for tf.device; None where TensorFlow decides.
      part: (i, n): this is the i-th of n processes, from 0.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None):
        self._strategy = strategy
        self.count, self.local, self.names = 1, [0], [None]
        if strategy:
            self.count = strategy.num_replicas_in_sync
            numbers = strategy.run(lambda: _context().replica_id_in_sync_group)
            self.local = [int(n) for n in strategy.experimental_local_results(numbers)]
            self.names = list(strategy.extended.worker_devices)
        self.part = self.local[0] // len(self.local), self.count // len(self.local)

    def own_folder(self, folder: str) -> str:
        """Where this process keeps what the others keep too: a folder below, if there are any."""
        return os.path.join(folder, f"worker-{self.part[0]}") if self.part[1] > 1 else folder

    def equal_parts(self, batch_size: int) -> int:
        """The largest batch that the devices can share equally, of `batch_size` images at most.

        Raises:
          PhraseLensError: there are more devices than images.
        """
        if batch_size < self.count:
            raise PhraseLensError(
                f"a batch of {batch_size} images",
                f"at least one for each of {self.count} devices",
                "Set --batch_size higher or --devices lower.",
            )
        return batch_size - batch_size % self.count

    def run(self, function: Callable[[int], Any]) -> list:
        """Calls `function` with the place in `local` of each device, on it, all together."""
        if not self._strategy:
            return [function(0)]

        def on_device():
            return function(self.local.index(self._number()))

        return list(self._strategy.experimental_local_results(self._strategy.run(on_device)))

    def seed(self, seed: tf.Tensor) -> tf.Tensor:
        """In `run`: a seed of this device's own, [2] integer; the very same on one device."""
        if not self._strategy:
            return seed
        return tf.random.experimental.stateless_fold_in(seed, self._number())

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """In `run`: [n, …] of each device → [D · n, …], to all; gradients come back summed."""
        if not self._strategy:
            return rows
        number = self._number()

        @tf.custom_gradient
        def gathered(rows):
            def gradient(upstream):
                return tf.split(self.sum([upstream])[0], self.count)[number]

            return _context().all_gather(rows, 0), gradient

        return gathered(rows)

    def sum_logs(self, x: tf.Tensor) -> tf.Tensor:
        """In `run`: log Σ exp over the devices: [n] of each → [n], to all."""
        if not self._strategy:
            return x

        @tf.custom_gradient
        def summed(x):
            total = tf.reduce_logsumexp(_context().all_gather(x[None], 0), 0)

            def gradient(upstream):
                return tf.exp(x - total) * self.sum([upstream])[0]

            return total, gradient

        return summed(x)

    def check_same(self, seed: tf.Tensor) -> None:
        """In `run`: fails unless all processes are at the same step, [2] integer.

        They are not if one was killed before, and another after it wrote a checkpoint.
        """
        if self.part[1] > 1:
            seeds = _context().all_gather(seed[None], 0)
            tf.debugging.assert_equal(
                seeds, seed[None], "The workers are at other steps: remove their checkpoints."
            )

    def sum(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        """In `run`: the sums over the devices, to all."""
        if not self._strategy:
            return values
        return _context().all_reduce(tf.distribute.ReduceOp.SUM, values)

    def _number(self) -> int:
        return int(tf.get_static_value(_context().replica_id_in_sync_group))


def _context() -> tf.distribute.ReplicaContext:
    return tf.distribute.get_replica_context()


def devices(wanted: str = "1") -> Devices:
    """The devices that a flag names; call it before TensorFlow has made its first tensor.

    Args:
      wanted: how many of this process's GPUs, or without any, of equal shares of its CPU;
        "all" for all GPUs. If TF_CONFIG names several workers, it counts instead: all devices
        of every worker, which must run this same command.

    Raises:
      PhraseLensError: there are not that many, or it is no number.
    """
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    if sum(map(len, cluster.values())) > 1:
        return Devices(tf.distribute.MultiWorkerMirroredStrategy())
    gpus = tf.config.list_physical_devices("GPU")
    if wanted != "all" and not (wanted.isdigit() and int(wanted)):
        raise PhraseLensError(f"--devices {wanted}", "a number from 1, or 'all'", "Set it so.")
    count = max(len(gpus), 1) if wanted == "all" else int(wanted)
    if count == 1:
        return Devices()
    if gpus and len(gpus) < count:
        raise PhraseLensError(f"--devices {wanted}", f"{len(gpus)} at most", "Name fewer.")
    kind = "GPU" if gpus else "CPU"
    if not gpus:
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    return Devices(tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(count)]))


class QueryTable(tf.Module):
    """A trainable vector for each query: [K, M] float32, with row-wise Adagrad.

    Memory is that of the table, its accumulators [K], and some chunks; the first vectors do
    not depend on the devices.

    Args:
      num_queries: K.
      width: M.
      learning_rate: of Adagrad.
      seed: of the first vectors.
      devices: that hold it.
    """

    def __init__(
        self, num_queries: int, width: int, learning_rate: float, seed: int, devices: Devices
    ):
        super().__init__()
        self._num_queries, self._width, self._devices = num_queries, width, devices
        self._shard_rows = -(-num_queries // devices.count)
        shape = (self._shard_rows, width)
        self.shards, self.optimizers = [], []
        for name in devices.names:
            with tf.device(name):
                self.shards.append(tf.Variable(tf.zeros(shape)))
                self.optimizers.append(
                    SparseAdagrad(shape, learning_rate, _FIRST_ACCUMULATOR, row_wise=True)
                )
        for chunk, start in enumerate(range(0, num_queries, _CHUNK)):
            size = [min(_CHUNK, num_queries - start), width]
            first = tf.random.stateless_normal(size, [seed, chunk], stddev=width**-0.5)
            for shard, device in zip(self.shards, devices.local, strict=True):
                skipped = (device - start) % devices.count
                rows, place = first[skipped :: devices.count], (start + skipped) // devices.count
                # shard[a:b].assign would read the whole shard first.
                shard.scatter_update(tf.IndexedSlices(rows, tf.range(place, place + len(rows))))

    def on_device(self, local: int, ids: tf.Tensor, *columns: tf.Tensor) -> list[tf.Tensor]:
        """Those of some queries, [n] int64, that lie on a device, with other columns of theirs."""
        if self._devices.count == 1:
            return [ids, *columns]
        here = tf.equal(ids % self._devices.count, self._devices.local[local])
        return [tf.boolean_mask(column, here) for column in (ids, *columns)]

    def rows(self, local: int, ids: tf.Tensor) -> tf.Tensor:
        """The unit vectors of queries that lie on a device: [n] int64 → [n, M]."""
        return unit_rows(tf.gather(self.shards[local], ids // self._devices.count))

    def apply(self, local: int, gradient: tf.IndexedSlices) -> None:
        """Updates the rows of a device's shard that its gradient names."""
        self.optimizers[local].apply(self.shards[local], gradient)

    def blocks(self) -> Iterator[np.ndarray]:
        """The unit vectors of all queries, some at a time; all processes must read it together.

        Yields:
          [n, M] float32, those of the next n queries.
        """
        count = self._devices.count
        for start in range(0, self._shard_rows, _CHUNK):
            stop = min(start + _CHUNK, self._shard_rows)
            block = self._block(tf.range(start, stop)).numpy()
            block = block.swapaxes(0, 1).reshape(-1, self._width)
            yield block[: self._num_queries - start * count]

    def vectors(self) -> np.ndarray:
        """The unit vectors of all queries, [K, M] float32; all processes must call it together."""
        found, first = np.empty((self._num_queries, self._width), np.float32), 0
        for block in self.blocks():
            found[first : first + len(block)] = block
            first += len(block)
        return found

    def save(self, path: str) -> None:
        """Writes `vectors` as an .npy file, without having all of them in memory.

        All processes must call it together, those that keep no file with os.devnull.
        """
        shape = (self._num_queries, self._width)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in self.blocks():
                file.write(np.ascontiguousarray(block, "<f4").data)

    @tf.function(reduce_retracing=True)
    def _block(self, rows: tf.Tensor) -> tf.Tensor:
        """Rows of every shard: [n] → [D, n, M]."""

        def block(local):
            vectors = unit_rows(tf.gather(self.shards[local], rows))
            return self._devices.gather(vectors[None])

        return self._devices.run(block)[0]
