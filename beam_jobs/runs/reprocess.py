"""Does what changed data needs, and nothing else: from a log, images and labels to a snapshot.

Reads what `all` reads; writes the datasets below --workdir and, last, the snapshot of --date. The
models in use stay as they are (those of the promoted snapshot, or else the last ones) unless
--retrain names them. An image is decoded once and embedded once, for as long as its bytes and the
networks are the same; phrases, text features and labels are made of what is known of it.

  ./run.sh reprocess --workdir work/mine --date 2026-01-31 --days days/ --images 'images/**' \\
      --labels labels.csv --dry_run                          what would be done, why, how many rows
  ./run.sh reprocess … --retrain text_embedder,fusion        train these again
  ./run.sh promote --workdir work/mine --date 2026-01-31     put the snapshot in use

With --forget nothing of the images and people on that list stays: older snapshots are deleted, and
the new one is in use if one was. Give it the date of the snapshot in use and a time, such as
2026-01-31T1200, so that the next date is a later one. Stages run in one process, which loads the
networks while another one mines.
"""

import atexit
import contextlib
import dataclasses
import gc
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from beam_jobs.frame.beside import Beside
from beam_jobs.runs import all_stages, chosen, overrides, stages
from beam_jobs.runs.chosen import Config
from beam_jobs.runs.stages import Stage
from schemas.base import storage
from schemas.base.errors import (
    Exit,
    PhraseLensError,
    RefusedError,
    known,
    say,
    tell,
)
from schemas.console import program
from schemas.console.progress import duration
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.maintenance import metrics, pending, summaries
from schemas.runs import changes, snapshots
from schemas.runs import folders as run_folders
from schemas.runs import pointer as pointer_lib


@dataclasses.dataclass(frozen=True)
class Done:
    """A stage that has run.

    Attributes:
      stage: its name.
      seconds: how long it took.
      run_id: the run that is the last one of its dataset now; "" where it has none.
      skipped: whether the same work was done already.
      images: that were decoded or went through networks; of other stages 0.
      reused: images that were taken from an earlier run.
    """

    stage: str
    seconds: float
    run_id: str
    skipped: bool
    images: int
    reused: int


