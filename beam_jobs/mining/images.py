"""The images of mine_pairs: read or taken over, matched with their copies and labels, written."""

import dataclasses
import functools
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_jobs.frame.reuse import Reused, WaitForCheck
from beam_jobs.mining.days import deletions_on_workers
from beam_jobs.mining.flags import Config
from schemas.datasets import manifest
from schemas.runs.run import Run
from transforms.duplicates.find import FindDuplicates
from transforms.files.secret_files import FromFiles
from transforms.images.changed import ReadChangedImages, shards_of_earlier
from transforms.images.clean import ImageLimits
from transforms.images.read import ReadImages
from transforms.images.units import ImageUnit
from transforms.mining import images as mined_images
from transforms.mining.deletions import Deletions
from transforms.mining.images import SplitShares
from transforms.mining.labels import LABEL_FIELDS, parse_labels
from transforms.rows.checked import ReadRows
from transforms.rows.columns import column_mapping
from transforms.rows.tabular import read_table
from transforms.shards.blocks import GroupShards
from transforms.shards.image_bytes import SpillImages
from transforms.shards.outputs import COUNTS, DEAD, NOTES, SHARDS, Output
from transforms.shards.tasks import ListTasks, ReadTasks


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """A table of labels."""

    path: str

    @classmethod
    def of_json(cls, fields: dict) -> "LabelFile":
        return cls(**fields)


def reused(config: Config) -> Reused:
    """The images of the output to reuse, if it was made with the same limits."""

    def made_alike(earlier: manifest.Manifest) -> bool:
        return config.same_limits(earlier.config)

    return Reused.of(config, "sources", "images", made_alike=made_alike)


class MineImages(beam.PTransform):
    """The images and labels behind the flags → the tables images and sources.

    Output: a dict with the shards of both; `keys` (IMAGE_KEYS) and `splits` (SPLIT_OF_IMAGES) of
    the images; `earlier` (EARLIER_KEYS), what those of the reused run were called; and what all
    steps have: dead letters, notes, counts.
    """

    def __init__(
        self,
        config: Config,
        shares: SplitShares,
        run: Run,
        num_shards: int,
        total: int | None,
    ):
        super().__init__()
        self._config, self._shares, self._total = config, shares, total
        self._run, self._num_shards = run, num_shards
        self._deletions = deletions_on_workers(config)

    def _group(self, **ids: str) -> GroupShards:
        return GroupShards(ids, self._num_shards, self._run.spill)

    def expand(self, pipeline):
        earlier = reused(self._config)
        known = (
            pipeline
            | "KnownShards" >> ListTasks(shards_of_earlier, earlier.folder)
            | WaitForCheck(earlier)
        )
        read = self._read(pipeline, known if earlier.dataset else None)
        copies = self._find_copies(read["clean"])
        labels = self._read_labels(pipeline)
        earlier_keys = known | mined_images.ReadEarlierKeys(self._deletions)
        labelled = (
            {"labels": labels.labels, "keys": copies["keys"], "earlier": earlier_keys}
            | "LabelsByKey" >> self._group(labels="key", keys="key", earlier="key")
            | mined_images.JoinLabels()
        )
        built = (
            {"copies": copies.copies, "attributes": labelled.attributes}
            | "ByPicture" >> self._group(copies="representative", attributes="image_id")
            | mined_images.BuildImages(self._run, self._shares, self._num_shards)
        )
        counted = read, labels, labelled, built
        return {
            SHARDS: built[SHARDS],
            "keys": copies["keys"],
            "splits": built.splits,
            "earlier": earlier_keys,
            DEAD: (read[DEAD], labels[DEAD]) | "Dead" >> beam.Flatten(),
            NOTES: labelled[NOTES],
            COUNTS: [step[COUNTS] for step in counted] | "Counts" >> beam.Flatten(),
        }

    def _read(self, pipeline, known):
        """All images; of those that an earlier run knows, only what changed, where there is one."""
        how: dict[str, Any] = {
            "run": self._run,
            "limits": ImageLimits.of(self._config),
            "total": self._total,
            "deletions": self._deletions,
        }
        read = (
            ReadImages(**how)
            if known is None
            else ReadChangedImages(known, self._num_shards, self._run.spill, **how)
        )
        units = pipeline | "ImageUnits" >> ReadTasks(self._run, "images", ImageUnit.of_json)
        return units | read

    def _find_copies(self, clean):
        """Rows of images without bytes: these wait in files until it is known which are kept."""
        placed = clean | SpillImages(self._num_shards, self._run.spill)
        if not self._config.near_duplicates:
            return placed | mined_images.NameOnlyCopies()
        duplicates = clean | FindDuplicates(self._num_shards, self._run.spill)
        return (
            {"clean": placed, "duplicates": duplicates}
            | "ByCopy" >> self._group(clean="image_id", duplicates="image_id")
            | mined_images.FindCopies()
        )

    def _read_labels(self, pipeline):
        config = self._config
        mapping = column_mapping("label_columns", config.label_columns, LABEL_FIELDS)
        read = functools.partial(read_table, mapping=mapping)
        parse = functools.partial(_parse_labels, run=self._run, deletions=self._deletions)
        files = pipeline | "NoLabels" >> beam.Create([])
        if config.labels:
            listed = pipeline | "LabelFiles" >> ReadTasks(self._run, "labels", LabelFile.of_json)
            files = listed | "Paths" >> beam.Map(lambda file: file.path)
        return files | "ReadLabels" >> ReadRows("labels", read, parse, self._run, ("labels",))


def _parse_labels(table: pa.Table, run: Run, deletions: FromFiles[Deletions]) -> Output:
    return parse_labels(table, run, deletions().key_array)
