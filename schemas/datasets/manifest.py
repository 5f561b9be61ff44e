"""A dataset is a manifest: what no manifest names does not exist.

A stage writes the shards of its tables under `<dataset>/runs/<run_id>/` and commits
`<dataset>/manifest.json` last. Readers open the manifest and never glob, because a
re-run with fewer shards leaves old files beside new ones. A copy of the manifest lies in the
run's folder, so that a run can still be opened after later ones: snapshots name runs.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.base import fingerprint, storage
from schemas.base.errors import (
    Exit,
    PhraseLensError,
    RivalCommitError,
    UnavailableError,
    known,
    tell,
)
from schemas.console import heartbeat
from schemas.datasets import shard_files
from schemas.datasets.records import Record
from schemas.datasets.shard_files import open_parquet

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


def token(dataset: str) -> str:
    """A value that changes with every commit, to be passed to `commit`; "" for no commit yet."""
    return version(storage.join(dataset, FILE_NAME))


def version(path: str) -> str:
    """A value that changes whenever `replace` replaces the file; "" where there is none."""
    if path.startswith(storage.GCS_PREFIX):
        blob = storage.google_blob(path)
        return str(blob.generation) if blob.exists() and not blob.reload() else ""
    try:
        return hashlib.sha256(storage.read_bytes(path)).hexdigest()
    except FileNotFoundError:
        return ""


def commit(dataset: str, manifest: Manifest, seen: str) -> bool:
    """Makes `manifest` the current one, in one atomic step, after checking its files.

    Args:
      dataset: the dataset's folder.
      manifest: what to commit.
      seen: `token(dataset)` as it was when the run started.

    Returns:
      True, or False when a rival has committed the same work already.

    Raises:
      RivalCommitError: a rival has committed other work since `seen`.
      UnavailableError: a shard is missing or has another size.
    """
    if cut := next(_cut_shards(dataset, manifest), None):
        shard, found = cut
        raise UnavailableError(
            storage.join(dataset, shard.path),
            f"{shard.bytes} bytes, found {'no file' if found is None else found}",
            "Check the disk or bucket and run the stage again.",
        )
    data = manifest.to_json().encode()
    if token(dataset) != seen:
        return lose(dataset, manifest.fingerprint)
    storage.write_bytes(storage.join(run_folder(dataset, manifest.run_id), FILE_NAME), data)
    return replace(storage.join(dataset, FILE_NAME), data, seen) or lose(
        dataset, manifest.fingerprint
    )


def is_whole(dataset: str, manifest: Manifest) -> bool:
    """Whether each file that a manifest names is there, with its size."""
    return next(_cut_shards(dataset, manifest), None) is None


def _cut_shards(dataset: str, manifest: Manifest) -> Iterator[tuple[Shard, int | None]]:
    """Shards of another size than the manifest says, and that size; None where there is no file."""
    folder = f"{RUNS}/{manifest.run_id}"
    listed = storage.list_sizes(storage.join(dataset, folder))
    sizes = {f"{folder}/{name}": size for name, size, _ in listed}
    for shard in shards_of(manifest):
        found = sizes.get(shard.path)
        if found != shard.bytes:
            yield shard, found


def replace(path: str, data: bytes, seen: str) -> bool:
    """Replaces a small file in one atomic step, if nobody has since `seen`.

    Args:
      path: the file.
      data: what it shall hold.
      seen: `version(path)` when what it held was read.

    Returns:
      False when a rival was faster: nothing has changed then.
    """
    if path.startswith(storage.GCS_PREFIX):
        from google.api_core.exceptions import PreconditionFailed

        ours = storage.google_blob(path)
        ours.metadata = {"writer": uuid.uuid4().hex}
        try:
            ours.upload_from_string(data, if_generation_match=int(seen or 0))
        except PreconditionFailed:
            # The client tries an upload again whose answer was lost: the rival may be itself.
            last = ours.bucket.get_blob(ours.name)
            return last is not None and last.metadata == ours.metadata
        return True
    with _lock(os.path.dirname(path)):
        if version(path) != seen:
            return False
        partial = f"{path}{storage.PARTIAL}{uuid.uuid4().hex}"
        with open(partial, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    return True


def lose(dataset: str, fingerprint: str) -> bool:
    """What a run comes to that finds another commit than the one it saw at its start.

    Returns:
      False: a rival did the same work, of this fingerprint.

    Raises:
      RivalCommitError: it was other work.
    """
    rival = read(dataset)
    if rival is not None and rival.is_of(fingerprint):
        _LOG.warning("%s: another run has committed the same work before this one", dataset)
        return False
    raise RivalCommitError(
        storage.join(dataset, FILE_NAME),
        "no other commit while this run worked",
        f"Run {rival.run_id if rival else '?'} won; run this stage again if its result is wanted.",
    )


@contextlib.contextmanager
def _lock(dataset: str) -> Iterator[None]:
    """Held by one process at a time; the system frees it when the process dies."""
    os.makedirs(dataset, exist_ok=True)
    with open(os.path.join(dataset, ".commit.lock"), "w", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def shards_of(manifest: Manifest) -> list[Shard]:
    return [shard for table in manifest.tables.values() for shard in table.shards]


class Dataset:
    """A committed dataset, opened for reading.

    Args:
      root: its folder, or the folder of one of its runs.
      run_id: the run to read, if not the last one.

    Raises:
      PhraseLensError: nothing is committed there.
    """

    def __init__(self, root: str, run_id: str = ""):
        manifest = read(root, run_id)
        if manifest is None:
            raise PhraseLensError(
                run_folder(root, run_id) if run_id else root,
                f"a committed dataset ({FILE_NAME})",
                "Run the stage that writes it, or check the path.",
            )
        self.root = root_of(root, manifest)
        self.manifest = manifest

    def shards(self, table: str, group: str = "") -> list[Shard]:
        """The shards of a table, by index; of one group when `group` is given."""
        if table not in self.manifest.tables:
            raise PhraseLensError(
                f"table {table!r} of {self.root}",
                f"one of {sorted(self.manifest.tables)}",
                f"This dataset was written by {self.manifest.stage}; check the path.",
            )
        shards = self.manifest.tables[table].shards
        return sorted((s for s in shards if group in ("", s.group)), key=lambda s: s.index)

    def path(self, shard: Shard) -> str:
        return storage.join(self.root, shard.path)

    def check(self, shard: Shard) -> None:
        """Compares a shard with its size and checksum. Raises CorruptError."""
        shard_files.check(self.path(shard), shard.bytes, shard.sha256)

    def folder(self, table: str) -> str:
        """The folder that holds a table's files."""
        return storage.join(self.run_folder, table)

    @property
    def run_folder(self) -> str:
        """Opens this very run for ever, whatever is committed later."""
        return run_folder(self.root, self.manifest.run_id)

    def batches(
        self, table: str, columns: Sequence[str] | None = None, batch_size: int = 1024
    ) -> Iterator[pa.RecordBatch]:
        """Streams a Parquet table in the order of its shards."""
        for shard in self.shards(table):
            with open_parquet(self.path(shard)) as file:
                expected = self.manifest.tables[table].schema
                if expected and schema_fingerprint(file.schema_arrow) != expected:
                    raise ValueError("its schema is not the table's")  # named, where it is damaged
                yield from file.iter_batches(batch_size, columns=columns)

    def table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole Parquet table in memory.

        Raises:
          PhraseLensError: the dataset holds no row of it.
        """
        batches = list(self.batches(table, columns, batch_size=65536))
        if not batches:
            raise PhraseLensError(
                f"table {table!r} of {self.root}", "at least one row", "Check the stage's input."
            )
        return pa.Table.from_batches(batches)


def write_parquet(dataset: str, path: str, index: int, table: pa.Table, group: str = "") -> Shard:
    """Writes one Parquet shard and describes it.

    Args:
      dataset: the dataset's folder.
      path: the shard's path relative to it.
      index: the shard's index.
      table: its rows, already sorted.
      group: see `Shard`.
    """
    buffer = pa.BufferOutputStream()
    columns = _parquet_columns(table.schema)
    pq.write_table(
        table,
        buffer,
        row_group_size=1024,
        # JPEG and PNG are compressed already.
        write_page_checksum=True,  # so that whoever reads a page knows that it is what was written
        compression={name: "none" if name == "image" else "zstd" for name, _ in columns},
        # Numbers of vectors hardly repeat, nor do images: a dictionary is larger and slower.
        use_dictionary=[
            name
            for name, kind in columns
            if name != "image" and not (".list." in name and kind in ("FLOAT", "DOUBLE"))
        ],
    )
    return write_shard(dataset, path, index, table.num_rows, buffer.getvalue(), group)


def _parquet_columns(schema: pa.Schema) -> list[tuple[str, str]]:
    """Name ("a.list.element" within a list) and physical type of the columns that Parquet has."""
    buffer = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), buffer)
    found = pq.ParquetFile(pa.BufferReader(buffer.getvalue())).schema
    return [(found.column(i).path, found.column(i).physical_type) for i in range(len(found))]


def write_shard(
    dataset: str, path: str, index: int, rows: int, data: bytes | pa.Buffer, group: str = ""
) -> Shard:
    """Writes the bytes of one shard and describes it."""
    storage.write_bytes(storage.join(dataset, path), data)
    return Shard(path, index, rows, len(data), hashlib.sha256(data).hexdigest(), group)


def describe_files(dataset: str, folder: str, names: Sequence[str], group: str = "") -> list[Shard]:
    """Describes files already written below `folder` (relative to the dataset)."""
    paths = [f"{folder}/{name}" for name in names]
    return [
        Shard(
            path,
            index,
            0,
            storage.size(storage.join(dataset, path)) or 0,
            storage.sha256(storage.join(dataset, path)),
            group,
        )
        for index, path in enumerate(paths)
    ]


def count_tfrecords(path: str) -> int:
    """Records of a TFRecord file, whose CRCs of lengths and data must hold.

    Raises:
      ValueError: a record is cut or its checksum is wrong.
    """
    import google_crc32c

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    records = 0
    with storage.open_input(path) as f:
        while header := f.read(12):
            length = int.from_bytes(header[:8], "little")
            if len(header) < 12 or masked(header[:8]) != header[8:]:
                raise ValueError(f"record {records}: bad length")
            data, footer = f.read(length), f.read(4)
            if len(data) < length or masked(data) != footer:
                raise ValueError(f"record {records}: cut or corrupt")
            records += 1
    return records


def verify(dataset: str) -> list[str]:
    """Checks a dataset against its manifest; returns a line for each thing wrong with it.

    Every shard must exist with its size, checksum and rows, its schema must be the
    table's, no other file may lie in the run's folder, and the counters must add up.
    """
    opened = Dataset(dataset)
    manifest, problems = opened.manifest, []
    shards = [(n, table, shard) for n, table in manifest.tables.items() for shard in table.shards]
    for name, table, shard in heartbeat.counted(f"verify {dataset}", shards, "files"):
        problem = _verify_shard(opened, table, shard)
        if problem:
            problems.append(f"{name}: {shard.path}: {problem}")
    problems += [
        f"{path}: foreign file, the manifest does not name it" for path in foreign_files(opened)
    ]
    problems += unbalanced(manifest.counters)
    return problems


def check_inputs(folders: Iterable[str], contents: bool = False) -> None:
    """Refuses datasets of which a shard is gone or cut: a TFRecord may read well up to the cut.

    Args:
      folders: of the datasets, or of runs.
      contents: compare checksums too; for when something has failed, since it reads all of them.

    Raises:
      CorruptError: names the shard.
    """
    for folder in folders:
        opened = Dataset(folder)
        cut = [shard for shard, _ in _cut_shards(opened.root, opened.manifest)]
        for shard in shards_of(opened.manifest) if contents else cut:
            opened.check(shard)


def tell_of_inputs(error: Exception, folders: Iterable[str]) -> Exit:
    """Prints what a command failed of; returns its exit status. A bug is raised again.

    What a library says of a damaged file does not name it: where nobody knows better, the inputs
    are compared with their checksums.
    """
    if known(error) is None:
        try:
            with heartbeat.doing("compares the inputs with their checksums"):
                check_inputs(folders, contents=True)
        except PhraseLensError as damage:
            return tell(damage)
        except OSError:
            pass  # the error itself says more
    return tell(error)


def foreign_files(dataset: Dataset) -> list[str]:
    """Files in a run's folder that its manifest does not name, relative to the dataset."""
    named = {shard.path for shard in shards_of(dataset.manifest)}
    found = []
    for file in storage.list_files(dataset.run_folder):
        path = f"{RUNS}/{dataset.manifest.run_id}/{file}"
        ours = file == FILE_NAME or file.endswith(Record.SUFFIX) or storage.PARTIAL in file
        if path not in named and not ours:
            found.append(path)
    return found


