"""The phrase index, built in parallel: trained once, filled shard by shard, merged.

Kinds without a quantizer to train are built in one place: flat is the vectors themselves,
and graphs (hnsw) cannot be merged.
"""

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.index.choice import DEFAULT, IndexSettings, Kind, choose_kind
from schemas.base import fingerprint, storage
from schemas.console import heartbeat
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.datasets.shard_files import open_parquet
from schemas.runs.run import Run
from schemas.tables.vectors import arrow_to_vectors
from transforms.inference.folders import ModelFolder

READ_BATCH = 1 << 16
PROBES = 1024


@dataclasses.dataclass(frozen=True)
class Part:
    """A shard of phrases: the rows from `start` on are its own."""

    path: str
    start: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is built, from what.

    Attributes:
      kind: the index's kind.
      parts: the shards of phrases, in the order of their rows.
      images: paths of shards of image_embs, to tune with.
      earlier: the index that is updated; None to build a new one.
    """

    kind: Kind
    parts: tuple[Part, ...]
    images: tuple[str, ...]
    earlier: ModelFolder | None

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def batches(path: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    with open_parquet(path) as file:
        yield from file.iter_batches(READ_BATCH, columns=columns)


def lay_out(
    _: None,
    shards: Iterable[tuple[str, manifest.Shard]],
    run: Run,
    settings: IndexSettings,
    earlier: str,
) -> Layout:
    """Decides the kind and every row's place.

    Args:
      shards: of the tables phrases and, where there are any, image_embs.
      run: the run.
      settings: what is asked of the index.
      earlier: a dataset of phrases whose index may be updated, or "".

    Raises:
      PhraseLensError: there are no phrases, or the kind does not fit into the memory.
    """
    from model_code.phrases.folder import no_phrases

    written = sorted(shards)
    parts, start = [], 0
    for shard in (shard for name, shard in written if name == "phrases"):
        parts.append(Part(run.absolute(shard.path), start, shard.rows))
        start += shard.rows
    if not start:
        raise no_phrases()
    with open_parquet(parts[0].path) as file:
        schema = file.schema_arrow
    width = schema.field("query_vector").type.list_size
    kind = choose_kind(start, width, settings)
    images = tuple(run.absolute(shard.path) for name, shard in written if name == "image_embs")
    layout = Layout(kind, tuple(parts), images, None)
    if earlier:
        layout = dataclasses.replace(layout, earlier=_usable(earlier, layout, run, settings))
    if layout.earlier:
        how = "updated"
    else:
        how = f"built in {len(parts)} parts" if kind.is_mergeable else "built in one place"
    _say(f"{kind.name} of {start:,} phrases, {how}")
    return layout


def _say(what: str) -> None:
    heartbeat.say(f"phrase index: {what}")


def _usable(dataset: str, layout: Layout, run: Run, settings: IndexSettings) -> ModelFolder | None:
    """The index of an earlier dataset if it can be updated; says why not."""
    from model_code.phrases.update import EarlierIndex

    phrases = Dataset(dataset)
    if phrases.manifest.models.get("generator") != run.models.get("generator"):
        _say(f"{dataset} is of another generator")
        return None
    earlier = ModelFolder.of(dataset, "index")
    for shard in phrases.shards("index"):
        phrases.check(shard)
    with storage.local_copy(earlier.path) as folder:
        opened = EarlierIndex(folder)
        found = []
        for part in layout.parts:
            for batch in batches(part.path, ["query_id", "query_vector"]):
                vectors = arrow_to_vectors(batch["query_vector"])
                found.append(opened.match(batch["query_id"].to_numpy(), vectors))
        change = opened.change(*map(np.concatenate, zip(*found, strict=True)))
        _say(
            f"{change.kept:,} phrases as before, {change.added:,} new, {change.changed:,} changed, "
            f"{change.removed:,} gone: drift {opened.drift(change):.1%} of {settings.max_drift:.1%}"
        )
        return earlier if opened.is_usable(change, layout.kind, settings) else None


def _trained_path(run: Run) -> str:
    return storage.join(run.spill, "index/trained.faiss")


def _read_index(path: str) -> Any:
    from model_code.index import kinds as index_kinds

    return index_kinds.from_bytes(storage.read_bytes(path))


def train(layout: Layout, run: Run) -> Iterable[Part]:
    """Trains the quantizer on a sample, and yields the parts that it is to be filled with."""
    if layout.earlier or not layout.kind.is_mergeable:
        return
    from model_code.index import kinds as index_kinds
    from model_code.phrases import folder as folder_lib

    ids = [b["query_id"].to_numpy() for p in layout.parts for b in batches(p.path, ["query_id"])]
    wanted = np.zeros(layout.rows, bool)
    wanted[folder_lib.training_sample(np.concatenate(ids), layout.kind)] = True
    sample, start = [], 0
    for part in layout.parts:
        for batch in batches(part.path, ["query_vector"]):
            vectors = arrow_to_vectors(batch["query_vector"])
            sample.append(vectors[wanted[start : start + len(vectors)]])
            start += len(vectors)
    index = index_kinds.train(layout.kind, np.concatenate(sample))
    storage.write_bytes(_trained_path(run), index_kinds.to_bytes(index))
    yield from layout.parts


def fill(part: Part, run: Run) -> tuple[int, str]:
    """Adds a shard's phrases to an empty copy of the trained index; returns its place and file."""
    from model_code.index import kinds as index_kinds

    index = _read_index(_trained_path(run))
    start = part.start
    for batch in batches(part.path, ["query_vector"]):
        index_kinds.add(index, arrow_to_vectors(batch["query_vector"]), start)
        start += batch.num_rows
    path = storage.join(run.spill, f"index/part-{part.start:012d}.faiss")
    storage.write_bytes(path, index_kinds.to_bytes(index))
    return part.start, path


