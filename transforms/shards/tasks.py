"""What a job has to do, listed by a worker.

A graph that named each shard would grow with them, and so would whoever submits it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam

from schemas.datasets.dataset import Dataset


def paths_of(dataset: str, table: str) -> Iterator[str]:
    """The files of a table, by the number of their shard; `dataset` is best the folder of a run."""
    opened = Dataset(dataset)
    return map(opened.path, opened.shards(table))


def numbered_paths(dataset: str, table: str) -> Iterator[tuple[int, str]]:
    """The files of a table with the number of their shard."""
    opened = Dataset(dataset)
    return ((shard.index, opened.path(shard)) for shard in opened.shards(table))


class ListTasks(beam.PTransform):
    """A pipeline → a PCollection of what a function lists; it is called once, by a worker.

    Args:
      listing: the function, of a module.
      args: what it is called with: folders and settings, and no list of files.
    """

    def __init__(self, listing: Callable[..., Iterable[Any]], *args: Any):
        super().__init__()
        self._listing, self._args = listing, args

    def expand(self, pipeline):
        return (
            pipeline.pipeline
            | beam.Create([None])
            | beam.FlatMap(lambda _, listing, args: listing(*args), self._listing, self._args)
            | beam.Reshuffle()  # else the worker that lists them would do them all
        )
