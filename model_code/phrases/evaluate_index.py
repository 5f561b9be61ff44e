"""Measures kinds of phrase indexes on the phrases and images of a dataset.

Builds each kind from the phrases' vectors, asks it for the phrases of images, and compares
with an exact scan. Half of the images tune it, the other half ask. `stored` is the index as
embed_phrases left it. Prints a table: recall@N; milliseconds for a batch of 64 images, with
and without the probability; bytes of the index's file and of what each process holds for
itself; how far log Z, the denominator of equation (1), is off.

  ./run.sh evaluate_index --phrases work/phrases
  ./run.sh evaluate_index --phrases work/phrases --features work/features --output work/kinds.json
"""

import concurrent.futures
import ctypes
import dataclasses
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from schemas.base import fingerprint, storage
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.datasets import integrity
from schemas.datasets.dataset import Dataset
from schemas.runs import command_line
from schemas.tables.arrays import load_array
from schemas.tables.vectors import arrow_to_vectors

KINDS = ("stored", "flat", "ivf_flat", "hnsw", "ivf_pq")
BATCH = 64
TABLES = (
    "query_vectors.npy",
    "text_embs.npy",
    "query_ids.npy",
    "queries.parquet",
    "queries.arrow",
    "partition_rows.npy",
)


@dataclasses.dataclass(frozen=True)
class Config:
    phrases: str = flag("Dataset of embed_phrases.", role="input")
    features: str = flag(
        "Dataset of embed_images whose images ask, instead of those in --phrases.",
        default="",
        role="input",
    )
    kinds: tuple[str, ...] = flag("Kinds to measure.", default=KINDS, essential=True)
    num_phrases: int = flag("Phrases of an image, N.", default=3, minimum=1)
    images: int = flag("Images that tune and ask.", default=2048, minimum=1)
    index_recall: float = flag("Recall@3 to tune for.", default=0.99, above=0, maximum=1)
    output: str = flag("JSON file to write the figures to.", default="", role="output")


@dataclasses.dataclass(frozen=True)
class Measured:
    """One index on one set of images.

    Attributes:
      name: of the kind.
      recall: @N against an exact scan.
      batch_ms: median for 64 images, phrases alone.
      probability_ms: what their probabilities take on top.
      queries_per_second: phrases alone, one batch after the other.
      file_bytes: of the index's file.
      private_bytes: memory that a process does not share after it opened the index.
      build_seconds: to train, fill and tune; None where it was there.
      log_partition_error: median and 95 % quantile of |log Ẑ − log Z|.
      effort: what was tuned.
    """

    name: str
    recall: float
    batch_ms: float
    probability_ms: float
    queries_per_second: float
    file_bytes: int
    private_bytes: int
    build_seconds: float | None
    log_partition_error: tuple[float, float]
    effort: dict[str, int]


def build_kind(
    tables: str, folder: str, kind: str, *, recall: float, probes: np.ndarray, temperature: float
) -> float:
    """Builds an index of one kind beside links to existing tables, with all cores.

    Args:
      tables: folder with TABLES.
      folder: an empty folder.
      kind: its name.
      recall: to tune for.
      probes: [n, M] float32.
      temperature: τ of equation (1).

    Returns:
      Seconds.
    """
    import faiss

    from model_code.index import kinds as index_kinds
    from model_code.index.choice import IndexSettings, choose_kind
    from model_code.phrases import folder as folder_lib

    for name in TABLES:
        os.symlink(os.path.abspath(os.path.join(tables, name)), os.path.join(folder, name))
    start = time.monotonic()
    vectors, query_ids = folder_lib.open_vectors(folder)
    settings = IndexSettings(kind, recall)
    chosen = choose_kind(len(vectors), vectors.shape[1], settings)
    sample = folder_lib.training_sample(query_ids, chosen)
    index = index_kinds.build(chosen, vectors, sample, faiss.omp_get_max_threads())
    folder_lib.save_index(
        folder, chosen, index, temperature=temperature, settings=settings, probes=probes
    )
    return time.monotonic() - start


def private_bytes() -> int:
    """Memory that this process holds and that is no file's, in bytes (Linux with glibc)."""
    # What was freed does not count, though the allocator keeps it.
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/smaps_rollup", encoding="utf-8") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("Anonymous:"))


def time_batches(ask: Any, questions: np.ndarray) -> tuple[float, float]:
    """Median milliseconds of a batch, and questions per second; the second round counts."""
    batches = [questions[start : start + BATCH] for start in range(0, len(questions), BATCH)]
    for batch in batches:
        ask(batch)
    seconds = []
    for batch in batches:
        start = time.perf_counter()
        ask(batch)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) * 1e3, len(questions) / sum(seconds)


@dataclasses.dataclass(frozen=True)
class Exact:
    """Questions, and what an exact scan answers.

    Attributes:
      questions: [n, M] float32.
      scores: [n, N] float32, of the N nearest.
      log_partitions: [m ≤ n] float64, log Z of the first questions.
    """

    questions: np.ndarray
    scores: np.ndarray
    log_partitions: np.ndarray


