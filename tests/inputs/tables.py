"""Tables as people have them: types of columns, ids, nested values, times, files by content."""

import bz2
import decimal
import functools
import gzip
import json
import lzma
import sqlite3
import types
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import zstandard

from schemas.base import fingerprint
from schemas.base.errors import PhraseLensError
from tests.inputs.case import Case
from transforms.mining.deletions import read_deletions
from transforms.mining.events import LogRules, parse_events
from transforms.rows import moments
from transforms.rows.checked import id_texts
from transforms.rows.columns import column_mapping
from transforms.rows.log_fields import LOG_FIELDS
from transforms.rows.logs import check_times, plan_log, read_log
from transforms.rows.tabular import BadRows

STAGE: Any = types.SimpleNamespace(name="mine_log", run_id="run")


def read_log_of(folder: Path, *columns: str, day: int | None = None) -> str:
    """What mining reads of a log: rows by query and image, and what became of the others."""
    mapping = column_mapping("columns", columns, LOG_FIELDS)
    try:
        units, _ = plan_log("log", [str(folder)], "auto", mapping, 1 << 20)
        check_times(units, day)
    except PhraseLensError as error:
        return f"refused: {error}".replace(f"{folder}/", "").replace(str(folder), "LOG")
    rows, dropped = [], []
    for unit in units:
        for batch in read_log(unit):
            if isinstance(batch, BadRows):
                dropped += [f"{batch.reason} ({detail})" for detail in batch.details]
                continue
            output = parse_events(batch, STAGE, LogRules(day=day))
            texts = dict(zip(*output.tables["texts"].to_pydict().values(), strict=True))
            for event in output.tables["events"].to_pylist():
                rows.append(f"{texts[event['query_id']]} → {event['key']}")
            for letters in output.dead:
                dropped += [f"{r['reason']} ({r['detail']})" for r in letters.to_pylist()]
    dead = f"; dead: {'; '.join(dropped)}" if dropped else ""
    return f"read: {', '.join(rows) or 'no rows'}{dead}"


def parquet(folder: Path, columns: Mapping[str, object], name: str = "log.parquet") -> None:
    pq.write_table(pa.table(dict(columns)), folder / name)


def column_case(example: str, happens: str, field: str, make: Callable[[], object]) -> Case:
    """A Parquet log, a column of which is of some type."""

    def run(folder: Path) -> str:
        columns = {"query": ["blue car"], "image": ["car-1"]}
        parquet(folder, columns | {field: make()})
        return read_log_of(folder)

    return Case("odd but legal columns", example, happens, run)


UUID = uuid.UUID("550e8400-e29b-41d4-a716-446655440000")


def uuids() -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([UUID.bytes], pa.binary(16)))


READ = "read: blue car → car-1"
COLUMN_CASES = [
    column_case("Parquet, `user` a UUID", READ, "user", uuids),
    column_case(
        "Parquet, `image` a UUID",
        f"read: blue car → {UUID}",
        "image",
        uuids,
    ),
    column_case(
        "Parquet, `user` 16 bytes of fixed length",
        READ,
        "user",
        lambda: pa.array([UUID.bytes], pa.binary(16)),
    ),
    column_case(
        "Parquet, `image` a decimal",
        "read: blue car → 17",
        "image",
        lambda: [decimal.Decimal("17.00")],
    ),
    column_case(
        "Parquet, `query` a dictionary",
        READ,
        "query",
        lambda: pa.array(["blue car"]).dictionary_encode(),
    ),
    column_case(
        "Parquet, `query` a string_view",
        READ,
        "query",
        lambda: pa.array(["blue car"], pa.string_view()),
    ),
    column_case("Parquet, `clicks` true or false", READ, "clicks", lambda: [True]),
    column_case("Parquet, `clicks` half floats", READ, "clicks", lambda: np.array([2], np.float16)),
    column_case("Parquet, `user` all null", READ, "user", lambda: pa.nulls(1)),
    column_case(
        "Parquet, `timestamp` in nanoseconds of Asia/Tokyo",
        READ,
        "timestamp",
        lambda: pa.array([1], pa.timestamp("ns", "Asia/Tokyo")),
    ),
    column_case(
        "Parquet, `query` a list of texts",
        "refused: column 'query' of log.parquet: expected one text a row for 'query', found "
        "list<element: string>. Write one value a row, or name another column with --columns "
        "query=COLUMN.",
        "query",
        lambda: [["blue", "car"]],
    ),
    column_case(
        "Parquet, `timestamp` a duration",
        "refused: column 'timestamp' of log.parquet: expected one time a row for 'timestamp', "
        "found duration[s]. Write it as a timestamp, or as seconds since 1970, or name another "
        "column with --columns timestamp=COLUMN; to do without it, --columns timestamp=.",
        "timestamp",
        lambda: pa.array([1], pa.duration("s")),
    ),
    column_case(
        "Parquet, `session` a timestamp",
        "refused: column 'session' of log.parquet: expected one id a row for 'session', found "
        "timestamp[us]. Write it as text or as a number, or name another column with --columns "
        "session=COLUMN; to do without it, --columns session=.",
        "session",
        lambda: pa.array([1], pa.timestamp("us")),
    ),
]


