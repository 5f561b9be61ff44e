"""What runs the graph of a job, and says what has become of it."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.dataflow import checks as dataflow
from beam_jobs.dataflow import flags
from beam_jobs.dataflow import plan as dataflow_plan
from beam_jobs.frame.local_runner import LocalRunner
from schemas.base import storage
from schemas.base.errors import Exit, known, say
from schemas.console import heartbeat
from schemas.console.heartbeat import duration
from schemas.datasets import manifest
from schemas.runs.run import Run


def is_one_machine(options: PipelineOptions) -> bool:
    """Whether all workers are processes of this machine, which share its disk."""
    known = ("directrunner", "fnapirunner", "prismrunner", "bundlebaseddirectrunner")
    return flags.runner_of(options) in known


def for_workers(config: Any, options: PipelineOptions, folder: str) -> Any:
    """The flags of a job, with the files that only workers may read where they can read them.

    What lies on this machine's disk is copied for workers elsewhere.

    Args:
      config: the job's flags.
      options: the pipeline's.
      folder: one that all workers see, and that somebody removes when the job has ended.
    """
    if config.dry_run or is_one_machine(options) or not folder.startswith(storage.GCS_PREFIX):
        return config
    moved = {}
    for name in flags.READ_BY_WORKERS:
        path = getattr(config, name, "")
        if path and not path.startswith(storage.GCS_PREFIX):
            moved[name] = storage.join(folder, "secrets", name, os.path.basename(path))
            storage.write_bytes(moved[name], storage.read_bytes(path))
    return dataclasses.replace(config, **moved)


def execute(
    name: str,
    draw: Callable[[beam.Pipeline], None],
    config: Any,
    options: PipelineOptions,
    *,
    finish: Callable[[], None],
    clean: Callable[[], None] = lambda: None,
    alone: contextlib.AbstractContextManager | None = None,
) -> int:
    """Runs a graph, or with --dry_run says what would be run; returns the exit status.

    Args:
      name: of the job, for people.
      draw: draws the graph.
      config: the job's flags.
      options: the pipeline's.
      finish: called when the graph has run.
      clean: called when it has failed.
      alone: held while the graph runs.
    """
    try:
        if config.dry_run and flags.is_dataflow(options):
            plan = dataflow_plan.drawn(draw, options)
            print(dataflow_plan.describe(plan, dataflow.local_paths(config, options)))
        elif config.dry_run:
            print("  --dry_run: nothing was run")
        else:
            with alone or contextlib.nullcontext():
                _run_graph(name, draw, options, clean)
            finish()
    except Exception as error:
        found = known(error) or dataflow.refusal(error)
        if found is None:
            raise
        return say(*found)
    return Exit.DONE


def not_known(record: logging.LogRecord) -> bool:
    """Leaves out the traceback that Beam logs of an error which is told in one line.

    `run` tells what it knows, and schemas/console/launch.py what interrupts it.
    """
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not (isinstance(error, KeyboardInterrupt) or known(error))


def _run_graph(
    name: str,
    draw: Callable[[beam.Pipeline], None],
    options: PipelineOptions,
    clean: Callable[[], None],
) -> None:
    # Of other runners Beam knows no more than that they run; they have pages of their own.
    local = LocalRunner() if flags.runner_of(options) == "fnapirunner" else None
    more = local.position if local else lambda: None
    try:
        with (
            heartbeat.doing(name, more),
            beam.Pipeline(runner=local, options=options) as pipeline,
        ):
            draw(pipeline)
    except Exception:
        clean()
        raise


def print_summary(run: Run, seconds: float) -> None:
    committed = manifest.read(run.output)
    if committed is None or committed.fingerprint != run.fingerprint:
        # A Flex Template's launcher does not wait for the job; the graph commits by itself.
        print(f"{run.name}: submitted; it commits {run.output} when it ends")
        return
    for name, table in committed.tables.items():
        if table.format != "files":
            print(f"  {name}: {table.rows:,} rows in {len(table.shards)} shards")
    for name, rows in committed.counters.items():
        if ".dropped_" in name and rows:
            print(f"  {name}: {rows:,}")
    print(f"{run.name}: committed {run.output} in {duration(seconds)}")
