"""mine_pairs on messy logs, against the same mining written as SQL."""

import collections
import contextlib
import dataclasses
import datetime
import io
import random
from pathlib import Path

import pytest
from hypothesis import Phase, assume, given, settings

from beam_jobs.mining import mine_log, mine_pairs
from schemas.datasets.checks import verify
from schemas.datasets.dataset import Dataset
from tests.support.inputs import messy_logs
from tests.support.inputs.image_files import encode, photo
from tests.support.inputs.messy_logs import write_log
from tests.support.oracles.mining_sql import Expected, Settings, mine

PICTURES = 18
# Two files of one picture each have keys of their own; their evidence is one picture's.
FILES = {f"p{i}": i for i in range(PICTURES)} | {f"copy{i}": i for i in range(0, PICTURES, 6)}
KEYS = sorted(FILES)
EPOCH = datetime.date(1970, 1, 1)
TABLES = ("pairs", "queries", "query_days", "query_pairs")
IDS = ("image_id", "query_id", "query_a", "query_b", "day")
# Where each count of the oracle is found among the counters of the job.
COUNTERS = {
    "private_query": "events",
    "blocked_query": "events",
    "no_click": "events",
    "robot": "deliveries",
    "unknown_image": "clicks",
    "delivered_twice": "deliveries",
    "few_clicks": "pairs",
    "one_person": "pairs",
    "few_users": "pairs",
    "query_cap": "pairs",
    "image_cap": "pairs",
    "variant": "pairs",
}
DEAD = {
    "bad_clicks",
    "bad_encoding",
    "bad_impressions",
    "bad_position",
    "bad_timestamp",
    "empty_query",
    "missing_image_key",
    "negative_clicks",
    "query_too_long",
}
MESSY = Settings(max_person_events=60, min_users=4, blocklist=("nasty",))
# What some seeds are mined with besides: every flag that decides rows takes part.
VARIED = (
    {},
    {"min_users": 1, "max_person_clicks": 1},
    {"one_person_pairs": True, "max_queries_per_image": 3},
    {"evidence": "count", "max_images_per_query": 4},
    {"evidence": "rate", "max_linked_queries": 2, "session_gap": 60.0},
    {"min_pair_clicks": 2.0, "variant_steps": 1, "head_queries": 5},
    {"variant_steps": 1, "min_users": 2, "max_query_chars": 14},
)


def run_job(job, **flags) -> str:
    """Runs a job in this process; returns what it printed."""
    printed = io.StringIO()
    argv = [f"--{name}={value}" for name, value in flags.items()]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = job.run([*argv, "--max_dead_fraction=1", "--max_robot_share=1"])
    assert status == 0, printed.getvalue()
    return printed.getvalue()


def flags_of(setting: Settings, folder: Path) -> dict:
    blocklist = folder / "blocklist.txt"
    blocklist.write_text("\n".join(setting.blocklist))
    own = ("partition", "forgotten_images", "forgotten_users")
    values = {n: v for n, v in vars(setting).items() if n not in own}
    return values | {"blocklist": blocklist}


def mine_with_job(folder: Path, log: list[dict], setting: Settings, **inputs) -> Dataset:
    inputs |= {"log": write_log(folder / "log.parquet", log), "output": folder / "mined"}
    run_job(mine_pairs, **inputs, **flags_of(setting, folder))
    return Dataset(str(folder / "mined"))


def mine_both(folder: Path, log: list[dict], setting: Settings, images: Path | None):
    """Mines a log with the job and with SQL: the job's dataset, and what must be in it."""
    mined = mine_with_job(folder, log, setting, **({"images": images} if images else {}))
    files = None
    if images:
        files = [
            {"key": key, "image_id": row["image_id"], "split": row["split"]}
            for row in mined.table("images").select(["image_id", "keys", "split"]).to_pylist()
            for key in row["keys"]
        ]
        assert sorted(row["key"] for row in files) == KEYS
    return mined, mine(log, files, setting)


def rows_of(rows: list[dict]) -> dict[tuple, dict]:
    """Rows by their ids; days as numbers."""
    found = {}
    for row in rows:
        values = {
            name: (value - EPOCH).days if isinstance(value, datetime.date) else value
            for name, value in row.items()
        }
        found[tuple(values[name] for name in IDS if name in values)] = values
    assert len(found) == len(rows)
    return found


def read(mined: Dataset, name: str) -> list[dict]:
    """The rows of a table, which may have none."""
    return [row for batch in mined.batches(name, batch_size=4096) for row in batch.to_pylist()]


def assert_equal(mined: Dataset, expected: Expected) -> None:
    for name in TABLES:
        found, wanted = rows_of(read(mined, name)), rows_of(expected.tables[name])
        assert found.keys() == wanted.keys(), name
        for ids, row in wanted.items():
            row = {c: v for c, v in row.items() if (c, v) != ("language", None)}
            got = {column: found[ids][column] for column in row}
            assert got == {
                c: pytest.approx(v, rel=1e-6) if isinstance(v, float) else v for c, v in row.items()
            }, (name, ids)
    counters = mined.manifest.counters
    dead = collections.Counter(row["reason"] for row in read(mined, "dead_letters"))
    for reason in {*expected.counts, *COUNTERS}:
        n = expected.counts.get(reason, 0)
        if reason in COUNTERS:
            assert counters.get(f"{COUNTERS[reason]}.dropped_{reason}", 0) == n, reason
            assert dead[reason] == 0, reason
        else:
            assert dead[reason] == n, reason
    assert set(dead) <= set(expected.counts)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for key, picture in FILES.items():
        format_ = "BMP" if key.startswith("copy") else "PNG"
        (folder / f"{key}.{format_.lower()}").write_bytes(encode(photo(picture), format_))
    return folder


