"""A click log as mine_log and mine_pairs read it: its files, its rules, its secrets, its events."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.io.filesystem import FileMetadata

from beam_jobs.mining.log_flags import LogConfig
from model_code.text.normalise import NORMALIZATION_VERSION, normalize_query
from schemas.base import fingerprint, storage
from schemas.base.errors import PhraseLensError
from schemas.runs.run import Run
from transforms.files.compression import SUFFIXES
from transforms.files.matching import content_hash, match
from transforms.files.secret_files import FromFiles
from transforms.mining import events, evidence
from transforms.mining.deletions import Deletions, read_deletions
from transforms.mining.events import LogRules
from transforms.mining.evidence import DayRules
from transforms.rows.checked import ReadRows
from transforms.rows.columns import column_mapping
from transforms.rows.layouts import LogUnit
from transforms.rows.log_fields import LOG_FIELDS
from transforms.rows.logs import cut, plan_log, read_log
from transforms.shards.tasks import ReadTasks

UNIT_BYTES = 64 << 20  # of a log file that one worker reads at once
EVENT_SHARD_BYTES = 64 << 20  # of the log, as text, for each shard of people
KEY_IDENTITY = "key "
PACKED = 5  # so much smaller than text a compressed log is, about
# The tables that mine_log writes of a day.
SCHEMAS = {
    "evidence": evidence.EVIDENCE,
    "visits": evidence.VISITS,
    "languages": evidence.LANGUAGES,
    "texts": events.QUERY_TEXTS,
}


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


def shards_for(size: int, shard_bytes: int, wanted: int = 0) -> int:
    """Shards that keep each one small, whatever the size of the input.

    Args:
      size: bytes of the input.
      shard_bytes: of it, for each shard.
      wanted: how many somebody has asked for; 0 where they go by the size.

    Returns:
      A power of two that is not below, so that the shards of different days nest: all rows of one
      shard lie in one shard of a run that has fewer, and a run reads of an earlier one what it
      needs.
    """
    count = wanted or max(4, -(-size // shard_bytes))
    return 1 << (count - 1).bit_length()


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
    """The log → tagged `events`, `texts`, `dead`, `counts`; its units are the tasks `log`."""

    def __init__(self, rules: FromFiles[LogRules], run: Run):
        super().__init__()
        self._rules, self._run = rules, run

    def _parse(self, table):
        return events.parse_events(table, self._run, self._rules())

    def expand(self, pipeline):
        read = ReadRows("events", read_log, self._parse, self._run, ("events", "texts"))
        return (
            pipeline
            | "LogUnits" >> ReadTasks(self._run, "log", LogUnit.of_json)
            | "CutUnits" >> beam.FlatMap(cut)
            | beam.Reshuffle()
            | "ReadLog" >> read
        )
