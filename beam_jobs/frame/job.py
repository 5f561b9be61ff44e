"""What every job does around its graph: flags, preflight, plan, run."""

import contextlib
import dataclasses
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

from beam_jobs.frame import code_check, stateless, worker_options
from beam_jobs.frame.execution import execute, for_workers, is_one_machine, not_known, print_summary
from beam_jobs.frame.parsing import parse
from schemas.base import storage
from schemas.base.errors import PhraseLensError, tell
from schemas.console import flags as flags_lib
from schemas.console import heartbeat
from schemas.datasets import checks, manifest
from schemas.runs import run as run_lib
from schemas.runs.run import Run
from transforms.shards.tasks import write_tasks


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a preflight found.

    Attributes:
      datasets: name → folder.
      raw: name → hash of each input that is no dataset.
      facts: lines to print.
      warn: what the run has committed → what people should know of it, or "".
      tasks: name → what is to be read of files that lie in no dataset; `ReadTasks` gives it to
        workers.
      sizes: what is there → how much of it, for `build`.
    """

    datasets: dict[str, str] = dataclasses.field(default_factory=dict)
    raw: dict[str, str] = dataclasses.field(default_factory=dict)
    facts: tuple[str, ...] = ()
    warn: Callable[[manifest.Manifest], str] = lambda _: ""
    tasks: Mapping[str, Iterable[Any]] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Job:
    """A job file in one value.

    Attributes:
      name: the stage's name.
      module: the dotted name of the file; what is run as a script is called __main__ there.
      doc: the module's docstring, printed by --help.
      config: the frozen dataclass of its flags.
      build: (pipeline, config, run, inputs) → draws the graph.
      preflight: config → inputs; raises PhraseLensError within seconds when one is wrong.
      next_command: config → the command that comes after.
      runs_networks: whether it has steps that a GPU makes faster.
    """

    name: str
    module: str
    doc: str
    config: type
    build: Callable[[beam.Pipeline, Any, Run, Inputs], None]
    preflight: Callable[[Any], Inputs]
    next_command: Callable[[Any], str]
    runs_networks: bool = False


def run(job: Job, argv: Sequence[str] | None = None) -> int:
    """Runs a job from its command line; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(name)s: %(message)s")
    logging.getLogger("apache_beam.runners.common").addFilter(not_known)
    stateless.install()
    try:
        config, options = parse(job.name, job.config, job.doc, argv, job.runs_networks)
        config = worker_options.fit(config, options)
        with heartbeat.doing(f"{job.name}, looks at its inputs"):
            inputs = job.preflight(config)
            run = run_lib.plan(job.name, config, [job.module], inputs.datasets, inputs.raw)
        if getattr(config, "retry_dead", False):
            again = run.retry()
            if again is None:
                print(f"{job.name}: nothing died: {config.output}")
                return 0
            before = manifest.run_folder(run.output, again.after)
            run, config = again, dataclasses.replace(config, reuse=before)
        if run.done:
            if not config.dry_run:
                run.restore()
            print(f"{job.name}: already done: {config.output}")
            return 0
        checks.check_inputs(inputs.datasets.values())
    except PhraseLensError as error:
        return tell(error)
    runner = options.get_all_options()["runner"]
    print(f"{job.name}: run {run.run_id} on {runner} → {run.output}", flush=True)
    for line in (*inputs.facts, *flags_lib.shown(config)):
        print(f"  {line}", flush=True)

    def finish() -> None:
        print_summary(run, time.monotonic() - start)
        done = manifest.read(run.output)
        if done and done.is_of(run.fingerprint) and (warning := inputs.warn(done)):
            print(f"warning: {warning}", file=sys.stderr)
        print(f"next: {job.next_command(config)}")

    def clean() -> None:
        # A job elsewhere may still be running when we hear no more of it.
        if is_one_machine(options):
            storage.remove_tree(run.spill)

    def draw(pipeline: beam.Pipeline) -> None:
        if not is_one_machine(options):
            pipeline | code_check.CheckCode(job.module)
        job.build(pipeline, for_workers(config, options, run.spill), run, inputs)

    start, alone = time.monotonic(), _alone(run, inputs)
    try:
        return execute(job.name, draw, config, options, finish=finish, clean=clean, alone=alone)
    except Exception as error:
        return checks.tell_of_inputs(error, inputs.datasets.values())
    finally:
        shutil.rmtree(run.temp, ignore_errors=True)


@contextlib.contextmanager
def _alone(run: Run, inputs: Inputs) -> Iterator[None]:
    """Held while a run is this process's; what it is to read lies where its workers find it."""
    with run.alone():
        for name, tasks in inputs.tasks.items():
            write_tasks(run, name, tasks)
        yield