def measure(name: str, folder: str, exact: Exact, build_seconds: float | None) -> Measured:
    """Measures a saved index in this process, which should be a fresh one.

    Args:
      name: of the kind.
      folder: the index.
      exact: what it is compared with.
      build_seconds: how long it was built.
    """
    from model_code.index import partition
    from model_code.index.tuning import recall
    from model_code.phrases.index import PhraseIndex

    before = private_bytes()
    index = PhraseIndex(folder)
    private = private_bytes() - before
    questions, count = exact.questions, exact.scores.shape[1]

    def nearest(batch: np.ndarray):
        return index.searcher.nearest(batch, count, index.effort)

    batch_ms, rate = time_batches(nearest, questions)
    whole_ms, _ = time_batches(lambda batch: index.search(batch, count), questions)
    rows, scores = nearest(questions)
    some = slice(len(exact.log_partitions))
    sampled = load_array(os.path.join(folder, "partition_rows.npy"))
    estimates = partition.estimate(
        questions[some],
        rows[some],
        scores[some],
        num_phrases=len(index),
        sampled=sampled,
        sample=index.query_vectors[sampled],
        temperature=index.temperature,
    )
    errors = np.quantile(np.abs(estimates - exact.log_partitions), (0.5, 0.95))
    path = os.path.join(folder, "index.faiss")
    return Measured(
        name=name,
        recall=recall(scores, exact.scores),
        batch_ms=batch_ms,
        probability_ms=max(whole_ms - batch_ms, 0.0),
        queries_per_second=rate,
        file_bytes=os.path.getsize(path) if os.path.exists(path) else 0,
        private_bytes=private,
        build_seconds=build_seconds,
        log_partition_error=(float(errors[0]), float(errors[1])),
        effort=dataclasses.asdict(index.effort),
    )


def apart(function: Callable[..., Measured], *args: Any) -> Measured:
    """Calls a function in a process of its own, so that its memory is the index's."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *args).result()


def choose_questions(config: Config) -> np.ndarray:
    """Query embeddings of images [n, M] float32, the same ones for the same images.

    Raises:
      PhraseLensError: there are fewer than two images.
    """
    dataset, table = config.phrases, "image_embs"
    if config.features:
        dataset, table = config.features, "features"
    rows = Dataset(dataset).table(table, ["image_id", "query_emb"])
    order = np.argsort(fingerprint.hash64_array(rows["image_id"]), kind="stable")
    if len(order) < 2:
        raise PhraseLensError(f"table {table} of {dataset}", "two images or more", "Name another.")
    return np.ascontiguousarray(arrow_to_vectors(rows["query_emb"])[order[: config.images]])


def evaluate(config: Config) -> list[Measured]:
    """Measures every kind that is asked for.

    Raises:
      PhraseLensError: there is no such kind, dataset or table.
    """
    for name in config.kinds:
        if name not in KINDS:
            raise PhraseLensError(f"--kinds {name}", f"some of {', '.join(KINDS)}", "See --help.")
    opened = Dataset(config.phrases)
    opened.shards("index")
    images = choose_questions(config)
    with integrity.local_copy(opened, "index") as stored:
        return list(_evaluate(config, stored, images[0::2], images[1::2]))


def _evaluate(config: Config, stored: str, probes, questions) -> Iterable[Measured]:
    from model_code.index import partition
    from model_code.phrases.index import PhraseIndex

    index = PhraseIndex(stored)
    count = min(config.num_phrases, len(index))
    _, exact_scores = index.searcher.exact(questions, count)
    some = questions[:256]
    log_partitions = partition.exact(some, index.query_vectors, index.temperature)
    exact = Exact(questions, exact_scores, log_partitions)
    for name in config.kinds:
        with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
            seconds = None
            if name != "stored":
                seconds = build_kind(
                    stored,
                    folder,
                    name,
                    recall=config.index_recall,
                    probes=probes,
                    temperature=index.temperature,
                )
            yield apart(measure, name, stored if name == "stored" else folder, exact, seconds)


HEAD = """\
| index | recall | ms / 64 | with p | queries/s | file, MiB | private, MiB | build, s | log Z off |
|---|---:|---:|---:|---:|---:|---:|---:|---:|"""


def table(rows: Iterable[Measured]) -> str:
    """The figures as a Markdown table."""
    lines = [HEAD]
    for row in rows:
        built = "–" if row.build_seconds is None else f"{row.build_seconds:,.1f}"
        median, most = row.log_partition_error
        lines.append(
            f"| {row.name} | {row.recall:.4f} | {row.batch_ms:,.2f} "
            f"| {row.batch_ms + row.probability_ms:,.2f} | {row.queries_per_second:,.0f} "
            f"| {row.file_bytes / 2**20:,.1f} | {row.private_bytes / 2**20:,.1f} | {built} "
            f"| {median:.4f} (95 %: {most:.4f}) |"
        )
    return "\n".join(lines)


def work(config: Config) -> None:
    rows = evaluate(config)
    print(table(rows))
    if config.output:
        figures = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
        storage.write_bytes(config.output, figures.encode())
        print(f"wrote {config.output}")


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "evaluate_index", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
