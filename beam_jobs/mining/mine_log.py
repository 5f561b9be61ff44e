"""Mines the log of a day into tables that merge with those of other days.

Reads a click log in any of the formats of docs/use/formats.md. Writes one dataset with the tables
evidence (what each person did with each image for each query), visits (in which order they typed
queries), texts, languages and dead_letters. People are keyed hashes there; mine_pairs --days
merges any days, and forgets who did what.

  ./run.sh mine_log --log 'logs/2026-11-20/*' --partition 2026-11-20 --output work/days/2026-11-20
  ./run.sh mine_pairs --days work/days --images photos/ --labels labels.csv --output work/mined

The same command again replaces a day that came late or was corrected. Days are of UTC: give files
of local days with their neighbours; what is not of --partition is left out.
"""

import dataclasses
import datetime
import functools
import statistics
import sys
from collections.abc import Mapping

import apache_beam as beam

from beam_jobs.frame import job
from beam_jobs.frame.ceiling_flags import CeilingConfig
from beam_jobs.mining.log import (
    EVENT_SHARD_BYTES,
    SCHEMAS,
    ReadEvents,
    check_rules,
    day_rules,
    log_rules,
    plan,
    raw_inputs,
    shards_for,
    text_bytes,
)
from beam_jobs.mining.log_flags import LogConfig
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console import program
from schemas.console.flags import flag
from schemas.datasets import manifest
from schemas.runs.run import Run
from transforms.files.matching import content_hash
from transforms.mining import evidence
from transforms.rows.logs import check_times
from transforms.rows.moments import EPOCH
from transforms.shards import blocks, commit, outputs
from transforms.shards.outputs import COUNTS, DEAD, NOTES, SHARDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LogConfig, CeilingConfig):
    output: str = flag("Dataset to write.", role="output")
    partition: str = flag(
        "The day, as 2026-11-20; rows of other days are left out.", default="", essential=True
    )
    num_shards: int = flag(
        "Shards of every table; 0 goes by the size of the log.", default=0, minimum=0
    )
    allow_empty: bool = flag(
        "Commit a day of which the log has no event; it replaces one that had some.",
        default=False,
        role="runtime",
    )
    min_day_share: float = flag(
        "A day is small below this share of the events of its last delivery, or of the median of "
        "that weekday in the eight weeks before.",
        default=0.5,
        role="runtime",
        minimum=0,
        maximum=1,
    )
    fail_small_day: bool = flag(
        "Refuse a small day instead of a warning.", default=False, role="runtime"
    )
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)


TABLES = {name: commit.parquet(schema) for name, schema in SCHEMAS.items()}


def day_number(partition: str) -> int | None:
    """Days since 1970 of a --partition.

    Raises:
      PhraseLensError: it is no date.
    """
    if not partition:
        return None
    try:
        return (datetime.date.fromisoformat(partition) - EPOCH).days
    except ValueError as error:
        raise PhraseLensError(
            f"--partition {partition}", "a date such as 2026-11-20", "Write year-month-day."
        ) from error


def preflight(config: Config) -> job.Inputs:
    if not config.log:
        raise PhraseLensError("--log", "a click log", "Name its files.")
    day = day_number(config.partition)
    check_rules(config)
    units, files = plan(config)
    check_times(units, day)
    size = sum(file.size_in_bytes for file in files)
    return job.Inputs(
        raw={"log": content_hash(files)} | raw_inputs(config),
        facts=(f"log: {len(files)} files, {size:,} bytes ({units[0].format})",),
        warn=functools.partial(_warning, usual_events(config.output, day), config.min_day_share),
        tasks={"log": units},
        sizes={"log": text_bytes(files)},
    )


