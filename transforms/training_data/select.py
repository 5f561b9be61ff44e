"""Which rows of features become examples: labels that are learned, rows that fit the schema."""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from model_code.metrics.labelling import task_of
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.datasets import manifest
from schemas.datasets.shard_files import open_parquet, read_parquet
from schemas.runs.run import Run
from schemas.tables.dead_letters import dead_letters
from schemas.tables.mined import IMAGES, SPLITS
from schemas.tables.vectors import Vectors, vectors_of
from transforms.shards.outputs import COUNTS, DEAD, Output
from transforms.training_data.validation import anomalies, validate

READ_BATCH = 1024
LABEL_COLUMNS = ["image_id", "split", "labels"]
LABELLED = pa.schema([IMAGES.field(name) for name in LABEL_COLUMNS])
ANOMALIES = "anomalies"


def shapes_of(path: str, names: Iterable[str]) -> Vectors:
    """The shapes of named vectors of a features shard.

    Raises:
      PhraseLensError: it has not all of them.
    """
    names = list(names)
    with open_parquet(path) as file:
        schema = file.schema_arrow
    try:
        return vectors_of(schema, names)
    except (KeyError, ValueError) as error:
        raise PhraseLensError(
            f"features {path} ({error})",
            f"columns of vectors {', '.join(names)}",
            "Give the features of a run of embed_images of this version.",
        ) from error


def columns_of(schema) -> list[str]:
    """What is read of features: the columns that their TFMD schema names."""
    return [feature.name for feature in schema.feature]


@dataclasses.dataclass(frozen=True)
class Selection:
    """What is learned.

    Attributes:
      labels: the labels.
      task: "single" (one label an image) or "multi" (any number).
    """

    labels: frozenset[str]
    task: str


LabelSet = tuple[bool, tuple[str, ...]]  # whether an image trains, and its labels


def label_sets(table: pa.Table) -> Counter[LabelSet]:
    """How many of some rows of LABELLED have which labels: as many entries as there are sets."""
    trains = pc.equal(table["split"], "train").to_pylist()
    return Counter(zip(trains, map(tuple, table["labels"].to_pylist()), strict=True))


def select(counted: Iterable[tuple[LabelSet, int]], min_label_images: int, task: str) -> Selection:
    """Chooses labels by their support in training: what is held out decides over none.

    Args:
      counted: the sets of labels of all images, and how many have each.
      min_label_images: a label with fewer training images is left out; with 1 all stay, also
        those that only held-out images have.
      task: "single", "multi", or "auto" for what `task_of` finds.
    """
    counted, counts = list(counted), Counter[str]()
    for (trains, labels), images in counted:
        for label in labels if trains or min_label_images == 1 else ():
            counts[label] += images
    chosen = frozenset(label for label, images in counts.items() if images >= min_label_images)
    if task == "auto":
        several, some = 0, 0
        for (_, labels), images in counted:
            kept = len(chosen.intersection(labels))
            several, some = several + images * (kept > 1), some + images * (kept > 0)
        task = task_of(several, some)
    return Selection(chosen, task)


def read_labels(path: str) -> pa.Table:
    """Rows of LABELLED of one features shard, labelled images only."""
    table = read_parquet(path, columns=LABEL_COLUMNS).cast(LABELLED)
    return table.filter(pc.greater(pc.list_value_length(table["labels"]), 0))


class SelectLabels(beam.PTransform):
    """PCollection[path of a features shard] → PCollection of one `Selection`; see `select`."""

    def __init__(self, min_label_images: int, task: str):
        super().__init__()
        self._min_label_images, self._task = min_label_images, task

    def expand(self, paths):
        counted = (
            paths
            | "ReadLabels" >> beam.FlatMap(lambda path: label_sets(read_labels(path)).items())
            | "CountSets" >> beam.CombinePerKey(sum)
        )
        return (
            paths.pipeline
            | "Once" >> beam.Create([None])
            | "Select"
            >> beam.Map(
                lambda _, sets: select(sets, self._min_label_images, self._task),
                beam.pvalue.AsIter(counted),
            )
        )


