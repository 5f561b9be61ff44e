"""What every job checks that takes over what an earlier run made of the same images."""

import dataclasses
from collections.abc import Callable, Sequence

import apache_beam as beam

from beam_jobs.frame.reuse_flags import ReuseConfig
from schemas.base.errors import PhraseLensError
from schemas.datasets import shard_files
from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import Manifest, Shard
from transforms.shards.tasks import ListTasks


@dataclasses.dataclass(frozen=True)
class Reused:
    """What a job takes from an earlier run.

    Attributes:
      dataset: the run; None where nothing is taken over.
      tables: those that it reads.
      share: of their shards that are checked, chosen by their checksums.
    """

    dataset: Dataset | None
    tables: tuple[str, ...]
    share: float

    @classmethod
    def of(
        cls, config: ReuseConfig, *tables: str, made_alike: Callable[[Manifest], bool]
    ) -> "Reused":
        """What a job's flags say: nothing of a run that was made otherwise, or lacks a table."""
        earlier = Dataset(config.reuse) if config.reuse else None
        known = earlier.manifest if earlier else None
        if not known or not made_alike(known) or not set(tables) <= set(known.tables):
            earlier = None
        return cls(earlier, tables, config.check_reused)

    def paths(self, table: str) -> tuple[str, ...]:
        """The files of a table."""
        if self.dataset is None:
            return ()
        return tuple(self.dataset.path(shard) for shard in self.dataset.shards(table))

    @property
    def folder(self) -> str:
        """The folder of the run; "" where nothing is taken over."""
        return self.dataset.run_folder if self.dataset else ""

    def checked(self) -> list[tuple[str, Shard]]:
        """The shards to check, and where they lie."""
        return shards_to_check(self.folder, self.tables, self.share) if self.folder else []


def facts(config: ReuseConfig, reused: Callable[[], Reused]) -> tuple[str, ...]:
    """What the check costs, for people.

    Args:
      config: of the job.
      reused: finds what it takes over; where that is gone, whoever reads it says so. Work that is
        done already needs it no more.
    """
    if config.retry_dead:
        return ()  # the run before is, which is found later
    try:
        shards = reused().checked()
    except PhraseLensError:
        return ()
    size = sum(shard.bytes for _, shard in shards)
    return (f"checks what it takes over: {len(shards):,} shards, {size:,} bytes",) * bool(shards)


def shards_to_check(folder: str, tables: Sequence[str], share: float) -> list[tuple[str, Shard]]:
    """A share of the shards of some tables, and where they lie; see `Reused`."""
    dataset, least = Dataset(folder), int(share * 16**15)
    shards = [shard for name in tables for shard in dataset.shards(name)]
    return [(dataset.path(s), s) for s in shards if int(s.sha256[:15], 16) < least]


class WaitForCheck(beam.PTransform):
    """Elements → the same, once what is reused was found to be what was committed.

    What was damaged meanwhile would get a new checksum in the new run, and be good from then on.
    """

    def __init__(self, reused: Reused):
        super().__init__()
        self._reused = reused

    def expand(self, elements):
        reused = self._reused
        if not reused.folder:
            return elements
        checked = (
            elements.pipeline
            | "ReusedShards"
            >> ListTasks(shards_to_check, reused.folder, reused.tables, reused.share)
            | beam.Reshuffle()
            | "CheckShard" >> beam.MapTuple(check_shard)
            | beam.CombineGlobally(sum)
        )
        return elements | beam.Map(lambda element, _: element, beam.pvalue.AsSingleton(checked))


def check_shard(path: str, shard: Shard) -> int:
    """The bytes of a shard. Raises CorruptError where it is not the one that was committed."""
    shard_files.check(path, shard.bytes, shard.sha256)
    return shard.bytes
