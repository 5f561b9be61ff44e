"""What a job has to do, listed where its workers find it.

A graph that named each file would grow with them, and so would whoever submits it. Shards of a
dataset are listed by a worker, from the manifest. Files of other people are listed once, by the
launcher, which writes down what is to be read of them: what two listings find may differ.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam

from schemas.base import storage
from schemas.datasets.dataset import Dataset
from schemas.runs.run import Run

PART_TASKS = 4096


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


def write_tasks(run: Run, name: str, tasks: Iterable[Any]) -> None:
    """Writes down what is to be done, in parts, for `ReadTasks`.

    Args:
      run: the run; what is written goes when it has committed.
      name: of the tasks, within the run.
      tasks: dataclasses of texts, numbers and other such.
    """
    rest, part = iter(tasks), 0
    while rows := list(itertools.islice(rest, PART_TASKS)):
        lines = "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
        storage.write_bytes(_part(run, name, part), lines.encode())
        part += 1
    storage.write_bytes(_part(run, name, None), b"%d" % part)


def _part(run: Run, name: str, part: int | None) -> str:
    return storage.join(run.spill, "tasks", name, "parts" if part is None else f"{part:06}.jsonl")


def _parts(run: Run, name: str) -> Iterator[str]:
    count = int(storage.read_bytes(_part(run, name, None)))
    return (_part(run, name, part) for part in range(count))


def _read_part(path: str, of_json: Callable[[dict], Any]) -> Iterator[Any]:
    return (of_json(json.loads(line)) for line in storage.read_bytes(path).splitlines())


class ReadTasks(beam.PTransform):
    """A pipeline → a PCollection of the tasks that `write_tasks` has written.

    Args:
      run, name: see there.
      of_json: makes a task of the JSON object of its fields.
    """

    def __init__(self, run: Run, name: str, of_json: Callable[[dict], Any]):
        super().__init__()
        self._run, self._name, self._of_json = run, name, of_json

    def expand(self, pipeline):
        return (
            pipeline
            | "Parts" >> ListTasks(_parts, self._run, self._name)
            | "ReadParts" >> beam.FlatMap(_read_part, self._of_json)
            | beam.Reshuffle()
        )
