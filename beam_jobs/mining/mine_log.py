"""Mines the log of a day into tables that merge with those of other days.

Reads a click log in any of the formats of docs/formats.md. Writes one dataset with the tables
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
import hashlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence

import apache_beam as beam
from apache_beam.io.filesystem import FileMetadata

from beam_jobs.frame import job
from beam_jobs.frame.ceiling_flags import CeilingConfig
from model_code.text.normalise import NORMALIZATION_VERSION, normalize_query
from schemas.base import fingerprint, storage
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.datasets import manifest
from transforms.files.compression import SUFFIXES
from transforms.files.matching import content_hash, match
from transforms.files.secret_files import FromFiles
from transforms.mining import events, evidence
from transforms.mining.deletions import Deletions, read_deletions
from transforms.mining.events import LogRules
from transforms.mining.evidence import DayRules
from transforms.mining.queries import EPOCH
from transforms.rows import log_fields
from transforms.rows.checked import ReadRows
from transforms.rows.columns import column_mapping
from transforms.rows.layouts import FORMATS
from transforms.rows.log_fields import LOG_FIELDS
from transforms.rows.logs import check_times, plan_log, read_log
from transforms.shards import blocks, commit, outputs
from transforms.shards.outputs import COUNTS, DEAD, NOTES, SHARDS

UNIT_BYTES = 64 << 20  # of a log file that one worker reads at once
EVENT_SHARD_BYTES = 64 << 20  # of the log, as text, for each shard of people
KEY_IDENTITY = "key "
PACKED = 5  # so much smaller than text a compressed log is, about


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig:
    """The flags that say how a log is read; mine_pairs has them too."""

    log: tuple[str, ...] = flag("Click log: files, globs or folders.", default=(), role="input")
    columns: tuple[str, ...] = flag(
        "Columns of the log as field=column; fields are " + ", ".join(LOG_FIELDS) + ".", default=()
    )
    format: str = flag("What the log is; auto looks at the files.", default="auto", choices=FORMATS)
    forget: str = flag(
        "Deletion list: a table with the columns image, user and query.", default="", role="input"
    )
    blocklist: str = flag("Words and queries to leave out, one a line.", default="", role="input")
    person_key: str = flag(
        "File with the secret key of the hashes of users and sessions.", default="", role="input"
    )
    max_query_chars: int = flag("Longer queries die.", default=1000, minimum=1)
    query_parts: int = flag(
        "Count a click for the parts of its query too, of at most so many words: for captions and "
        "titles, which hardly repeat as a whole. 0 for none.",
        default=0,
        minimum=0,
    )
    max_person_events: int = flag("Who does more on one day is a robot.", default=1000, minimum=1)
    max_person_clicks: int = flag(
        "Clicks a day of one person on one pair that count.", default=3, minimum=1
    )
    nobody: tuple[str, ...] = flag(
        "Users and sessions that stand for people who are not known, in any case; empty ones "
        "always do.",
        default=log_fields.PLACEHOLDERS,
    )
    max_robot_share: float = flag(
        "Share of the events that may be dropped as a robot's before the job fails.",
        default=0.25,
        minimum=0,
        maximum=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LogConfig, CeilingConfig):
    output: str = flag("Dataset to write.", role="output")
    partition: str = flag("The day, as 2026-11-20; rows of other days are left out.", default="")
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
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")


SCHEMAS = {
    "evidence": evidence.EVIDENCE,
    "visits": evidence.VISITS,
    "languages": evidence.LANGUAGES,
    "texts": events.QUERY_TEXTS,
}
TABLES = {name: commit.parquet(schema) for name, schema in SCHEMAS.items()}


def person_key(path: str) -> bytes:
    """The key of the hashes of people; b"" where none is given."""
    if not path:
        return b""
    try:
        key = storage.read_bytes(path).strip()
    except OSError as error:
        # What was given is not shown: it may be the key itself.
        raise PhraseLensError(
            "--person_key",
            f"the path of a file that can be read ({type(error).__name__})",
            "Make one, and give its path: openssl rand -hex 32 > person.key",
        ) from None
    if not 16 <= len(key) <= 64:
        raise PhraseLensError(
            f"--person_key {path}",
            f"16 to 64 bytes, found {len(key)}",
            "Make one: openssl rand -hex 32.",
        )
    return key


def deletions_of(path: str, key: str, query_parts: int) -> Deletions:
    """A deletion list, if one is given; `path` and `key` are files."""
    return read_deletions(path, person_key(key), query_parts) if path else Deletions()


def deletions(config: LogConfig) -> Deletions:
    return deletions_of(config.forget, config.person_key, config.query_parts)


def log_rules(config: LogConfig, day: int | None) -> FromFiles[LogRules]:
    """What a row of the log must be like: with what few may see, once it is on a worker."""
    listed: set[str] = set()
    for file in match("blocklist", (config.blocklist,)) if config.blocklist else ():
        for line in storage.read_bytes(file.path).decode("utf-8", "replace").splitlines():
            listed.add(normalize_query(line))
    shown = LogRules(
        max_query_chars=config.max_query_chars,
        blocklist=tuple(sorted(listed - {""})),
        day=day,
        query_parts=config.query_parts,
        nobody=tuple(sorted({name.strip().lower() for name in config.nobody})),
    )
    return _on_workers(_whole_log_rules, shown, config)


def check_rules(config: LogConfig) -> None:
    """Raises PhraseLensError where a file that the rules are made of cannot be read."""
    person_key(config.person_key)
    deletions(config)
    log_rules(config, None)


def _whole_log_rules(shown: LogRules, *secrets) -> LogRules:
    forgotten = deletions_of(*secrets).keys
    return dataclasses.replace(shown, forgotten=forgotten, person_key=person_key(secrets[1]))


def day_rules(config: LogConfig, day: int | None) -> FromFiles[DayRules]:
    """What one person can do on a day: with what must be forgotten, once it is on a worker."""
    shown = DayRules(config.max_person_events, config.max_person_clicks, day)
    return _on_workers(_whole_day_rules, shown, config)


def _whole_day_rules(shown: DayRules, *secrets) -> DayRules:
    return dataclasses.replace(shown, deletions=deletions_of(*secrets))


def _on_workers(make: Callable, shown: LogRules | DayRules, config: LogConfig) -> FromFiles:
    files = config.forget, config.person_key
    return FromFiles.of(make, shown, *files, config.query_parts, files=files)


def plan(config: LogConfig):
    """The units of the log and its files; raises PhraseLensError where it cannot be read."""
    mapping = column_mapping("columns", config.columns, LOG_FIELDS)
    return plan_log("log", config.log, config.format, mapping, UNIT_BYTES)


def text_bytes(files: Sequence[FileMetadata]) -> int:
    """About how large a log is as text: what decides how many shards it needs."""
    packed = (".parquet", ".pq", *SUFFIXES)
    return sum(
        file.size_in_bytes * (PACKED if file.path.lower().endswith(packed) else 1) for file in files
    )


def shards_for(size: int, shard_bytes: int) -> int:
    """Shards that keep each one small, whatever the size of the input; never fewer than 4."""
    return min(max(4, -(-size // shard_bytes)), 4096)


def raw_inputs(config: LogConfig) -> dict[str, str]:
    """Identity of what decides how the rows of a log are read, besides the log."""
    raw = {"normalization": f"version {NORMALIZATION_VERSION}"}
    if config.blocklist:
        raw["blocklist"] = content_hash(match("blocklist", (config.blocklist,)))
    if config.forget:  # its bytes: a list that is written anew each night is the same list
        files = match("forget", (config.forget,))
        data = b"".join(storage.read_bytes(file.path) for file in files)
        raw["forget"] = hashlib.sha256(data).hexdigest()
    if config.person_key:
        raw["person_key"] = key_identity(config.person_key)
    return raw


def key_identity(path: str) -> str:
    """Tells keys apart, wherever their files lie: what a key makes of a word gives none away."""
    return f"{KEY_IDENTITY}{fingerprint.hash64('person key', person_key(path)) % 2**64:016x}"


class ReadEvents(beam.PTransform):
    """The log → tagged `events`, `texts`, `dead`, `counts`."""

    def __init__(self, units, rules: FromFiles[LogRules], stage):
        super().__init__()
        self._units, self._rules, self._stage = units, rules, stage

    def _parse(self, table):
        return events.parse_events(table, self._stage, self._rules())

    def expand(self, pipeline):
        read = ReadRows("events", read_log, self._parse, self._stage, ("events", "texts"))
        return pipeline | "LogUnits" >> beam.Create(self._units) | "ReadLog" >> read


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
    )


def build(pipeline: beam.Pipeline, config: Config, stage) -> None:
    units, files = plan(config)
    day = day_number(config.partition)
    num_shards = config.num_shards or shards_for(text_bytes(files), EVENT_SHARD_BYTES)
    log = pipeline | ReadEvents(units, log_rules(config, day), stage)
    mined = (
        log.events
        | "ByPerson" >> evidence.GroupPeople(num_shards, stage.spill)
        | evidence.MineDays(day_rules(config, day))
    )
    typed = mined.evidence | "Typed" >> beam.Map(evidence.typed)
    texts = (
        {"texts": log.texts, "evidence": typed}
        | "ByQuery"
        >> blocks.GroupShards(
            {"texts": "query_id", "evidence": "query_id"}, num_shards, stage.spill
        )
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
        >> outputs.WriteTable(stage, name, SCHEMAS[name], SCHEMAS[name].names, num_shards)
        for name, tables in written.items()
    ]
    {
        SHARDS: shards | "Shards" >> beam.Flatten(),
        DEAD: log[DEAD],
        COUNTS: (log[COUNTS], mined[COUNTS]) | "Counts" >> beam.Flatten(),
        NOTES: mined[NOTES],
    } | commit.CommitManifest(
        stage,
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
    next_command=lambda c: f"./run.sh mine_pairs --days {c.output.rpartition('/')[0]} --images …",
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
