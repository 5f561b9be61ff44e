"""What people did on all days together: of a log, or of the days that mine_log made of it."""

import itertools
from collections.abc import Iterator, Sequence

import apache_beam as beam

from beam_jobs.mining import log as log_lib
from beam_jobs.mining.days import deletions_on_workers, find_days
from beam_jobs.mining.flags import Config
from schemas.runs.run import Run
from transforms.mining import days, evidence
from transforms.shards.blocks import GroupShards
from transforms.shards.outputs import COUNTS, DEAD, NOTES
from transforms.shards.tasks import ListTasks, paths_of


class MineLog(beam.PTransform):
    """The log behind --log → a dict of the tables of `days.MERGED`, texts and languages.

    And what all steps have: dead letters, notes, counts.
    """

    def __init__(self, config: Config, run: Run, num_shards: int):
        super().__init__()
        self._config, self._run, self._num_shards = config, run, num_shards

    def expand(self, pipeline):
        config, run = self._config, self._run
        read = pipeline | log_lib.ReadEvents(log_lib.log_rules(config, None), run)
        mined = (
            read.events
            | "ByPerson" >> evidence.GroupPeople(self._num_shards, run.spill)
            | days.MineAndMergeDays(log_lib.day_rules(config, None), config.session_gap)
        )
        return {name: mined[name] for name in (*days.MERGED, "languages")} | {
            "texts": read.texts,
            DEAD: read[DEAD],
            COUNTS: (read[COUNTS], mined[COUNTS]) | "Counts" >> beam.Flatten(),
            NOTES: mined[NOTES],
        }


def _shards_of_days(days: Sequence[str], table: str) -> Iterator[str]:
    """The files of a table of some days, which are the folders of their runs."""
    return itertools.chain.from_iterable(paths_of(day, table) for day in days)


class ReadDays(beam.PTransform):
    """The days behind --days → the same tables; nothing is counted again, and nothing dies."""

    def __init__(self, config: Config, run: Run, num_shards: int):
        super().__init__()
        self._config, self._run, self._num_shards = config, run, num_shards

    def expand(self, pipeline):
        found = [day.run_folder for day in find_days(self._config.days).values()]
        deletions = deletions_on_workers(self._config)
        read = {
            name: pipeline
            | f"Shards of {name}" >> ListTasks(_shards_of_days, found, name)
            | f"Read {name}" >> days.ReadDays(log_lib.SCHEMAS[name], deletions)
            for name in log_lib.SCHEMAS
        }
        ids = {"evidence": "person", "visits": "person"}
        merged = (
            {name: read[name] for name in ids}
            | "ByPerson" >> GroupShards(ids, self._num_shards, self._run.spill)
            | days.MergeDays(self._config.session_gap)
        )
        return {name: merged[name] for name in days.MERGED} | {
            name: read[name] for name in ("texts", "languages")
        }
