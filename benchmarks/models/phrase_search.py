"""Search among millions of phrases: kinds of index, scans and hnswlib on the same vectors.

The vectors are drawn: cluster centres are uniform on the sphere, a cluster's share of the
phrases falls with the root of its rank, and a phrase is its centre plus noise, isotropic in
all 64 dimensions, at a cosine of .86 to it. An image is near one phrase in the same way. No
dimension is without noise, which is harder for quantizers and graphs than embeddings of
real images, whose dimensions depend on each other.
"""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model_code.phrases import evaluate_index as index_eval
from model_code.phrases.evaluate_index import Measured, apart, time_batches

WIDTH = 64
CLUSTERS = 50_000
NOISE = 0.6
IMAGES = 1024
COUNT = 3
TEMPERATURE = 0.1
TEMPERATURES = (0.05, 0.1, 0.2, 1.0)
RECALL = 0.99
OURS = ("flat", "ivf_flat", "hnsw", "ivf_pq")
SCAN = "matrix product (TensorFlow)"
ENGINES = (SCAN, *OURS, "hnswlib")
_CHUNK = 1 << 18


def unit(vectors: np.ndarray) -> np.ndarray:
    """[n, M] → [n, M] float32 unit rows."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _near(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(vectors.shape, dtype=np.float32)
    return unit(vectors + noise * np.float32(NOISE / np.sqrt(vectors.shape[1])))


def write_tables(folder: Path, rows: int, seed: int, width: int = WIDTH) -> None:
    """Draws phrases and images, and finds the images' phrases by an exact scan.

    Args:
      folder: gets the tables of an index without texts, probes.npy and questions.npy
        [1024, width] float32, exact_scores.npy [1024, 3] and log_partitions.npy, of the first
        256 questions at each of TEMPERATURES.
      rows: K.
      seed: another one, other vectors.
      width: M.
    """
    from model_code.index import partition
    from model_code.index.choice import Kind
    from model_code.index.search import Searcher
    from model_code.phrases import folder as folder_lib

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, rows])
    clusters = min(CLUSTERS, max(rows // 20, 1))
    centres = unit(rng.standard_normal((clusters, width), dtype=np.float32))
    share = 1 / np.sqrt(np.arange(1, clusters + 1))
    vectors = np.lib.format.open_memmap(
        folder / "query_vectors.npy", "w+", np.float32, (rows, width)
    )
    for start in range(0, rows, _CHUNK):
        size = min(_CHUNK, rows - start)
        chosen = rng.choice(clusters, size, p=share / share.sum())
        vectors[start : start + size] = _near(centres[chosen], rng)
    for name in ("probes", "questions"):
        np.save(folder / f"{name}.npy", _near(vectors[rng.integers(0, rows, IMAGES)], rng))
    query_ids = rng.permutation(rows)
    np.save(folder / "query_ids.npy", query_ids)
    np.save(folder / "partition_rows.npy", folder_lib.partition_sample(query_ids))
    np.lib.format.open_memmap(folder / "text_embs.npy", "w+", np.float32, (rows, 1))
    texts = pa.table({"query": pa.array([], pa.string())})
    pq.write_table(texts, folder / "queries.parquet")
    with pa.ipc.new_file(folder / "queries.arrow", texts.schema) as file:
        file.write_table(texts)
    questions = np.load(folder / "questions.npy")
    _, exact_scores = Searcher(Kind("flat"), None, vectors).exact(questions, COUNT)
    np.save(folder / "exact_scores.npy", exact_scores)
    wholes = [partition.exact(questions[:256], vectors, t) for t in TEMPERATURES]
    np.save(folder / "log_partitions.npy", np.stack(wholes))


def measure_ours(name: str, tables: Path, folder: Path) -> Measured:
    """Builds a kind of index and measures it."""
    read = {
        key: np.load(tables / f"{key}.npy")
        for key in ("probes", "questions", "exact_scores", "log_partitions")
    }
    seconds = index_eval.build_kind(
        str(tables),
        str(folder),
        name,
        recall=RECALL,
        probes=read["probes"],
        temperature=TEMPERATURE,
    )
    log_partitions = read["log_partitions"][TEMPERATURES.index(TEMPERATURE)]
    exact = index_eval.Exact(read["questions"], read["exact_scores"], log_partitions)
    return apart(index_eval.measure, name, str(folder), exact, seconds)


def measure_scan(tables: Path, folder: Path) -> Measured:
    """The product with all vectors at once, and TensorFlow's top_k."""
    return apart(_measure_scan, str(tables))


def _measure_scan(tables: str) -> Measured:
    import tensorflow as tf

    before = index_eval.private_bytes()
    table = tf.constant(np.load(f"{tables}/query_vectors.npy"))
    private = index_eval.private_bytes() - before

    @tf.function
    def nearest(batch):
        return tf.math.top_k(tf.matmul(batch, table, transpose_b=True), COUNT)

    questions = np.load(f"{tables}/questions.npy")[:512]
    batch_ms, rate = time_batches(lambda batch: nearest(tf.constant(batch)), questions)
    return Measured(SCAN, 1.0, batch_ms, 0.0, rate, 0, private, None, (0.0, 0.0), {})


def measure_hnswlib(tables: Path, folder: Path) -> Measured:
    """hnswlib with the links and the search list of our graph's construction."""
    import hnswlib

    from model_code.index.choice import LINKS
    from model_code.index.kinds import EF_CONSTRUCTION

    vectors = np.load(tables / "query_vectors.npy", mmap_mode="r")
    start = time.monotonic()
    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=LINKS, ef_construction=EF_CONSTRUCTION)
    for first in range(0, len(vectors), _CHUNK):
        index.add_items(vectors[first : first + _CHUNK])
    seconds = time.monotonic() - start
    path = folder / "index.hnswlib"
    index.save_index(str(path))
    del index
    return apart(_measure_hnswlib, str(tables), str(path), seconds)


