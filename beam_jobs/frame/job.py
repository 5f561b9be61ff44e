"""What every job does around its graph: flags, preflight, plan, run, counters."""

import argparse
import contextlib
import dataclasses
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam_jobs.dataflow import checks as dataflow
from beam_jobs.dataflow import plan as dataflow_plan
from beam_jobs.frame import code_check, stateless, worker_options
from beam_jobs.frame.local_runner import LocalRunner
from schemas.base import storage
from schemas.base.errors import Exit, PhraseLensError, known, say, tell
from schemas.console import flags as flags_lib
from schemas.console import heartbeat
from schemas.console.heartbeat import duration
from schemas.datasets import checks, manifest
from schemas.runs import command_line
from schemas.runs import stage as stage_lib
from schemas.runs.stage import Stage


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a preflight found.

    Attributes:
      datasets: name → folder.
      raw: name → hash of each input that is no dataset.
      facts: lines to print.
      warn: what the run has committed → what people should know of it, or "".
    """

    datasets: dict[str, str] = dataclasses.field(default_factory=dict)
    raw: dict[str, str] = dataclasses.field(default_factory=dict)
    facts: tuple[str, ...] = ()
    warn: Callable[[manifest.Manifest], str] = lambda _: ""


@dataclasses.dataclass(frozen=True)
class Job:
    """A job file in one value.

    Attributes:
      name: the stage's name.
      module: the dotted name of the file; what is run as a script is called __main__ there.
      doc: the module's docstring, printed by --help.
      config: the frozen dataclass of its flags.
      build: (pipeline, config, stage) → draws the graph.
      preflight: config → inputs; raises PhraseLensError within seconds when one is wrong.
      next_command: config → the command that comes after.
      runs_networks: whether it has steps that a GPU makes faster.
    """

    name: str
    module: str
    doc: str
    config: type
    build: Callable[[beam.Pipeline, Any, Stage], None]
    preflight: Callable[[Any], Inputs]
    next_command: Callable[[Any], str]
    runs_networks: bool = False


def parse(
    name: str,
    config: type,
    doc: str,
    argv: Sequence[str] | None,
    runs_networks: bool = False,
) -> tuple[Any, PipelineOptions]:
    """Parses a job's own flags, those of Dataflow and Beam's.

    Raises:
      PhraseLensError: a flag that none of them knows (Beam by itself only warns), or that
        Dataflow cannot work with.
    """
    parser = flags_lib.parser_for(config, f"./run.sh {name}", doc)
    parser.epilog = (
        "All flags of Beam's runners are accepted too, such as --runner; with Dataflow's also "
        + ", ".join(f"--{name}" for name in dataflow.FLAG_NAMES)
        + " (docs/dataflow.md)."
    )
    args, rest = parser.read_known(argv)
    beam_parser = flags_lib.Parser("Beam", add_help=False)
    for options in PipelineOptions.__subclasses__():
        with_flags = getattr(options, "_add_argparse_args", None)
        if with_flags:
            with_flags(_Lenient(beam_parser))
    beam_args, unknown = beam_parser.parse_known_args(rest)
    if "dataflow" not in (beam_args.runner or "").lower():
        unknown = dataflow.mistyped(rest, parser) + unknown
    parser.refuse(args, unknown, beam_parser._option_string_actions)
    if not any(flag.startswith("--runner") for flag in rest):
        # DirectRunner tries to download Prism first; this is the in-process one it falls back to.
        rest.append("--runner=FnApiRunner")
    parsed, pipeline_options = command_line.from_args(config, args), _Options(rest)
    _check_runner(pipeline_options)
    dataflow.prepare(pipeline_options, runs_networks)
    if dataflow.is_dataflow(pipeline_options) and not parsed.dry_run:
        dataflow.check_paths(parsed, pipeline_options)
    return parsed, pipeline_options


def _check_runner(options: PipelineOptions) -> None:
    """Raises PhraseLensError where Beam has no runner of the name that is given."""
    name = options.view_as(StandardOptions).runner
    try:
        beam.runners.create_runner(name)
    except ValueError as error:
        raise PhraseLensError(
            f"--runner={name}", "a runner that Beam has", str(error).partition("\n")[0]
        ) from error


def is_one_machine(options: PipelineOptions) -> bool:
    """Whether all workers are processes of this machine, which share its disk."""
    known = ("directrunner", "fnapirunner", "prismrunner", "bundlebaseddirectrunner")
    return dataflow.runner_of(options) in known


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
    for name in dataflow.READ_BY_WORKERS:
        path = getattr(config, name, "")
        if path and not path.startswith(storage.GCS_PREFIX):
            moved[name] = storage.join(folder, "secrets", name, os.path.basename(path))
            storage.write_bytes(moved[name], storage.read_bytes(path))
    return dataclasses.replace(config, **moved)


class _Options(PipelineOptions):
    """PipelineOptions that makes each view once.

    Beam looks at a view for every step of a graph and every type that it compares, and by itself
    parses the command line for each of them: a fifth of the time that a small job takes.
    """

    def view_as(self, cls: type) -> Any:
        views = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own: views share the values that they show.
        return {name: value for name, value in super().__getstate__().items() if name != "_views"}


class _Lenient:
    """Adds a flag only once: several of Beam's option classes repeat one."""

    def __init__(self, parser: argparse.ArgumentParser):
        self._parser = parser

    def add_argument(self, *names: str, **options: Any) -> None:
        if not any(name in self._parser._option_string_actions for name in names):
            self._parser.add_argument(*names, **options)

    def add_mutually_exclusive_group(self, *_: Any, **__: Any) -> "_Lenient":
        return self

    add_argument_group = add_mutually_exclusive_group


