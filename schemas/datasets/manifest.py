"""A dataset is a manifest: what no manifest names does not exist.

A stage writes the shards of its tables under `<dataset>/runs/<run_id>/` and commits
`<dataset>/manifest.json` last. Readers open the manifest and never glob, because a
re-run with fewer shards leaves old files beside new ones. A copy of the manifest lies in the
run's folder, so that a run can still be opened after later ones: snapshots name runs.
"""

import dataclasses
import json
import logging

from schemas.base import fingerprint, storage
from schemas.base.errors import (
    PhraseLensError,
)

_LOG = logging.getLogger(__name__)
FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
RUNS = "runs"
GRAPH_FILES = ("/saved_model.pb", "/fingerprint.pb")


@dataclasses.dataclass(frozen=True, order=True)
class Shard:
    """One file of a table.

    Attributes:
      path: relative to the dataset's folder.
      index: place among the table's shards; rows of one id share an index.
      rows: rows (Parquet), records (TFRecord) or 0 (any other file).
      bytes: size of the file.
      sha256: hex digest of the file's bytes.
      group: a part of the table that is read by itself, such as a split; "" for none.
    """

    path: str
    index: int
    rows: int
    bytes: int
    sha256: str
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A named part of a dataset: `format` is parquet, tfrecord or files."""

    format: str
    schema: str
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What one run of a stage produced, and from what.

    Attributes:
      stage: the stage's name.
      run_id: names the folder of the shards.
      fingerprint: of config, code and inputs; an equal one means the same work.
      config: the settings that decide rows.
      code: fingerprint of the stage's sources.
      inputs: name → content hash of each input.
      models: name → fingerprint of each model that was used.
      model_fingerprint: of the model that this dataset holds; "" when it holds none.
      num_shards: shards that the tables were partitioned into.
      tables: the tables by name.
      counters: `<rows>.in`, `<rows>.out`, `<rows>.dropped_<reason>` and others.
      retry_of: fingerprint of the work whose dead rows this run has tried again; "" of others.
    """

    stage: str
    run_id: str
    fingerprint: str
    config: dict
    code: str
    inputs: dict[str, str]
    models: dict[str, str]
    tables: dict[str, Table]
    counters: dict[str, int]
    model_fingerprint: str = ""
    num_shards: int = 0
    retry_of: str = ""
    format_version: int = FORMAT_VERSION

    def is_of(self, work: str) -> bool:
        """Whether it did the work of this fingerprint, or did its dead rows again."""
        return work in (self.fingerprint, self.retry_of)

    @property
    def dead_rows(self) -> int:
        """Rows of its table of dead letters."""
        return self.tables["dead_letters"].rows if "dead_letters" in self.tables else 0

    @property
    def content_hash(self) -> str:
        """Equal for equal content: what a later stage takes as its input's identity.

        Dead letters, which name their run, are no content.
        Model files hold dates, so a model is known by its weights. The graph of a SavedModel
        holds temporary paths; what tf.Transform learned is known by the examples it made.
        """
        if self.model_fingerprint:
            return self.model_fingerprint
        return fingerprint.of_json(
            {
                name: sorted(s.sha256 for s in table.shards if not s.path.endswith(GRAPH_FILES))
                for name, table in self.tables.items()
                if name != "dead_letters"
            }
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "manifest") -> "Manifest":
        """Reads what any version up to this one wrote; `source` is its path, for errors.

        Raises:
          PhraseLensError: a later version wrote it, or it is damaged.
        """
        try:
            fields = json.loads(text)
            version = int(fields["format_version"])
        except (ValueError, TypeError, KeyError) as error:
            raise _unreadable(source, error) from error
        if version > FORMAT_VERSION:
            raise PhraseLensError(
                f"{source} of format {version}",
                f"format {FORMAT_VERSION} or older",
                "Read it with the newer version of PhraseLens that wrote it.",
            )
        try:
            tables = {
                name: Table(
                    table["format"],
                    table["schema"],
                    tuple(Shard(**_known(Shard, shard)) for shard in table["shards"]),
                )
                for name, table in fields.pop("tables").items()
            }
            return cls(tables=tables, **_known(cls, fields))
        except (TypeError, KeyError, AttributeError) as error:
            raise _unreadable(source, error) from error


def _known(cls: type, fields: dict) -> dict:
    """The fields that this version reads: an older one may have written others."""
    return {f.name: fields[f.name] for f in dataclasses.fields(cls) if f.name in fields}


def _unreadable(source: str, error: Exception) -> PhraseLensError:
    lacks = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
    return PhraseLensError(
        f"{source}, which {lacks}",
        f"a manifest of format {FORMAT_VERSION}",
        "Remove that file, then run the stage that writes it.",
    )


def run_folder(dataset: str, run_id: str) -> str:
    """The folder of a run: what a dataset is opened at, to read that run and no later one."""
    return storage.join(dataset, RUNS, run_id)


def root_of(path: str, manifest: Manifest) -> str:
    """The folder of the dataset that was opened at `path`: itself, or the folder of a run."""
    return path.rstrip("/").removesuffix(f"/{RUNS}/{manifest.run_id}")


def read(dataset: str, run_id: str = "") -> Manifest | None:
    """The manifest of a dataset, or None when nothing is committed.

    Args:
      dataset: its folder, or the folder of one of its runs.
      run_id: the run, if not the last one.
    """
    folder = run_folder(dataset, run_id) if run_id else dataset.rstrip("/")
    try:
        path = storage.join(folder, FILE_NAME)
        return Manifest.from_json(storage.read_bytes(path), path)
    except FileNotFoundError:
        pass
    # Runs from before manifests were copied into them can be opened while they are the last.
    root, runs, run_id = folder.rpartition(f"/{RUNS}/")
    last = read(root) if runs else None
    return last if last and last.run_id == run_id else None


def shards_of(manifest: Manifest) -> list[Shard]:
    return [shard for table in manifest.tables.values() for shard in table.shards]