def people_of(folder: Path) -> str:
    """How many people a log in several parts tells of, and how many a deletion list names."""
    mapping = column_mapping("columns", (), LOG_FIELDS)
    units, _ = plan_log("log", [str(folder / "log")], "auto", mapping, 1 << 20)
    people = set()
    for unit in units:
        for batch in read_log(unit):
            assert not isinstance(batch, BadRows)
            users = parse_events(batch, STAGE, LogRules()).tables["events"]["user"]
            people |= set(users.drop_null().to_pylist())
    listed = set(read_deletions(str(folder / "forget.csv"), b"").users)
    return f"{len(people)} person; a deletion list of 12345678901 names {len(listed & people)}"


def person_case(example: str, parts: Mapping[str, object]) -> Case:
    """One person in a log of several parts."""

    def run(folder: Path) -> str:
        (folder / "log").mkdir()
        (folder / "forget.csv").write_text("user\n12345678901\n")
        for name, user in parts.items():
            if isinstance(user, str):
                (folder / "log" / name).write_text(f"query,image,user\nred,a,{user}\n")
            else:
                parquet(folder / "log", {"query": ["red"], "image": ["a"], "user": user}, name)
        return people_of(folder)

    happens = "1 person; a deletion list of 12345678901 names 1"
    return Case("one person, two types", example, happens, run)


PERSON = 12_345_678_901
PERSON_CASES = [
    person_case(
        "user 12345678901 as int64 in one part and as double in another",
        {"a.parquet": pa.array([PERSON]), "b.parquet": pa.array([float(PERSON)])},
    ),
    person_case(
        "as a number in Parquet and as text in CSV",
        {"a.parquet": pa.array([PERSON]), "b.csv": str(PERSON)},
    ),
    person_case(
        "as `12345678901.0` (pandas with nulls) and `1.2345678901E10` (Spark) in CSV",
        {"a.csv": f"{PERSON}.0", "b.csv": "1.2345678901E10", "c.csv": str(PERSON)},
    ),
    person_case(
        "as decimal and as uint64",
        {
            "a.parquet": pa.array([decimal.Decimal(PERSON)]),
            "b.parquet": pa.array([PERSON], pa.uint64()),
        },
    ),
    Case(
        "one person, two types",
        "users `007` and `7`: leading zeros of text stay",
        "2 people",
        lambda folder: f"{len({fingerprint.hash64(u) for u in _canonical('007', '7')})} people",
    ),
]


def _canonical(*users: str) -> list[str]:
    return [user or "" for user in id_texts(pa.array(users), len(users))]


def text_case(
    kind: str, example: str, happens: str, name: str, data: bytes | str, *columns: str
) -> Case:
    """A log that is one file."""

    def run(folder: Path) -> str:
        content = data.encode() if isinstance(data, str) else data
        (folder / name).write_bytes(content)
        return read_log_of(folder, *columns)

    return Case(kind, example, happens, run)


def struct_case(folder: Path) -> str:
    parquet(folder, {"query": [{"text": "blue car", "lang": "en"}], "image": ["car-1"]})
    return read_log_of(folder, "query=query.text")


OBJECT = '{"query": {"text": "blue car", "lang": "en"}, "image": "car-1"}\n'
nested = functools.partial(text_case, "nested values")
NESTED_CASES = [
    nested(
        'JSON lines with `"query": {"text": …}`',
        "refused: column 'query' of log.jsonl: expected one text a row for 'query', found an "
        "object. Name one value in it: --columns query=query.text.",
        "log.jsonl",
        OBJECT,
    ),
    nested(
        "the same with `--columns query=query.text`", READ, "log.jsonl", OBJECT, "query=query.text"
    ),
    Case(
        "nested values", "a struct of Parquet with `--columns query=query.text`", READ, struct_case
    ),
    nested(
        "JSON lines, `user` an object",
        "refused: column 'user' of log.jsonl: expected one id a row for 'user', found an object. "
        "Name one value in it: --columns user=user.id; to do without it, --columns user=.",
        "log.jsonl",
        '{"query": "blue car", "image": "car-1", "user": {"id": 7}}\n',
    ),
    nested(
        'JSON lines, `"query": ["blue", "car"]`',
        "refused: column 'query' of log.jsonl: expected one text a row for 'query', found a list. "
        "Write one value a row, or name another column with --columns query=COLUMN.",
        "log.jsonl",
        '{"query": ["blue", "car"], "image": "car-1"}\n',
    ),
]