def build(pipeline: beam.Pipeline, config: Config, run: Run, inputs: job.Inputs) -> None:
    day = day_number(config.partition)
    num_shards = shards_for(inputs.sizes["log"], EVENT_SHARD_BYTES, config.num_shards)
    log = pipeline | ReadEvents(log_rules(config, day), run)
    mined = (
        log.events
        | "ByPerson" >> evidence.GroupPeople(num_shards, run.spill)
        | evidence.MineDays(day_rules(config, day))
    )
    typed = mined.evidence | "Typed" >> beam.Map(evidence.typed)
    texts = (
        {"texts": log.texts, "evidence": typed}
        | "ByQuery"
        >> blocks.GroupShards({"texts": "query_id", "evidence": "query_id"}, num_shards, run.spill)
        | evidence.KeepTyped()
    )
    written = {
        "evidence": mined.evidence,
        "visits": mined.visits,
        "languages": mined.languages,
        "texts": texts,
    }
    shards = [
        tables
        | f"Write {name}"
        >> outputs.WriteTable(run, name, SCHEMAS[name], SCHEMAS[name].names, num_shards)
        for name, tables in written.items()
    ]
    {
        SHARDS: shards | "Shards" >> beam.Flatten(),
        DEAD: log[DEAD],
        COUNTS: (log[COUNTS], mined[COUNTS]) | "Counts" >> beam.Flatten(),
        NOTES: mined[NOTES],
    } | commit.CommitManifest(
        run,
        TABLES,
        num_shards,
        config.ceilings(),
        check=functools.partial(
            check_day,
            max_robot_share=config.max_robot_share,
            allow_empty=config.allow_empty,
            usual=usual_events(config.output, day) if config.fail_small_day else {},
            min_share=config.min_day_share,
        ),
    )


def check_day(
    counters: Mapping[str, int],
    notes: outputs.Notes,
    *,
    max_robot_share: float,
    allow_empty: bool = False,
    usual: Mapping[str, int] | None = None,
    min_share: float = 0.0,
) -> None:
    """Refuses a day that is none.

    Args:
      counters, notes: of the run.
      max_robot_share: see `evidence.check_robots`.
      allow_empty: whether a day may have no event.
      usual: see `usual_events`.
      min_share: of each of these that the day must have.

    Raises:
      PhraseLensError: none of the events is of the day, it is small, or too many are a robot's.
    """
    read, kept, others = (
        counters.get(f"events.{what}", 0) for what in ("in", "out", "dropped_other_day")
    )
    if not kept and not allow_empty:
        all_others = f"{read:,} events, all of other days than --partition"
        raise PhraseLensError(
            all_others if read and read == others else f"{read:,} events, none of the day",
            "some of that day, which is one of UTC",
            "Check --log and --partition; where files hold days of another time zone, give "
            "those of the days before and after too. If the day had none, give --allow_empty.",
        )
    if small := small_day(kept, usual or {}, min_share):
        raise PhraseLensError(
            small, "a day like those before", "Check --log; if it is right, lower --min_day_share."
        )
    evidence.check_robots(counters, notes, max_robot_share)


WEEKS = 8


def usual_events(output: str, day: int | None) -> dict[str, int]:
    """How many events a day had before: that of its last delivery, and the median of its weekday.

    Args:
      output: the day's dataset; days before lie beside it, by their dates.
      day: days since 1970; None for a day without a date.

    Returns:
      What it is → its events, without what there is not.
    """
    last = manifest.read(output)
    found = {"its last delivery": last.counters.get("events.out", 0)} if last else {}
    if day is None:
        return found
    date = EPOCH + datetime.timedelta(days=day)
    folder = output.rstrip("/").rpartition("/")[0]
    weeks = [date - datetime.timedelta(weeks=n) for n in range(1, WEEKS + 1)]
    before = [manifest.read(storage.join(folder, str(then))) for then in weeks]
    events_of = [m.counters.get("events.out", 0) for m in before if m and m.stage == "mine_log"]
    if events_of:
        what = f"the median {date:%A} of {len(events_of)} before"
        found[what] = int(statistics.median(events_of))
    return found


def _warning(usual: Mapping[str, int], min_share: float, done: manifest.Manifest) -> str:
    kept = done.counters.get("events.out", 0)
    return small_day(kept, usual, min_share) or ("" if kept else "the day has no event")


def small_day(kept: int, usual: Mapping[str, int], min_share: float) -> str:
    """What a day is small beside; "" where it is not."""
    for what, events_then in usual.items():
        if kept < min_share * events_then:
            return f"{kept:,} events of the day, {kept / events_then:.1%} of {what}"
    return ""


JOB = job.Job(
    name="mine_log",
    module="beam_jobs.mining.mine_log",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: program.command(
        "mine_pairs",
        days=c.output.rpartition("/")[0] or ".",
        images="IMAGES/**",
        labels="LABELS.csv",
        output=program.beside(c.output.rpartition("/")[0], "mined"),
    ),
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
