"""What a model family says of itself, and the form in which all of them tell how well they do.

A family is a folder beside this file, with the same file names as its siblings: `family.py` holds
its `Family`, `train.py` trains it. Its trainer writes what `write` writes into the table
"evaluation" of its dataset. From there the report and the gate know it; from its row in the table
of stages do the command line and the runs. No list of families is kept anywhere else.
"""

import dataclasses
import io
import itertools
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.datasets.dataset import Dataset

# What a family makes decides which of the gate's checks apply.
KINDS = ("labels", "ranking", "text")
TABLE = "evaluation"
FILE, CASES = "family.json", "cases.parquet"


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of an evaluation: its title for people, and whether more of it is better."""

    title: str
    more_is_better: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What a model family says of itself.

    Attributes:
      name: its folder, its dataset, and the word after `train`.
      title: for people.
      makes: one of `KINDS`: "labels" of an image, a "ranking" of a collection, or "text".
      reads: name → shape of each vector that it takes; None where any length will do.
      metrics: name → what it is.
      systems: name → title of the network and of its rivals, which are measured on the same cases.
      main: the system that is used.

    Raises:
      PhraseLensError: `makes` is no kind, or `main` none of the systems.
    """

    name: str
    title: str
    makes: str
    reads: Mapping[str, tuple[int | None, ...]]
    metrics: Mapping[str, Metric]
    systems: Mapping[str, str]
    main: str

    def __post_init__(self):
        for value, known in ((self.makes, KINDS), (self.main, tuple(self.systems))):
            if value not in known:
                raise PhraseLensError(
                    f"family {self.name}: {value!r}", f"one of {', '.join(known)}", "Correct it."
                )

    def check_reads(self, vectors: Mapping[str, tuple[int, ...]], of: str) -> None:
        """Refuses a dataset that lacks a vector, or has it in another shape.

        Args:
          vectors: name → shape of those that are there.
          of: the dataset, for the error.

        Raises:
          PhraseLensError: the family cannot read them.
        """
        for name, wanted in self.reads.items():
            found = vectors.get(name, ())
            lengths = itertools.zip_longest(wanted, found, fillvalue=0)
            if any(want not in (None, have) or not have for want, have in lengths):
                shape = ", ".join("any" if w is None else str(w) for w in wanted)
                raise PhraseLensError(
                    f"vectors {name} of {of}",
                    f"shape [{shape}], found {list(found) if found else 'none'}",
                    "Make the dataset again with the stage that writes them.",
                )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well a trained family does.

    Attributes:
      family: which one.
      cases: test cases: images, sentences or queries.
      figures: system → metric → value; NaN where it has none.
    """

    family: Family
    cases: int
    figures: Mapping[str, Mapping[str, float]]


def write(
    folder: str,
    evaluation: Evaluation,
    case_ids: Sequence[str] = (),
    values: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes an evaluation into a folder that becomes the table "evaluation".

    Args:
      folder: local, is made.
      evaluation: of the test split.
      case_ids: [cases], such as image ids; by them the gate compares two models case by case.
      values: metric → [cases] float, of the main system, of the metrics that a single case has.
    """
    os.makedirs(folder, exist_ok=True)
    told = dataclasses.asdict(evaluation)
    told["figures"] = {
        system: {name: None if np.isnan(value) else float(value) for name, value in of.items()}
        for system, of in evaluation.figures.items()
    }
    with open(os.path.join(folder, FILE), "w", encoding="utf-8") as file:
        json.dump(told, file, indent=1, ensure_ascii=False)
    if values is not None:
        columns = {name: pa.array(of, pa.float64()) for name, of in values.items()}
        table = pa.table({"case_id": pa.array(case_ids, pa.string())} | columns)
        pq.write_table(table, os.path.join(folder, CASES))


def read(dataset: Dataset) -> Evaluation | None:
    """The evaluation of a family's dataset; None of another dataset."""
    if TABLE not in dataset.manifest.tables:
        return None
    path = storage.join(dataset.folder(TABLE), FILE)
    if not storage.exists(path):
        return None
    told = json.loads(storage.read_bytes(path))
    fields = told["family"]
    fields["metrics"] = {name: Metric(**of) for name, of in fields["metrics"].items()}
    fields["reads"] = {name: tuple(shape) for name, shape in fields["reads"].items()}
    figures = {
        system: {name: np.nan if value is None else value for name, value in of.items()}
        for system, of in told["figures"].items()
    }
    return Evaluation(Family(**fields), told["cases"], figures)


def evaluations(datasets: Mapping[str, Dataset]) -> dict[str, Evaluation]:
    """Name → evaluation of those datasets that hold a family's."""
    found = {name: read(dataset) for name, dataset in datasets.items()}
    return {name: evaluation for name, evaluation in found.items() if evaluation is not None}


def read_cases(dataset: Dataset) -> pa.Table | None:
    """`case_id` and a column for each metric that a single case has; None where none has."""
    path = storage.join(dataset.folder(TABLE), CASES)
    return pq.read_table(io.BytesIO(storage.read_bytes(path))) if storage.exists(path) else None