def time_case(example: str, text: str, happens: str, day: int | None = None) -> Case:
    """A log of one row with a time."""

    def run(folder: Path) -> str:
        found = moments.of_texts(pa.array([text]), day)[0]
        if np.isnan(found):
            (folder / "log.tsv").write_text(f"query\timage\ttimestamp\nred\ta\t{text}\n")
            return read_log_of(folder, day=day).partition(" docs/")[0]
        return f"{np.datetime64(int(found), 'ms')} UTC"

    return Case("times", f"`{text}` ({example})", happens, run)


AT = "2023-11-14T22:13:20.000 UTC"
REFUSED_TIME = (
    "refused: column 'timestamp' of log.tsv: expected times, found none in its first rows: "
)
TIME_CASES = [
    *(
        time_case(example, text, AT)
        for example, text in (
            ("BigQuery", "2023-11-14 22:13:20 UTC"),
            ("Spark", "2023-11-14T22:13:20.000Z"),
            ("Postgres", "2023-11-14 22:13:20+00"),
            ("Snowflake", "2023-11-14 14:13:20.000 -0800"),
            ("pandas", "2023-11-14 22:13:20+00:00"),
            ("JavaScript", "Tue Nov 14 2023 22:13:20 GMT+0000 (Coordinated Universal Time)"),
            ("JavaScript, toUTCString", "Tue, 14 Nov 2023 22:13:20 GMT"),
            ("Apache", "[14/Nov/2023:22:13:20 +0000]"),
            ("RFC 2822", "Tue, 14 Nov 2023 23:13:20 +0100"),
            ("ctime", "Tue Nov 14 22:13:20 2023"),
            ("a month's name", "Nov 14, 2023 10:13:20 PM"),
            ("Java", "2023-11-14T23:13:20+01:00[Europe/Paris]"),
            ("digits", "20231114221320"),
            ("seconds", "1700000000"),
            ("milliseconds", "1700000000000"),
            ("microseconds", "1700000000000000"),
            ("nanoseconds", "1700000000000000000"),
        )
    ),
    time_case("a time of day, with `--partition 2023-11-14`", "22:13:20", AT, day=19_675),
    time_case(
        "a time of day alone",
        "22:13:20",
        REFUSED_TIME + "'22:13:20' is a time of day alone; say of which day with --partition of "
        "mine_log.",
    ),
    time_case(
        "which may be of two days",
        "01/02/2023",
        REFUSED_TIME + "'01/02/2023' may be of two days; write the year first, as in 2023-02-01.",
    ),
    time_case(
        "a zone of which there are several",
        "2023-11-14 22:13:20 CST",
        REFUSED_TIME + "'2023-11-14 22:13:20 CST' has a zone by name; write an offset such as "
        "+01:00, or UTC.",
    ),
]

TABLE = "query,image\nblue car,car-1\n"
SEMICOLONS = TABLE.replace(",", ";")
ROW = {"query": "blue car", "image": "car-1"}
wrong = functools.partial(text_case, "wrong remedy")


def made_case(example: str, happens: str, make: Callable[[Path], object]) -> Case:
    """A log that a library writes."""

    def run(folder: Path) -> str:
        make(folder)
        return read_log_of(folder)

    return Case("wrong remedy", example, happens, run)


def workbook(folder: Path) -> None:
    with zipfile.ZipFile(folder / "log.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/worksheets/sheet1.xml", "<worksheet/>")


def database(folder: Path) -> None:
    with sqlite3.connect(folder / "log.db") as connection:
        connection.execute("create table log (query text, image text)")


def parts(folder: Path) -> None:
    (folder / "0.csv").write_text("")
    (folder / "1.csv").write_text(TABLE)


