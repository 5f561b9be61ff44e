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
import sys
from collections.abc import Mapping, Sequence

import apache_beam as beam
from apache_beam.io.filesystem import FileMetadata

from beam_jobs import job
from model_code.text import NORMALIZATION_VERSION, normalize_query
from schemas import fingerprint, storage
from schemas.config import flag
from schemas.errors import PhraseLensError
from transforms import datasets, events, evidence
from transforms.compression import SUFFIXES
from transforms.datasets import COUNTS, DEAD, SHARDS
from transforms.deletions import Deletions, read_deletions
from transforms.events import LOG_FIELDS, LogRules
from transforms.evidence import DayRules
from transforms.files import content_hash, match
from transforms.formats import FORMATS, check_times, plan_log, read_log
from transforms.queries import EPOCH
from transforms.rows import ReadRows
from transforms.tabular import column_mapping

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
    max_query_chars: int = flag("Longer queries die.", default=1000)
    query_parts: int = flag(
        "Count a click for the parts of its query too, of at most so many words: for captions and "
        "titles, which hardly repeat as a whole. 0 for none.",
        default=0,
    )
    max_person_events: int = flag("Who does more on one day is a robot.", default=1000)
    max_person_clicks: int = flag("Clicks a day of one person on one pair that count.", default=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LogConfig):
    output: str = flag("Dataset to write.", role="runtime")
    partition: str = flag("The day, as 2026-11-20; rows of other days are left out.", default="")
    num_shards: int = flag("Shards of every table; 0 goes by the size of the log.", default=0)
    max_dead_fraction: float = flag("Share of dead rows that fails the job.", default=0.05)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")


SCHEMAS = {
    "evidence": evidence.EVIDENCE,
    "visits": evidence.VISITS,
    "languages": evidence.LANGUAGES,
    "texts": events.QUERY_TEXTS,
}
TABLES = {name: datasets.parquet(schema) for name, schema in SCHEMAS.items()}


def person_key(path: str) -> bytes:
    """The key of the hashes of people; b"" where none is given."""
    if not path:
        return b""
    try:
        key = storage.read_bytes(path).strip()
    except FileNotFoundError as error:
        raise PhraseLensError(
            f"--person_key {path}", "a file", "Make one: openssl rand -hex 32."
        ) from error
    if not 16 <= len(key) <= 64:
        raise PhraseLensError(
            f"--person_key {path}",
            f"16 to 64 bytes, found {len(key)}",
            "Make one: openssl rand -hex 32.",
        )
    return key


def deletions(config: LogConfig) -> Deletions:
    if not config.forget:
        return Deletions()
    return read_deletions(config.forget, person_key(config.person_key), config.query_parts)


def log_rules(config: LogConfig, day: int | None) -> LogRules:
    listed: set[str] = set()
    for file in match("blocklist", (config.blocklist,)) if config.blocklist else ():
        for line in storage.read_bytes(file.path).decode("utf-8", "replace").splitlines():
            listed.add(normalize_query(line))
    return LogRules(
        config.max_query_chars,
        tuple(sorted(listed - {""})),
        deletions(config).keys,
        person_key(config.person_key),
        day,
        config.query_parts,
    )


def day_rules(config: LogConfig, day: int | None) -> DayRules:
    return DayRules(config.max_person_events, config.max_person_clicks, day, deletions(config))


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
    for name in ("forget", "blocklist"):
        path = getattr(config, name)
        if path:
            raw[name] = content_hash(match(name, (path,)))
    if config.person_key:
        raw["person_key"] = key_identity(config.person_key)
    return raw


def key_identity(path: str) -> str:
    """Tells keys apart, wherever their files lie: what a key makes of a word gives none away."""
    return f"{KEY_IDENTITY}{fingerprint.hash64('person key', person_key(path)) % 2**64:016x}"


class ReadEvents(beam.PTransform):
    """The log → tagged `events`, `texts`, `dead`, `counts`."""

    def __init__(self, units, rules: LogRules, stage):
        super().__init__()
        self._units, self._rules, self._stage = units, rules, stage

    def expand(self, pipeline):
        parse = functools.partial(events.parse_events, stage=self._stage, rules=self._rules)
        read = ReadRows("events", read_log, parse, self._stage, ("events", "texts"))
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
    log_rules(config, None)
    units, files = plan(config)
    check_times(units, day)
    size = sum(file.size_in_bytes for file in files)
    return job.Inputs(
        raw={"log": content_hash(files)} | raw_inputs(config),
        facts=(f"log: {len(files)} files, {size:,} bytes ({units[0].format})",),
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
        >> datasets.GroupShards(
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
        >> datasets.WriteTable(stage, name, SCHEMAS[name], SCHEMAS[name].names, num_shards)
        for name, tables in written.items()
    ]
    {
        SHARDS: shards | "Shards" >> beam.Flatten(),
        DEAD: log[DEAD],
        COUNTS: (log[COUNTS], mined[COUNTS]) | "Counts" >> beam.Flatten(),
    } | datasets.CommitManifest(
        stage, TABLES, num_shards, config.max_dead_fraction, check=check_some_are_of_the_day
    )


def check_some_are_of_the_day(counters: Mapping[str, int]) -> None:
    """Raises PhraseLensError where a log has events, and none of them is of the day."""
    read, others = (counters.get(f"events.{what}", 0) for what in ("in", "dropped_other_day"))
    if read and read == others:
        raise PhraseLensError(
            f"{read:,} events, all of other days than --partition",
            "some of that day, which is one of UTC",
            "Check --log and --partition; where files hold days of another time zone, give "
            "those of the days before and after too.",
        )


JOB = job.Job(
    name="mine_log",
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
