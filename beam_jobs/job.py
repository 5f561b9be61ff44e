"""What every job does around its graph: flags, preflight, plan, run, counters."""

import argparse
import dataclasses
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import worker_options
from model_code.progress import duration
from schemas import config as config_lib
from schemas import manifest, storage
from schemas import stage as stage_lib
from schemas.errors import PhraseLensError
from schemas.stage import Stage


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a preflight found: datasets by name, hashes of raw inputs, and facts to print."""

    datasets: dict[str, str] = dataclasses.field(default_factory=dict)
    raw: dict[str, str] = dataclasses.field(default_factory=dict)
    facts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Job:
    """A job file in one value.

    Attributes:
      name: the stage's name.
      doc: the module's docstring, printed by --help.
      config: the frozen dataclass of its flags.
      build: (pipeline, config, stage) → draws the graph.
      preflight: config → inputs; raises PhraseLensError within seconds when one is wrong.
      next_command: config → the command that comes after.
    """

    name: str
    doc: str
    config: type
    build: Callable[[beam.Pipeline, Any, Stage], None]
    preflight: Callable[[Any], Inputs]
    next_command: Callable[[Any], str]


def parse(
    name: str, config: type, doc: str, argv: Sequence[str] | None
) -> tuple[Any, PipelineOptions]:
    """Parses a job's own flags and Beam's.

    Raises:
      PhraseLensError: a flag that neither knows (Beam by itself only warns).
    """
    parser = config_lib.parser_for(config, f"python -m beam_jobs.{name}", doc)
    parser.epilog = "All flags of Beam's runners are accepted too, such as --runner."
    args, rest = parser.parse_known_args(argv)
    beam_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        with_flags = getattr(options, "_add_argparse_args", None)
        if with_flags:
            with_flags(_Lenient(beam_parser))
    _, unknown = beam_parser.parse_known_args(rest)
    if unknown:
        known = [flag for p in (parser, beam_parser) for flag in p._option_string_actions]
        raise config_lib.unknown_flags(unknown, known)
    if not any(flag.startswith("--runner") for flag in rest):
        # DirectRunner tries to download Prism first; this is the in-process one it falls back to.
        rest.append("--runner=FnApiRunner")
    return config_lib.from_args(config, args), PipelineOptions(rest)


class _Lenient:
    """Adds a flag only once: several of Beam's option classes repeat one."""

    def __init__(self, parser: argparse.ArgumentParser):
        self._parser = parser

    def add_argument(self, *names: str, **options: Any) -> None:
        if not any(name in self._parser._option_string_actions for name in names):
            self._parser.add_argument(*names, **options)

    def add_mutually_exclusive_group(self, **_: Any) -> "_Lenient":
        return self

    add_argument_group = add_mutually_exclusive_group


def run(job: Job, argv: Sequence[str] | None = None) -> int:
    """Runs a job from its command line; returns the exit status (0 done, 1 failed, 2 refused)."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        config, options = parse(job.name, job.config, job.doc, argv)
        config = worker_options.fit(config, options)
        inputs = job.preflight(config)
        stage = stage_lib.plan(
            job.name, config, [f"beam_jobs.{job.name}"], inputs.datasets, inputs.raw
        )
    except PhraseLensError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if stage.done:
        print(f"{job.name}: already done: {config.output}")
        return 0
    runner = options.get_all_options()["runner"]
    print(f"{job.name}: run {stage.run_id} on {runner} → {stage.output}", flush=True)
    for fact in inputs.facts:
        print(f"  {fact}", flush=True)
    if config.dry_run:
        print("  --dry_run: nothing was run")
        return 0
    start = time.monotonic()
    try:
        with beam.Pipeline(options=options) as pipeline:
            job.build(pipeline, config, stage)
    except Exception as error:
        storage.remove_tree(stage.spill)
        found = known_error(error)
        if found is None:
            raise
        print(f"error: {found}", file=sys.stderr)
        return 1
    shutil.rmtree(stage.scratch, ignore_errors=True)
    _print_summary(stage, time.monotonic() - start)
    print(f"next: {job.next_command(config)}")
    return 0


def known_error(error: BaseException) -> str | None:
    """The message of the PhraseLensError that a runner wrapped, or None when there is none."""
    if isinstance(error, PhraseLensError):
        return str(error)
    for cause in (error.__cause__, error.__context__):
        if cause is not None and (found := known_error(cause)):
            return found
    # A worker in another process sends its traceback as text.
    names = "|".join(c.__name__ for c in (PhraseLensError, *PhraseLensError.__subclasses__()))
    found = re.findall(rf"^(?:[\w.]+\.)?(?:{names}): (.*)$", str(error), re.MULTILINE)
    return found[-1].partition(" [while running")[0] if found else None


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
