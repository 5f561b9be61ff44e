"""Runs every stage in order, from a click log and images to a report.

Reads the log, images and labels (or, with --samples, draws them first); writes one dataset a stage
below --workdir. Each stage runs in a process of its own. A stage that is done already says so and
does nothing, so that a run that stopped goes on when the same command is given again, and a run
every night does only what new data needs. With --forget nothing of the images and people on that
list stays in any dataset below --workdir, in --days, or in what earlier runs left there:
snapshots are deleted too.

  ./run.sh all --log 'log/*.parquet' --images 'images/**' --labels labels.csv --workdir work/mine
  ./run.sh all --days days/ --images 'images/**' --labels labels.csv --workdir work/mine \\
      --forget deletions.csv
  ./run.sh all … --dry_run
  ./run.sh all --config run.toml                               (docs/use/settings.md)
  ./run.sh all … --set train_fusion.epochs=50,embed_images.num_phrases=5
  ./run.sh all … --beam "--runner=DataflowRunner --project=PROJECT --region=REGION \\
      --temp_location=gs://BUCKET/tmp --image=REPOSITORY/phraselens:1"
"""

import dataclasses
import importlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence

from beam_jobs.mining import check as mined_check
from beam_jobs.runs import overrides, stage_flags
from beam_jobs.runs.overrides import TODO, RunConfig, command_of, flags_of
from beam_jobs.runs.stages import FORGET, SAMPLES, STAGES, Stage
from model_code.metrics.evaluation import decimals, unmeasured
from model_code.models.fusion.family import FUSION
from model_code.report.data import read_evaluation
from schemas.base import storage
from schemas.base.errors import Exit, PhraseLensError, tell
from schemas.console import launch, program
from schemas.console.flags import flag
from schemas.console.progress import duration
from schemas.datasets import dataset
from schemas.maintenance import forgetting


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    until: str = flag("Stop after this stage.", default="", role="runtime")
    dry_run: bool = flag(
        "Print the commands and run nothing.", default=False, role="runtime", essential=True
    )


def ablation_table(evaluation: Mapping) -> str:
    """The test split's results as text: a row for each classifier, a column a metric, and notes."""
    lines = [f"{'':12}" + "".join(f"{of.title:>8}" for of in FUSION.metrics.values())]
    for key, title in FUSION.systems.items():
        values = evaluation["test"][key]
        lines.append(
            f"{title:12}" + "".join(f"{decimals(values[name]):>8}" for name in FUSION.metrics)
        )
    return "\n".join([*lines, *unmeasured(evaluation)])


def results(config: Config) -> str:
    """What people want to see at the end: the ablation table, the report, the next command."""
    evaluation = read_evaluation(dataset.Dataset(storage.join(config.workdir, "fusion")))
    report = dataset.Dataset(storage.join(config.workdir, "report")).folder("report")
    if config.samples:
        data = {"log": "LOG/*.parquet", "images": "IMAGES/**", "labels": "LABELS.csv"}
        following = f"now your own data:\n  {program.command('all', **data, workdir='work/mine')}"
    else:
        model, output = (storage.join(config.workdir, n) for n in ("model", "new_predictions"))
        data = {"model": model, "images": "NEW/**", "output": output}
        following = f"next:\n  {program.command('classify_images', **data)}"
    return (
        f"\nOn {evaluation['rows']['test']:,} test images that no model has seen:\n\n"
        f"{ablation_table(evaluation)}\n\n"
        f"report: {storage.join(report, 'report.html')}\n{following}"
    )


def check(config: RunConfig) -> None:
    """Refuses flags that cannot work, before any stage starts.

    Raises:
      PhraseLensError: inputs are missing or doubled, `--set` cannot be read, or a stage would not
        take the flags that `--config`, `--set` and `--beam` give it.
    """
    needed = ("days" if config.days else "log", "images", "labels")
    missing = [f"--{name}" for name in needed if not getattr(config, name)]
    if config.samples and len(missing) < 3:
        raise PhraseLensError(
            "--samples", "no --log, --images or --labels beside it", "Use one or the other."
        )
    if not config.samples and missing:
        raise PhraseLensError(
            " ".join(missing),
            "the paths of your data",
            f"Give them, or use {program.command('quickstart')}.",
        )
    for stage in TODO:
        check_flags(stage, config)