def _measure_hnswlib(tables: str, path: str, seconds: float) -> Measured:
    import hnswlib

    from model_code.index.choice import Kind
    from model_code.index.search import CANDIDATES, Searcher
    from model_code.index.tuning import recall

    vectors = np.load(f"{tables}/query_vectors.npy", mmap_mode="r")
    before = index_eval.private_bytes()
    index = hnswlib.Index("ip", vectors.shape[1])
    index.load_index(path)
    private = index_eval.private_bytes() - before
    flat = Searcher(Kind("flat"), None, vectors)

    def scores(questions: np.ndarray) -> np.ndarray:
        return 1 - index.knn_query(questions, COUNT)[1]

    probes = np.load(f"{tables}/probes.npy")
    _, wanted = flat.exact(probes, COUNT)
    for ef in CANDIDATES:
        index.set_ef(ef)
        if recall(scores(probes), wanted) >= RECALL:
            break
    questions = np.load(f"{tables}/questions.npy")
    batch_ms, rate = time_batches(lambda batch: index.knn_query(batch, COUNT), questions)
    found = recall(scores(questions), np.load(f"{tables}/exact_scores.npy"))
    size = os.path.getsize(path)
    return Measured(
        "hnswlib",
        found,
        batch_ms,
        0.0,
        rate,
        size,
        private,
        seconds,
        (0.0, 0.0),
        {"candidates": ef},
    )


def partition_errors(tables: Path, folder: Path) -> list[dict[str, float]]:
    """How far log Z is off at several temperatures, with the neighbours that an index finds.

    Returns:
      A row a temperature: τ, median and 95 % quantile of |log Ẑ − log Z|, and the mean share
      of Z that the neighbours hold.
    """
    from model_code.index import partition
    from model_code.phrases.index import PhraseIndex

    index = PhraseIndex(str(folder))
    wholes = np.load(tables / "log_partitions.npy")
    questions = np.load(tables / "questions.npy")[: wholes.shape[1]]
    rows, scores = index.searcher.nearest(questions, COUNT, index.effort)
    sampled = np.load(folder / "partition_rows.npy")
    found = []
    for temperature, whole in zip(TEMPERATURES, wholes, strict=True):
        estimate = partition.estimate(
            questions,
            rows,
            scores,
            num_phrases=len(index),
            sampled=sampled,
            sample=index.query_vectors[sampled],
            temperature=temperature,
        )
        off = np.abs(estimate - whole)
        held = np.exp(partition.log_sum_exp(scores / temperature) - whole)
        found.append(
            {
                "temperature": temperature,
                "median": float(np.median(off)),
                "most": float(np.quantile(off, 0.95)),
                "held": float(held.mean()),
            }
        )
    return found


def measure_all(rows: int, workdir: Path, seed: int, engines: Iterable[str]) -> list[Measured]:
    """Measures engines on K phrases; what is done is read back instead."""
    tables = workdir / f"{rows}-seed-{seed}"
    if not (tables / "log_partitions.npy").exists():
        print(f"{rows:,} phrases: drawing them", flush=True)
        write_tables(tables, rows, seed)
    results = []
    for name in engines:
        folder = tables / name.split()[0]
        done = folder / "result.json"
        if not done.exists():
            print(f"{rows:,} phrases: {name}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            if name in OURS:
                result = measure_ours(name, tables, folder)
            else:
                result = (measure_scan if name == SCAN else measure_hnswlib)(tables, folder)
            done.write_text(json.dumps(dataclasses.asdict(result)), encoding="utf-8")
        results.append(Measured(**json.loads(done.read_text(encoding="utf-8"))))
    return results


HEAD = (
    "| phrases | search | recall@3 | ms / 64 | × scan | queries/s | file, MiB | of raw "
    "| private, MiB | build, s | effort |\n|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"
)


def table(rows: int, results: Iterable[Measured], width: int = WIDTH) -> str:
    """The results of one K as rows of a Markdown table."""
    results = list(results)
    scan = next((result for result in results if result.name == SCAN), None)
    lines = []
    for result in results:
        ratio = f"{scan.batch_ms / result.batch_ms:.1f}" if scan else "–"
        built = "–" if result.build_seconds is None else f"{result.build_seconds:,.0f}"
        effort = ", ".join(f"{name} {value}" for name, value in result.effort.items())
        lines.append(
            f"| {rows:,} | {result.name} | {result.recall:.4f} | {result.batch_ms:,.2f} "
            f"| {ratio} | {result.queries_per_second:,.0f} | {result.file_bytes / 2**20:,.0f} "
            f"| {result.file_bytes / (4 * rows * width):.3f} "
            f"| {result.private_bytes / 2**20:,.0f} | {built} | {effort} |"
        )
    return "\n".join(lines)


PARTITION_HEAD = """\
| phrases | neighbours of | τ | they hold of Z | log Z off by, median | 95 % |
|---:|---|---:|---:|---:|---:|"""


def partition_table(rows: int, name: str, errors: Iterable[dict[str, float]]) -> str:
    """`partition_errors` of one index as rows of a Markdown table."""
    return "\n".join(
        f"| {rows:,} | {name} | {error['temperature']:g} | {error['held']:.3f} "
        f"| {error['median']:.4f} | {error['most']:.4f} |"
        for error in errors
    )