def run(job: Job, argv: Sequence[str] | None = None) -> int:
    """Runs a job from its command line; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(name)s: %(message)s")
    logging.getLogger("apache_beam.runners.common").addFilter(_not_known)
    stateless.install()
    try:
        config, options = parse(job.name, job.config, job.doc, argv, job.runs_networks)
        config = worker_options.fit(config, options)
        with heartbeat.doing(f"{job.name}, looks at its inputs"):
            inputs = job.preflight(config)
            stage = stage_lib.plan(job.name, config, [job.module], inputs.datasets, inputs.raw)
        if getattr(config, "retry_dead", False):
            again = stage.retry()
            if again is None:
                print(f"{job.name}: nothing died: {config.output}")
                return 0
            before = manifest.run_folder(stage.output, again.after)
            stage, config = again, dataclasses.replace(config, reuse=before)
        if stage.done:
            if not config.dry_run:
                stage.restore()
            print(f"{job.name}: already done: {config.output}")
            return 0
        checks.check_inputs(inputs.datasets.values())
    except PhraseLensError as error:
        return tell(error)
    runner = options.get_all_options()["runner"]
    print(f"{job.name}: run {stage.run_id} on {runner} → {stage.output}", flush=True)
    for line in (*inputs.facts, *flags_lib.shown(config)):
        print(f"  {line}", flush=True)

    def finish() -> None:
        _print_summary(stage, time.monotonic() - start)
        done = manifest.read(stage.output)
        if done and done.is_of(stage.fingerprint) and (warning := inputs.warn(done)):
            print(f"warning: {warning}", file=sys.stderr)
        print(f"next: {job.next_command(config)}")

    def clean() -> None:
        # A job elsewhere may still be running when we hear no more of it.
        if is_one_machine(options):
            storage.remove_tree(stage.spill)

    def draw(pipeline: beam.Pipeline) -> None:
        if not is_one_machine(options):
            pipeline | code_check.CheckCode(job.module)
        job.build(pipeline, for_workers(config, options, stage.spill), stage)

    start = time.monotonic()
    try:
        return execute(job.name, draw, config, options, finish, clean, stage.alone())
    except Exception as error:
        return checks.tell_of_inputs(error, inputs.datasets.values())
    finally:
        shutil.rmtree(stage.temp, ignore_errors=True)


def execute(
    name: str,
    draw: Callable[[beam.Pipeline], None],
    config: Any,
    options: PipelineOptions,
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
        if config.dry_run and dataflow.is_dataflow(options):
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


def _not_known(record: logging.LogRecord) -> bool:
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
    local = LocalRunner() if dataflow.runner_of(options) == "fnapirunner" else None
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


def _print_summary(stage: Stage, seconds: float) -> None:
    committed = manifest.read(stage.output)
    if committed is None or committed.fingerprint != stage.fingerprint:
        # A Flex Template's launcher does not wait for the job; the graph commits by itself.
        print(f"{stage.name}: submitted; it commits {stage.output} when it ends")
        return
    for name, table in committed.tables.items():
        if table.format != "files":
            print(f"  {name}: {table.rows:,} rows in {len(table.shards)} shards")
    for name, rows in committed.counters.items():
        if ".dropped_" in name and rows:
            print(f"  {name}: {rows:,}")
    print(f"{stage.name}: committed {stage.output} in {duration(seconds)}")