# Each of VARIED once, with images and without; the other logs differ from these in rows alone.
SEEDS = [
    pytest.param(seed, marks=() if seed < len(VARIED) else pytest.mark.slow) for seed in range(20)
]


@pytest.mark.parametrize("seed", SEEDS)
def test_tables_are_what_sql_says(tmp_path, images, seed):
    setting = Settings(**(vars(MESSY) | VARIED[seed % len(VARIED)]))
    log = messy_logs.messy_log(seed, KEYS)
    mined, expected = mine_both(tmp_path, log, setting, images if seed % 4 == 0 else None)
    assert_equal(mined, expected)
    assert verify(str(tmp_path / "mined")) == []
    kinds = {edge["evidence"] for edge in expected.tables["query_pairs"]}
    assert len(kinds) > 1, "the log is too tame"


def test_the_logs_put_everything_to_the_test():
    """Over all seeds each reason, kind of evidence and flag has something to do."""
    reasons, kinds, variants, heads = set(), set(), 0, set()
    for seed in range(len(VARIED)):
        setting = Settings(**(vars(MESSY) | VARIED[seed]))
        expected = mine(messy_logs.messy_log(seed, KEYS), None, setting)
        reasons |= set(expected.counts)
        kinds |= {edge["evidence"] for edge in expected.tables["query_pairs"]}
        variants += sum(len(query["variants"]) for query in expected.tables["queries"])
        heads |= {query["head"] for query in expected.tables["queries"]}
    # Without images none is unknown; with some, the log's other keys are.
    assert reasons >= {*COUNTERS, *DEAD} - {"unknown_image"}
    files = [{"key": key, "image_id": key, "split": "train"} for key in KEYS]
    log = messy_logs.messy_log(0, KEYS)
    assert mine(log, files, Settings(**(vars(MESSY) | VARIED[0]))).counts["unknown_image"]
    assert kinds == {"co_click", "reformulation", "both", "skip"}
    assert variants > 5
    assert heads == {True, False}


SMALL_LOGS = given(log=messy_logs.small_logs(KEYS[:4]))
# A log that breaks the rule is small as it is; shrinking it would take minutes of jobs.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@settings(max_examples=3, phases=PHASES)
@SMALL_LOGS
def test_a_few_small_logs_are_mined_as_sql_says(tmp_path_factory, log):
    check_small_log(tmp_path_factory, log)


@pytest.mark.slow
@settings(max_examples=30, phases=PHASES)
@SMALL_LOGS
def test_small_logs_are_mined_as_sql_says(tmp_path_factory, log):
    check_small_log(tmp_path_factory, log)


def check_small_log(tmp_path_factory, log):
    setting = Settings(min_users=1, max_person_events=4, variant_steps=1, one_person_pairs=True)
    times = {row["timestamp"] for row in log} - {b""}
    # Without a pair, or with times of which none can be read, the job fails, as it should.
    assume(times != {b"x"})
    expected = mine(log, None, setting)
    assume(expected.tables["pairs"])
    assert_equal(mine_with_job(tmp_path_factory.mktemp("small"), log, setting), expected)


def checksums(folder: Path) -> dict:
    """What the tables of a dataset hold, byte by byte."""
    committed = Dataset(str(folder)).manifest.tables
    return {name: [(s.index, s.rows, s.sha256) for s in committed[name].shards] for name in TABLES}


@pytest.mark.parametrize("count", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_days_merged_are_one_run(tmp_path, count):
    days: dict[str, list[dict]] = {}
    for row in messy_logs.messy_log(1, KEYS, rows=700 + 60 * count, days=count):
        # Without a time a row is of the day that it is mined with: here of none.
        day = messy_logs.day_of(row["timestamp"])
        if day is not None and 0 <= day < count:
            date = datetime.date(2026, 11, 20) + datetime.timedelta(day)
            days.setdefault(str(date), []).append(row)
    assert len(days) == count
    flags = flags_of(MESSY, tmp_path)
    whole = write_log(tmp_path / "whole.parquet", [row for rows in days.values() for row in rows])
    run_job(mine_pairs, log=whole, output=tmp_path / "whole", num_shards=4, **flags)
    of_days = {field.name for field in dataclasses.fields(mine_log.Config)} & flags.keys()
    day_flags = {name: flags.pop(name) for name in of_days}
    for day, rows in days.items():
        path = write_log(tmp_path / f"{day}.parquet", rows)
        run_job(mine_log, log=path, partition=day, output=tmp_path / "days" / day, **day_flags)
    merged = {"days": tmp_path / "days", "output": tmp_path / "merged", "num_shards": 4}
    run_job(mine_pairs, **merged, **flags)
    assert checksums(tmp_path / "merged") == checksums(tmp_path / "whole")


# With workers of their own test_mine_pairs.py mines a log every time.
WORKERS = [
    pytest.param({}, id="one process"),
    pytest.param(
        {"direct_running_mode": "multi_processing", "direct_num_workers": 2},
        id="two workers",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("workers", WORKERS)
def test_order_deliveries_and_workers_do_not_matter(tmp_path, workers):
    log = messy_logs.messy_log(2, KEYS)
    flags = flags_of(MESSY, tmp_path) | {"num_shards": 4}
    path = write_log(tmp_path / "log.parquet", log)
    run_job(mine_pairs, log=path, output=tmp_path / "one", **flags)
    again = tmp_path / "again"
    again.mkdir()
    for name in ("a", "b"):
        random.Random(name).shuffle(log)
        write_log(again / f"{name}0.parquet", log[:500])
        write_log(again / f"{name}1.parquet", log[500:])
    run_job(mine_pairs, log=again, output=tmp_path / "two", **flags, **workers)
    assert checksums(tmp_path / "two") == checksums(tmp_path / "one")