def run_stage(
    stage: Stage,
    argv: Sequence[str],
    output: str,
    beside: Beside | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> Done:
    """Runs a stage in this process, or beside it where there is something to do meanwhile.

    Args:
      stage: the stage.
      argv: its command line.
      output: its dataset, or "".
      beside: the process to run it in.
      meanwhile: what this process does meanwhile.

    Raises:
      StageError: it failed; it has said why.
    """
    before = {run.run_id for run in run_folders.runs(output) if run.committed} if output else set()
    start = time.monotonic()
    if beside and meanwhile:
        status = beside.run(stage.name, argv, meanwhile)
    else:
        status = importlib.import_module(stage.module).run(list(argv))
    seconds = time.monotonic() - start
    if status:
        raise StageError(stage.name, status)
    after = manifest.read(output) if output else None
    if after is None:
        return Done(stage.name, seconds, "", False, 0, 0)
    skipped = after.run_id in before
    images, reused = images_of(after)
    return Done(stage.name, seconds, after.run_id, skipped, 0 if skipped else images, reused)


def images_of(done: manifest.Manifest) -> tuple[int, int]:
    """Images of a run that were decoded or embedded, and those that were taken over."""
    counters = done.counters
    kinds = ("images", "training_images", "calibration_images")
    if done.stage not in {stage.name for stage in stages.STAGES if stage.reuses}:
        return 0, 0
    reused = counters.get("reused.rows", 0)
    forgotten = counters.get("images.dropped_forgotten", 0)
    return sum(counters.get(f"{kind}.in", 0) for kind in kinds) - forgotten - reused, reused


class StageError(Exception):
    def __init__(self, stage: str, status: int):
        self.stage, self.status = stage, status
        super().__init__(stage, status)


def loading(
    todo: Sequence[Stage], config: Config, where: Mapping[str, str], earlier: Mapping[str, str]
) -> Callable[[], None] | None:
    """What loads the image networks into this process before a stage needs them.

    Args:
      todo: the stages of the run.
      config: of the run.
      where, earlier: see `chosen.flags_of`.

    Returns:
      None where no stage needs them, or something is to be trained before.
    """
    named = {stage.name: stage for stage in todo}
    if not {"embed_phrases", "embed_images"} <= set(named) or chosen.retrained(config):
        return None

    def argv(name: str) -> list[str]:
        flags = chosen.flags_of(named[name], config, where, earlier)
        return chosen.command_of(named[name], flags, config)

    def load() -> None:
        # What is wrong with the networks or their flags, the stage says that needs them.
        with contextlib.suppress(Exception, SystemExit):
            from beam_jobs.models.preload import preload

            modules = [stage.module for stage in todo]
            preload(argv("embed_phrases"), argv("embed_images"), modules)

    return load


def reprocess(config: Config, miner: Beside | None = None) -> Iterator[Done]:
    """Runs the stages, and commits the snapshot when the last of them is done.

    Args:
      config: of the run.
      miner: a process that mines while this one loads networks; without it this one mines.

    Raises:
      PhraseLensError: inputs are missing, the snapshot is in use, or what was mined is not enough
        for a later stage.
      StageError: a stage failed.
    """
    trained = chosen.retrained(config)
    in_use = chosen.models_in_use(config)
    earlier = chosen.earlier_runs(config, in_use)
    where = {name: path for name, path in in_use.items() if name not in trained}
    runs = {name: Dataset(path).manifest.run_id for name, path in where.items()}
    todo = chosen.stages_of(config)

    def run(stage: Stage) -> Done:
        flags = chosen.flags_of(stage, config, where, earlier)
        argv = chosen.command_of(stage, flags, config)
        print(f"\n{stage.name} — {stage.does}", flush=True)
        output = storage.join(config.workdir, stage.output) if stage.output else ""
        # Mining has no use for networks.
        mines = stage.name == "mine_pairs"
        meanwhile = loading(todo, config, where, earlier) if mines and miner else None
        done = run_stage(stage, argv, output, miner, meanwhile)
        gc.collect()  # graphs and networks of a stage are cycles, and large
        if mines:
            gc.freeze()  # what is loaded by now stays: to go through it again takes seconds
        if output:
            runs[stage.output] = done.run_id
            where[stage.output] = manifest.run_folder(output, done.run_id)
        return done

    # Nobody's data waits for a report of it.
    reports = [stage for stage in todo if stage.name == "report"]
    others = [stage for stage in todo if stage.name != "report"]
    for n, stage in enumerate(others, 1):
        done = run(stage)
        if stage.name == "mine_pairs":
            later = {s.name: overrides.flags_of(s, config) for s in others[n:]}
            all_stages.check_mined(config, later)
        yield done
    changes.write(config.workdir, config.date, runs, replace_used=bool(config.forget))
    if config.forget:
        all_stages.delete_the_rest(config.workdir, config.date)
        pending.end(config.workdir)
    for stage in reports:
        yield run(stage)
        changes.write(config.workdir, config.date, runs, replace_used=bool(config.forget))


def table(done: Sequence[Done]) -> str:
    """What was done, for people."""
    lines = [f"{'stage':<22}{'time':>10}{'images':>12}{'taken over':>12}"]
    for row in done:
        state = "  already done" if row.skipped else ""
        lines.append(
            f"{row.stage:<22}{duration(row.seconds):>10}{row.images:>12,}{row.reused:>12,}{state}"
        )
    return "\n".join(lines)


def write_summary(
    config: Config, done: Sequence[Done], started: float, status: int, error: str
) -> None:
    """What was done, for programs, also where it failed or there was nothing to do.

    Args:
      config: of the run.
      done: the stages that have run.
      started: when, seconds since 1970.
      status: the exit status.
      error: what was told of it, or "".
    """
    ended = time.time()
    skipped = all(row.skipped for row in done)
    outcome = (
        "failed" if status not in (Exit.DONE, Exit.NOTHING) else "nothing" if skipped else "done"
    )
    told = {
        "date": config.date,
        "started": snapshots.moment(started),
        "ended": snapshots.moment(ended),
        "seconds": round(ended - started, 3),
        "exit": int(status),
        "outcome": outcome,
        "error": error,
        "stages": [dataclasses.asdict(row) | {"seconds": round(row.seconds, 3)} for row in done],
    }
    for path in (summaries.path_of(config.workdir, config.date), config.summary):
        if path:
            summaries.write(path, told)
    figures = metrics.of(config.workdir, told).encode()
    storage.write_bytes(storage.join(config.workdir, metrics.FILE_NAME), figures)


def finish_deletion(config: Config) -> int:
    """Ends a deletion that an earlier command began; returns its exit status, 0 without one."""
    begun = pending.read(config.workdir)
    if begun is None or config.forget or config.dry_run:
        return Exit.DONE
    print(f"first, the deletion of {begun.since} that did not end: --date {begun.date}", flush=True)
    with begun.where_it_was_given():
        return run(begun.argv)


def run(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    try:
        config = overrides.parse(Config, "reprocess", __doc__, argv)
    except PhraseLensError as error:
        return tell(error)
    done: list[Done] = []
    started, told = time.time(), ""
    status: int = Exit.BUG
    try:
        with miner_of(config) as miner:
            status = _run(config, argv, done, miner)
    except StageError as error:
        told = (
            f"{error.stage} failed; give the same command again when it is mended: what is done "
            "stays done"
        )
        status = say(told, error.status)
    except Exception as error:
        told = (known(error) or (repr(error), Exit.BUG))[0]
        status = tell(error)
    finally:
        if status not in (Exit.DONE, Exit.NOTHING):
            _say_what_is_left(config)
        # A path that is wrong becomes no folder.
        if not config.dry_run and snapshots.dataset_names(config.workdir):
            write_summary(config, done, started, status, told)
    return status


@contextlib.contextmanager
def miner_of(config: Config) -> Iterator[Beside | None]:
    """A process that loads mining at once, or None where nothing is to be loaded meanwhile."""
    if config.dry_run or config.retrain != ("none",):
        yield None
        return
    with contextlib.closing(Beside("beam_jobs.mining.mine_pairs")) as miner:
        yield miner


def _run(config: Config, argv: Sequence[str], done: list[Done], miner: Beside | None) -> int:
    """Runs all that a date needs; notes in `done` what has run."""
    snapshots.check_is_past(config.date)
    all_stages.check(config)
    if status := finish_deletion(config):
        return status
    pointer = pointer_lib.read_pointer(config.workdir)
    names = {"workdir": config.workdir, "date": config.date}
    if config.date in pointer.holds:
        raise RefusedError(
            f"snapshot {config.date}",
            f"a date that is not held: {pointer.holds[config.date]}",
            f"Lift it: {program.command('hold --lift', **names)}",
        )
    nothing = Exit.NOTHING if config.detailed_exit_code else Exit.DONE
    if not config.forget and pointer.knows(config.date):
        print(f"snapshot {config.date} is or was in use and stays as it is: nothing to do")
        return nothing
    if config.dry_run:
        from beam_jobs.runs import plan as reprocess_plan  # Beam takes a second to import

        print(reprocess_plan.text(reprocess_plan.plan(config)))
        return Exit.DONE
    if config.forget:
        pending.begin(config.workdir, config.date, argv)
    start = time.monotonic()
    for row in reprocess(config, miner):
        done.append(row)
    print(f"\n{table(done)}\nsnapshot {config.date} in {duration(time.monotonic() - start)}")
    if config.forget:
        print("all older snapshots are deleted")
    else:
        print(f"next: {program.command('gate', **names)}")
    return nothing if all(row.skipped for row in done) else Exit.DONE


def _say_what_is_left(config: Config) -> None:
    """Says where what must be forgotten may still lie, after a deletion that failed."""
    if config.forget and (begun := pending.read(config.workdir)):
        names = [stage.output for stage in stages.STAGES]
        print(
            f"not forgotten yet: {pending.left(config.workdir, names, begun.date)}; the next "
            f"{program.command('reprocess')} ends this deletion first, and nothing is put in use "
            "before",
            file=sys.stderr,
        )


def collect_rarely() -> None:
    """Looks for cycles of dead objects more rarely, and not at all when the process ends.

    Beam and TensorFlow make millions of objects that live to the end: to go through them takes
    seconds of a run.
    """
    gc.set_threshold(20_000, 20, 100)
    atexit.register(gc.freeze)


if __name__ == "__main__":
    collect_rarely()
    sys.exit(run())