def finish(
    layout: Layout,
    filled: Iterable[tuple[int, str]],
    run: Run,
    temperature: float,
    settings: IndexSettings,
) -> Iterable[tuple[str, manifest.Shard]]:
    """Merges the parts, or builds what cannot be built in parts, and writes the index's files."""
    from model_code.index import kinds as index_kinds
    from model_code.phrases import folder as folder_lib
    from model_code.phrases import update as index_update

    parts = (_read_index(path) for _, path in sorted(filled))
    with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
        rows = (batch for part in layout.parts for batch in batches(part.path))
        folder_lib.write_tables(folder, rows, layout.rows)
        probes = choose_probes(layout.images)
        if layout.earlier:
            with storage.local_copy(layout.earlier.path) as old:
                opened = index_update.EarlierIndex(old)
                index_update.update(opened, folder, temperature, settings, probes)
        else:
            if layout.kind.is_mergeable:
                index = index_kinds.merge(_read_index(_trained_path(run)), parts)
            else:
                vectors, _ = folder_lib.open_vectors(folder)
                index = index_kinds.build(layout.kind, vectors, np.empty(0, np.int64))
            folder_lib.save_index(
                folder,
                layout.kind,
                index,
                temperature=temperature,
                settings=settings,
                probes=probes,
            )
        for shard in run.publish("index", folder):
            yield "index", shard


def choose_probes(paths: Iterable[str], count: int = PROBES) -> np.ndarray | None:
    """Query embeddings of images [n, M] float32, of those held out where it is known which.

    The same ones for the same images, in whatever shards: those whose ids hash lowest.
    """
    found = []
    for path in paths:
        for batch in batches(path):
            table = pa.Table.from_batches([batch])
            if "split" in table.column_names:
                held_out = pc.equal(table["split"], "validation").to_numpy()
            else:
                held_out = np.zeros(table.num_rows, bool)
            hashes = fingerprint.hash64_array(table["image_id"])
            found.append((~held_out, hashes, arrow_to_vectors(table["query_emb"])))
    if not found:
        return None
    seen, hashes, vectors = (np.concatenate(column) for column in zip(*found, strict=True))
    return vectors[np.lexsort((hashes, seen))[:count]]


class BuildIndex(beam.PTransform):
    """PCollection[(name, Shard)] of phrases and image_embs → PCollection[("index", Shard)].

    Args:
      run: the run.
      temperature: τ of equation (1).
      settings: what is asked of the index.
      earlier: a dataset of phrases; its index is updated where its vectors are of the same
        generator and few of them changed. "" for none.
      hints: resource hints of the steps that hold all vectors.
    """

    def __init__(
        self,
        run: Run,
        temperature: float,
        settings: IndexSettings = DEFAULT,
        earlier: str = "",
        hints: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self._run, self._temperature = run, temperature
        self._settings, self._earlier = settings, earlier
        self._hints = dict(hints or {})

    def expand(self, shards):
        layout = (
            shards.pipeline
            | beam.Create([None])
            | "LayOut"
            >> beam.Map(
                lay_out, beam.pvalue.AsIter(shards), self._run, self._settings, self._earlier
            )
        )
        filled = (
            layout
            | "Train" >> beam.FlatMap(train, self._run).with_resource_hints(**self._hints)
            | beam.Reshuffle()
            | "Fill" >> beam.Map(fill, self._run)
        )
        return layout | "Finish" >> beam.FlatMap(
            finish,
            beam.pvalue.AsIter(filled),
            self._run,
            self._temperature,
            self._settings,
        ).with_resource_hints(**self._hints)