def select_rows(table: pa.Table, selection: Selection, schema, run: Run) -> tuple[Output, Counter]:
    """Takes the rows of a batch of features that become examples.

    Args:
      table: [n] rows of features.
      selection: what `select` chose; where the task is "single", rows of several labels are dead.
      schema: TFMD schema of the features.
      run: the run, named in dead letters.

    Returns:
      One table for each split, dead letters of rows that break the schema, counts of
      `features`; and how many rows have which anomaly, by (field, what is wrong).
    """
    rows = table.num_rows
    ids = table["image_id"].to_pylist()
    reasons = [""] * rows
    findings = validate(table, schema)
    details: dict[int, str] = {}
    for row, field, text in findings:
        reasons[row] = "schema_anomaly"
        details[row] = f"{details[row]}; {field}: {text}" if row in details else f"{field}: {text}"
    kept = []
    for row, labels in enumerate(table["labels"].to_pylist()):
        labels = labels or []
        chosen = [label for label in labels if label in selection.labels]
        kept.append(chosen)
        if reasons[row]:
            continue
        if not labels:
            reasons[row] = "unlabelled"
        elif not chosen:
            reasons[row] = "rare_label"
        elif selection.task == "single" and len(chosen) > 1:
            reasons[row] = "schema_anomaly"
            details[row] = f"labels: {len(chosen)} labels, expected one; use --task=multi"
            findings.append((row, "labels", "several labels where the task is single"))
    place = table.schema.get_field_index("labels")
    table = table.set_column(place, "labels", pa.array(kept, pa.list_(pa.string())))
    good = table.filter(pa.array([not reason for reason in reasons], pa.bool_()))
    splits = {
        split: good.filter(pc.equal(good["split"], split)).select(columns_of(schema))
        for split in SPLITS
    }
    dead = [row for row in range(rows) if reasons[row] == "schema_anomaly"]
    letters = dead_letters(
        run.name,
        run.run_id,
        "schema_anomaly",
        [ids[row] or "" for row in dead],
        [details[row] for row in dead],
        payloads=[b""] * len(dead),
    )
    dropped = Counter(reason for reason in reasons if reason)
    counts = {"features.in": rows, "features.out": good.num_rows}
    counts |= {f"features.dropped_{reason}": n for reason, n in dropped.items()}
    counts |= {f"examples_{split}.rows": part.num_rows for split, part in splits.items()}
    return Output(splits, (letters,), counts), Counter((field, text) for _, field, text in findings)


class SelectRows(beam.PTransform):
    """PCollection[path of a features shard] → tagged tables by split, dead, counts, anomalies."""

    def __init__(self, selection, schema, run: Run):
        super().__init__()
        self._selection, self._schema, self._run = selection, schema, run

    def _select(self, path, selection):
        with open_parquet(path) as file:
            for batch in file.iter_batches(READ_BATCH, columns=columns_of(self._schema)):
                table = pa.Table.from_batches([batch])
                output, found = select_rows(table, selection, self._schema, self._run)
                yield from output.tagged()
                for item in found.items():
                    yield beam.pvalue.TaggedOutput(ANOMALIES, item)

    def expand(self, paths):
        return paths | beam.FlatMap(
            self._select, beam.pvalue.AsSingleton(self._selection)
        ).with_outputs(DEAD, COUNTS, ANOMALIES, *SPLITS)


def write_anomalies(
    counts: Iterable[tuple[tuple[str, str], int]], run: Run
) -> Iterator[tuple[str, manifest.Shard]]:
    """Publishes the Anomalies proto of ((field, what is wrong), rows)."""
    with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
        storage.write_bytes(f"{folder}/anomalies.pbtxt", anomalies(counts).encode())
        for shard in run.publish("anomalies", folder):
            yield "anomalies", shard


class WriteAnomalies(beam.PTransform):
    """PCollection[((field, what is wrong), rows)] → PCollection[(name, Shard)]."""

    def __init__(self, run: Run):
        super().__init__()
        self._run = run

    def expand(self, found):
        counts = found | "Count" >> beam.CombinePerKey(sum)
        return (
            found.pipeline
            | "Once" >> beam.Create([None])
            | "Write"
            >> beam.FlatMap(
                lambda _, counts: write_anomalies(counts, self._run), beam.pvalue.AsIter(counts)
            )
        )
