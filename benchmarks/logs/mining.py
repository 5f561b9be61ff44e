"""How fast mine_pairs is, and how much memory it needs, beside DuckDB and PySpark.

Writes a log for each size (benchmarks/logs/mining_log.py) and mines it, one after the other on
this machine, each in a process of its own: mine_pairs on Beam's DirectRunner with one and
with two workers, and the same mining as SQL (benchmarks/logs/mining.sql) on DuckDB and on
PySpark local[2]. Memory is the largest sum of the resident memory of a process and its
children, looked at ten times a second; pages that two of them share count twice. Fails
unless all find the same pairs. Done runs are not measured again.

  ./run.sh bench mining --events 1000000,10000000,100000000 --workdir work/bench
"""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.logs import mining_log
from schemas.base.errors import PhraseLensError
from schemas.console import launch
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.runs import command_line

TWO_WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
ENGINES = {
    "mine_pairs, 1 worker": ["beam_jobs.mining.mine_pairs"],
    "mine_pairs, 2 workers": ["beam_jobs.mining.mine_pairs", *TWO_WORKERS],
    "DuckDB, 2 threads": ["benchmarks.logs.mining_peers", "--engine=duckdb"],
    "PySpark local[2]": ["benchmarks.logs.mining_peers", "--engine=spark"],
}
REFERENCE = "DuckDB, 2 threads"
SAMPLES_PER_SECOND = 10


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = flag("Folder for logs and results.", role="output")
    events: tuple[str, ...] = flag(
        "Rows of the logs.", default=("1000000", "10000000", "100000000")
    )
    engines: tuple[str, ...] = flag(
        "Which to measure: job1, job2, duckdb, spark.", default=("job1", "job2", "duckdb", "spark")
    )
    memory: int = flag("GiB that DuckDB, and the JVM of Spark, may use.", default=8, minimum=1)
    seed: int = flag("Another log for each.", default=0, minimum=0, maximum=2**32 - 1)


@dataclasses.dataclass(frozen=True)
class Result:
    """What one engine did with one log: wall time, bytes of memory, and its pairs."""

    seconds: float
    peak_bytes: int
    pairs: int
    hash: str


def measure(command: list[str], log: Path) -> tuple[float, int]:
    """Runs a command to its end, its output in the file `log`.

    Returns:
      Seconds of wall time, and the largest resident memory of its processes in bytes.

    Raises:
      PhraseLensError: it failed.
    """
    start, peak = time.monotonic(), 0
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(launch.part(command), stdout=file, stderr=subprocess.STDOUT)
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident(parent))
            time.sleep(1 / SAMPLES_PER_SECOND)
    if process.returncode:
        raise PhraseLensError(" ".join(command), "to succeed", f"See what it said in {log}.")
    return time.monotonic() - start, peak


def resident(parent: psutil.Process) -> int:
    """Bytes of resident memory of a process and its children."""
    total = 0
    try:
        for process in (parent, *parent.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def hash_pairs(pairs: pa.Table) -> str:
    """Hex SHA-256 of which pairs there are, with their clicks and what was examined of them.

    Counts are compared in the units in which mining adds them up, as whole numbers; scores
    and weights follow from them, up to the last bit of a square root.
    """
    pairs = pairs.sort_by([("image_id", "ascending"), ("query_id", "ascending")])
    digest = hashlib.sha256("".join(pairs["image_id"].to_pylist()).encode())
    digest.update(pairs["query_id"].to_numpy().tobytes())
    for name, units in (("clicks", 1024), ("examined", 65536)):
        digest.update(np.rint(pairs[name].to_numpy() * units).astype(np.int64).tobytes())
    return digest.hexdigest()


def run_engine(name: str, log: Path, folder: Path, memory: int) -> Result:
    """Mines a log with an engine in a fresh folder; what is done is read back instead."""
    done = folder / "result.json"
    if done.exists():
        return Result(**json.loads(done.read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    output = folder / "mined"
    command = [sys.executable, "-m", *ENGINES[name], f"--log={log}", f"--output={output}"]
    is_peer = "benchmarks.logs.mining_peers" in command
    seconds, peak = measure(command + [f"--memory={memory}"] * is_peer, folder / "log.txt")
    columns = ["image_id", "query_id", "clicks", "examined"]
    if is_peer:
        pairs = pq.read_table(output / "pairs.parquet", columns=columns)
    else:
        pairs = Dataset(str(output)).table("pairs").select(columns)
    result = Result(seconds, peak, pairs.num_rows, hash_pairs(pairs))
    shutil.rmtree(output)
    done.write_text(json.dumps(dataclasses.asdict(result)), encoding="utf-8")
    return result


def table(events: int, results: dict[str, Result]) -> str:
    """The results of one log as rows of a Markdown table."""
    reference = results.get(REFERENCE)
    lines = []
    for name, result in results.items():
        ratio = f"{reference.seconds / result.seconds:.2f}" if reference else "–"
        lines.append(
            f"| {events:,} | {name} | {result.seconds:,.1f} | {events / result.seconds:,.0f} "
            f"| {ratio} | {result.peak_bytes / 2**20:,.0f} | {result.pairs:,} "
            f"| {result.hash[:12]} |"
        )
    return "\n".join(lines)


HEAD = """\
| events | engine | seconds | rows/s | rate / DuckDB's | peak memory, MiB | pairs | SHA-256 |
|---:|---|---:|---:|---:|---:|---:|---|"""
NOTES = """\
Seconds are wall time of a whole process, start and imports included. DuckDB and Spark write the
tables pairs, queries, query_days and query_pairs too, but leave out what such a log does not
need: repair of text, privacy patterns, images, languages by text, checks of what was written.
DuckDB's memory_limit and the heap of Spark's JVM: {memory} GiB each. {cores} cores."""


def bench(config: Config) -> None:
    """Measures everything and prints the table.

    Raises:
      PhraseLensError: an engine failed, Java is missing, or two engines found other pairs.
    """
    short = dict(zip(("job1", "job2", "duckdb", "spark"), ENGINES, strict=True))
    for name in config.engines:
        if name not in short:
            raise PhraseLensError(f"--engines {name}", ", ".join(short), "Name one of these.")
    if "spark" in config.engines and shutil.which("java") is None:
        raise PhraseLensError(
            "java",
            "Java 17 or later on PATH, in which PySpark runs",
            "Install it (Debian, Ubuntu: apt install openjdk-17-jre-headless), or leave spark "
            "out: --engines job1,job2,duckdb",
        )
    lines = [HEAD]
    for events in map(int, config.events):
        folder = Path(config.workdir) / f"{events}-seed-{config.seed}"
        log = folder / "log"
        if not (folder / "log.done").exists():
            print(f"writing {events:,} rows into {log}", flush=True)
            mining_log.write_log(log, events, config.seed)
            (folder / "log.done").touch()
        results = {}
        for name in config.engines:
            print(f"{events:,} rows: {short[name]}", flush=True)
            results[short[name]] = run_engine(short[name], log, folder / name, config.memory)
        lines.append(table(events, results))
        print(lines[-1], flush=True)
        if len({(result.pairs, result.hash) for result in results.values()}) > 1:
            raise PhraseLensError(
                f"the pairs of {events:,} rows", "to be the same from every engine", "See above."
            )
    print("\n".join(["", *lines, "", NOTES.format(memory=config.memory, cores=psutil.cpu_count())]))


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "bench mining", __doc__, argv, bench)


if __name__ == "__main__":
    sys.exit(run())