def _verify_shard(dataset: Dataset, table: Table, shard: Shard) -> str | None:
    path = dataset.path(shard)
    found = storage.size(path)
    if found is None:
        return "missing"
    if found != shard.bytes:
        return f"has {found} bytes, the manifest says {shard.bytes}"
    if storage.sha256(path) != shard.sha256:
        return "checksum differs: its bytes were changed"
    try:
        if table.format == "parquet":
            with open_parquet(path) as file:
                rows = file.metadata.num_rows
                if schema_fingerprint(file.schema_arrow) != table.schema:
                    return "its schema is not the table's"
        elif table.format == "tfrecord":
            rows = count_tfrecords(path)
        else:
            return None
    except (pa.ArrowInvalid, ValueError) as error:
        return str(error)
    return None if rows == shard.rows else f"has {rows} rows, the manifest says {shard.rows}"


def unbalanced(counters: dict[str, int]) -> list[str]:
    """A line for each kind of row where in ≠ out + dropped."""
    problems = []
    for key in sorted(counters):
        kind, _, what = key.partition(".")
        if what == "in":
            dropped = sum(v for k, v in counters.items() if k.startswith(f"{kind}.dropped_"))
            out = counters.get(f"{kind}.out", 0)
            if counters[key] != out + dropped:
                problems.append(
                    f"{kind}: {counters[key]} in, but {out} out + {dropped} dropped: rows were lost"
                )
    return problems


def schema_fingerprint(schema: pa.Schema) -> str:
    """Hex SHA-256 of the names and types of a schema's columns."""
    # Parquet calls the items of a list "element", Arrow "item".
    columns = [[f.name, str(f.type).replace("<element: ", "<item: ")] for f in schema]
    return fingerprint.of_json(columns)