def check_flags(stage: Stage, config: RunConfig) -> None:
    """Refuses what a stage would not take of `--config`, `--set` and `--beam`."""
    table, given = config.tables.get(stage.name), config.set_flags.get(stage.name, {})
    is_on_beam = config.beam and stage.is_beam_job and stage is not FORGET
    if table:
        table.check(importlib.import_module(stage.module).Config)
    if not (table or given or is_on_beam):
        return
    try:
        stage_flags.check(stage.name, stage.module, command_of(stage, config)[3:])
    except PhraseLensError as error:
        raise (table.own(error, given) if table else error) from error


def stages_of(config: Config) -> tuple[Stage, ...]:
    """The stages to run.

    Raises:
      PhraseLensError: `--until` names none of them.
    """
    first = (SAMPLES,) if config.samples else (FORGET,) if config.days and config.forget else ()
    todo = (*first, *STAGES)
    names = [stage.name for stage in todo]
    if config.until and config.until not in names:
        raise PhraseLensError(
            f"--until={config.until}",
            f"one of {', '.join(names)}",
            stage_flags.nearest(config.until, names),
        )
    return todo[: names.index(config.until) + 1] if config.until else todo


def run_stages(config: Config, todo: Sequence[Stage]) -> int:
    """Runs the stages one after the other; returns the exit status of the first that fails.

    Raises:
      PhraseLensError: what was mined is not enough for a later stage.
    """
    for n, stage in enumerate(todo, 1):
        command = command_of(stage, config)
        print(f"\nstage {n} of {len(todo)}: {stage.name} — {stage.does}", flush=True)
        start = time.monotonic()
        status = launch.call(command)
        took = duration(time.monotonic() - start)
        if status:
            print(
                f"error: {stage.name} failed after {took} with exit status {status}:\n"
                f"  {shlex.join(command)}\n"
                "Mend what it says, then give the same command again: what is done stays done.",
                file=sys.stderr,
            )
            return status if status > 0 else Exit.UNAVAILABLE  # it was killed
        print(f"{stage.name}: {took}", flush=True)
        if stage.name == "mine_pairs":
            check_mined(config, {later.name: flags_of(later, config) for later in todo[n:]})
    return 0


def check_mined(config: RunConfig, later: Mapping[str, Mapping[str, str]]) -> None:
    """Says what was mined, and refuses what a later stage could not work with.

    Args:
      config: of the run.
      later: the flags of the stages that come, stage → flag → value.

    Raises:
      PhraseLensError: one of them would fail.
    """
    mined_check.check_dataset(storage.join(config.workdir, "mined"), later)


def delete_the_rest(work: str, date: str = "", done: Sequence[Stage] = STAGES) -> None:
    """Deletes what must be forgotten where it may still lie; see `forgetting.forget`.

    Args:
      work: the work folder.
      date: the snapshot that was made without it, or "".
      done: the stages that were made without it, or never held it; of others nothing stays.
    """
    for folder in forgetting.forget(work, [stage.output for stage in done if stage.output], date):
        print(f"deleted {folder}: it was made of what must be forgotten; make it again if needed")


def run(
    argv: Sequence[str] | None = None,
    of: type[Config] = Config,
    name: str = "all",
    doc: str | None = __doc__,
) -> int:
    """Runs the command.

    Args:
      argv: its flags.
      of: the dataclass of them.
      name: of the command, for its help.
      doc: the help.

    Returns:
      The exit status.
    """
    try:
        config = overrides.parse(of, name, doc, argv)
        check(config)
        todo = stages_of(config)
        if config.dry_run:
            for stage in todo:
                print(shlex.join(["python", *command_of(stage, config)[1:]]))
            return 0
        start = time.monotonic()
        status = run_stages(config, todo)
        if not status:
            print(f"\nall {len(todo)} stages: {duration(time.monotonic() - start)}")
            if config.forget:
                delete_the_rest(config.workdir, done=todo)
            if not config.until:
                print(results(config))
        return status
    except PhraseLensError as error:
        return tell(error)


if __name__ == "__main__":
    sys.exit(run())