NO_LOG = (
    "expected a log in one of table, clickture, unsplash, wit, conceptual_captions, "
    "coco_captions, webvision, open_images, img2dataset, found "
)
SEE = " See docs/use/formats.md for the layouts; leave out files that are none of the log."
WRONG_CASES = [
    wrong("CSV with semicolons (Excel in German)", READ, "log.csv", SEMICOLONS),
    wrong("`sep=;` in the first line (Excel)", READ, "log.csv", "sep=;\r\n" + SEMICOLONS),
    wrong("CSV with bars", READ, "log.csv", TABLE.replace(",", "|")),
    wrong("CSV in UTF-16 with its mark", READ, "log.csv", TABLE.encode("utf-16")),
    wrong("CSV in UTF-16 without its mark", READ, "log.csv", TABLE.encode("utf-16-le")),
    wrong("CSV with a byte order mark", READ, "log.csv", "\ufeff" + TABLE),
    wrong("line ends of old Macs", READ, "log.csv", TABLE.replace("\n", "\r")),
    wrong(
        "TSV that quotes",
        READ,
        "log.tsv",
        '"query"\t"image"\n"blue car"\t"car-1"\n',
    ),
    wrong("a JSON array", READ, "log.json", json.dumps([ROW])),
    wrong("pretty JSON", READ, "log.json", json.dumps([ROW], indent=2)),
    wrong("JSON lines that are called .csv", READ, "log.csv", json.dumps(ROW)),
    made_case("an empty part among good ones", READ, parts),
    wrong(
        "an empty file",
        "refused: --log LOG: expected files with clicks or captions, found none (empty: "
        "log.csv). Check the export.",
        "log.csv",
        "",
    ),
    wrong(
        "no header",
        "refused: column 'query' of log.csv: expected a column for 'query', found blue car, "
        "car-1.jpg, 3. Its first line looks like a row: write the names of the columns above it, "
        "such as query,image,clicks,impressions,position,session,user,timestamp,language.",
        "log.csv",
        "blue car,car-1.jpg,3\nred shoe,shoe-7.jpg,1\n",
    ),
    wrong(
        "other names",
        "refused: column 'query' of log.csv: expected a column for 'query', found Query, IMAGE. "
        "Name it with --columns 'query=Query,image=IMAGE'.",
        "log.csv",
        "Query,IMAGE\nblue car,car-1\n",
    ),
    wrong(
        "an HTML page of an error",
        f"refused: log.csv: {NO_LOG}an HTML page, perhaps an error page. Get the file again.{SEE}",
        "log.csv",
        "<!DOCTYPE html>\n<html><body>Not found</body></html>",
    ),
    wrong(
        "a Git LFS pointer",
        f"refused: log.parquet: {NO_LOG}a Git LFS pointer, not the file itself. Run `git lfs "
        f"pull`.{SEE}",
        "log.parquet",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    ),
    made_case(
        "an Excel workbook",
        "refused: log.xlsx: expected a readable file (a workbook or document of an office "
        "program; save it as CSV (UTF-8)). Check the file.",
        workbook,
    ),
    made_case(
        "an SQLite database",
        f"refused: log.db: {NO_LOG}an SQLite database. Export the table that you want as CSV.{SEE}",
        database,
    ),
    made_case(
        "an ORC file",
        f"refused: log.orc: {NO_LOG}an ORC file. Export it as Parquet, CSV or JSON lines.{SEE}",
        lambda folder: pa.orc.write_table(pa.table({"query": ["x"]}), str(folder / "log.orc")),
    ),
]


def archive_of(folder: Path, *names: str) -> bytes:
    with zipfile.ZipFile(folder.parent / "made.zip", "w") as archive:
        for name in names:
            archive.writestr(name, TABLE)
    return (folder.parent / "made.zip").read_bytes()


def packed_case(example: str, name: str, pack: Callable[[bytes], bytes]) -> Case:
    return text_case("compression by content", example, READ, name, pack(TABLE.encode()))


def lz4(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def zip_case(example: str, happens: str, *names: str) -> Case:
    def run(folder: Path) -> str:
        (folder / "log.zip").write_bytes(archive_of(folder, *names))
        return read_log_of(folder)

    return Case("compression by content", example, happens, run)


PACKED_CASES = [
    packed_case("xz without a suffix", "log", lzma.compress),
    packed_case("gzip without a suffix", "log.csv", gzip.compress),
    packed_case("zstd that is called .gz", "log.csv.gz", zstandard.compress),
    packed_case("bzip2 that is called .txt", "log.txt", bz2.compress),
    packed_case("LZ4", "log.csv.lz4", lz4),
    packed_case("text that is called .gz", "log.csv.gz", lambda data: data),
    zip_case("a zip archive of one file", READ, "log.csv"),
    zip_case("the same, made by a Mac", READ, "log.csv", "__MACOSX/._log.csv"),
    zip_case(
        "a zip archive of two files",
        "refused: log.zip: expected a readable file (a zip archive of 2 files (a.csv, b.csv), "
        "not of one; unpack it). Check the file.",
        "a.csv",
        "b.csv",
    ),
]

CASES = [
    *COLUMN_CASES,
    *PERSON_CASES,
    *NESTED_CASES,
    *TIME_CASES,
    *WRONG_CASES,
    *PACKED_CASES,
]
