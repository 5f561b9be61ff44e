"""Every Beam job of the project on the tiny run's data, to be run on one engine after another."""

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.dataset as ds

from beam_jobs.dataflow import submit
from beam_jobs.runs.overrides import sample_inputs
from tests.support.datasets import work_folder
from tests.support.datasets.work_folder import STAGES, TinyRun

BEAM_STAGES = [name for name, stage in STAGES.items() if stage.module.startswith("beam_jobs.")]
JOBS = ["mine_log", *BEAM_STAGES, "forget"]
Rows = dict[str, list[str]]


def command(job: str, of: TinyRun, output: Path) -> list[str]:
    """The command of a job on the tiny run's inputs; `forget` rewrites the days in `output`."""
    if job in STAGES:
        return work_folder.command_into(job, of.config, str(output))
    module = [sys.executable, "-m", submit.JOBS[job]]
    if job == "forget":
        return [*module, f"--list={output}.csv", f"--days={output}"]
    log = sample_inputs(of.dataset("make_samples"))["log"]
    return [*module, f"--log={log}", f"--output={output}", "--num_shards=3"]


def prepare(job: str, of: TinyRun, output: Path) -> None:
    """Makes what a job needs beside the tiny run: for `forget`, a day and a deletion list."""
    if job != "forget":
        return
    work_folder.run(command("mine_log", of, output / "2026-11-20"))
    log = sample_inputs(of.dataset("make_samples"))["log"]
    first, *_, last = ds.dataset(sorted(Path(log).parent.glob("*.parquet"))).to_table().to_pylist()
    with open(f"{output}.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("image", "user"), (Path(first["image"]).stem, ""), ("", last["user"])]
        )


def dataset(job: str, output: Path) -> str:
    """The folder of the dataset that a job wrote."""
    return str(output / "2026-11-20" if job == "forget" else output)


def run(job: str, of: TinyRun, output: Path, options: Sequence[str] = ()) -> tuple[Rows, float]:
    """Runs a job with some pipeline options.

    Returns:
      Its rows, as of `work_folder.rows_of`, and the seconds that it took.
    """
    prepare(job, of, output)
    start = time.monotonic()
    work_folder.run([*command(job, of, output), *options])
    seconds = time.monotonic() - start
    return work_folder.rows_of(dataset(job, output)), seconds


def compare(job: str, of: TinyRun, folder: Path, engine: str, options: Sequence[str]) -> str:
    """Runs a job in this machine's processes and on an engine; the rows must be equal.

    Returns:
      The figures, for people.
    """
    expected, here = run(job, of, folder / "here")
    found, there = run(job, of, folder / engine, options)
    assert found == expected
    assert any(rows for table, rows in expected.items() if table != "content_hash")
    rows = sum(len(hashes) for hashes in expected.values())
    return f"{engine}, {job}: {rows:,} rows equal, {there / here:.1f} times as long as in-process"
