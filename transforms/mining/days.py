"""Days of evidence, merged: what any days together tell of pairs and queries, without people."""

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.datasets.shard_files import open_parquet
from transforms.files.secret_files import FromFiles
from transforms.mining.deletions import Deletions
from transforms.mining.events import CLICK_UNIT, EVENTS
from transforms.mining.evidence import (
    A_USER,
    EVIDENCE,
    NOBODY,
    VISITS,
    DayRules,
    add_up,
    forget,
    join_runs,
    mine_days,
)
from transforms.rows.checked import one_form
from transforms.shards.blocks import from_blocks
from transforms.shards.outputs import COUNTS, NOTES, Output, par_do

PAIR_EVIDENCE = pa.schema(
    [
        ("query_id", pa.int64()),
        ("key", pa.string()),
        ("position", pa.int32()),
        ("clicks", pa.int64()),
        ("impressions", pa.int64()),
        ("first_person", pa.int64()),  # smallest and largest hash of those who clicked:
        ("last_person", pa.int64()),  # one person where both are the same
        ("rows", pa.int64()),
    ]
)
QUERY_USERS = pa.schema([("query_id", pa.int64()), ("users", pa.int64())])
QUERY_DAYS = pa.schema(
    [
        ("query_id", pa.int64()),
        ("day", pa.int32()),
        ("clicks", pa.int64()),
        ("impressions", pa.int64()),
    ]
)
STEPS = pa.schema(
    [("query_a", pa.int64()), ("query_b", pa.int64()), ("reformulations", pa.int64())]
)
FACTS = pa.schema([("name", pa.string()), ("value", pa.int64())])

SEVERAL = (np.iinfo(np.int64).min, np.iinfo(np.int64).max)  # what clicks of nobody count as
READ_ROWS = 1 << 19


def merge_days(evidence: pa.Table, visits: pa.Table, gap_seconds: float) -> Output:
    """Merges what the same people did on any days.

    Args:
      evidence: rows of EVIDENCE, all of each person's.
      visits: rows of VISITS, all of each session's.
      gap_seconds: a longer pause ends a session.

    Returns:
      Tables `pairs` (PAIR_EVIDENCE), `users` (QUERY_USERS), `days` (QUERY_DAYS), `steps`
      (STEPS) and `facts` (FACTS): people are told apart here for the last time.
    """
    clicked = pc.greater(evidence["clicks"], 0)
    is_known = pc.greater(evidence["known"], NOBODY)
    for name, several in zip(("first_person", "last_person"), SEVERAL, strict=True):
        person = pc.if_else(is_known, evidence["person"], several)
        evidence = evidence.append_column(name, pc.if_else(clicked, person, None))
    pairs = add_up(
        evidence,
        ["query_id", "key", "position"],
        PAIR_EVIDENCE,
        first_person="min",
        last_person="max",
    )
    users = evidence.filter(pc.equal(evidence["known"], A_USER))
    users = users.group_by(["query_id", "person"], use_threads=False).aggregate([])
    users = users.append_column("users", pa.array(np.ones(len(users), np.int64)))
    days = evidence.filter(pc.is_valid(evidence["day"]))
    tables = {
        "pairs": pairs,
        "users": add_up(users, ["query_id"], QUERY_USERS),
        "days": add_up(days, ["query_id", "day"], QUERY_DAYS),
        "steps": _steps(visits, gap_seconds),
        "facts": facts(evidence),
    }
    return Output(tables)


def _steps(visits: pa.Table, gap_seconds: float) -> pa.Table:
    visits = join_runs(visits)
    session, query = visits["session"].to_numpy(), visits["query_id"].to_numpy()
    start, end = visits["start"].to_numpy(), visits["end"].to_numpy()
    steps = np.flatnonzero(
        (session[1:] == session[:-1]) & (start[1:] - end[:-1] <= gap_seconds * 1000)
    )
    left, right = query[steps], query[steps + 1]
    table = pa.table(
        [np.minimum(left, right), np.maximum(left, right), np.ones(len(steps), np.int64)], STEPS
    )
    return add_up(table, ["query_a", "query_b"], STEPS)


def facts(evidence: pa.Table) -> pa.Table:
    """Sums over all that people did, from which the whole log is known.

    Returns:
      Rows of FACTS. `users`: rows with a known user; `unclicked`: impressions without a
      click; `clicks@k`, `impressions@k`: of position k.
    """
    clicks = pc.divide(pc.add(evidence["clicks"], CLICK_UNIT - 1), CLICK_UNIT)
    unclicked = pc.max_element_wise(pc.subtract(evidence["impressions"], clicks), 0)
    names = ["users", "unclicked"]
    values = [
        pc.sum(pc.equal(evidence["known"], A_USER)).as_py() or 0,
        pc.sum(unclicked).as_py() or 0,
    ]
    by_position = evidence.group_by("position", use_threads=False).aggregate(
        [("clicks", "sum"), ("impressions", "sum")]
    )
    for row in by_position.to_pylist():
        names += [f"{what}@{row['position']}" for what in ("clicks", "impressions")]
        values += [row["clicks_sum"], row["impressions_sum"]]
    return pa.table([names, values], FACTS)


MERGED = ("pairs", "users", "days", "steps", "facts")


class MergeDays(beam.PTransform):
    """Shards of people ({evidence, visits}) → tagged tables of `merge_days`."""

    def __init__(self, gap_seconds: float):
        super().__init__()
        self._gap_seconds = gap_seconds

    def _merge(self, shard):
        _, blocks = shard
        evidence = from_blocks(blocks["evidence"], EVIDENCE)
        visits = from_blocks(blocks["visits"], VISITS)
        yield from merge_days(evidence, visits, self._gap_seconds).tagged()

    def expand(self, shards):
        return shards | par_do(self._merge, tags=MERGED)


class MineAndMergeDays(beam.PTransform):
    """Shards of people ({events}) → what MineDays and MergeDays give, without a shuffle between."""

    def __init__(self, rules: FromFiles[DayRules], gap_seconds: float):
        super().__init__()
        self._rules, self._gap_seconds = rules, gap_seconds

    def _mine(self, shard):
        _, blocks = shard
        mined = mine_days(from_blocks(blocks["events"], EVENTS), self._rules())
        merged = merge_days(mined.tables["evidence"], mined.tables["visits"], self._gap_seconds)
        tables = merged.tables | {"languages": mined.tables["languages"]}
        yield from Output(tables, (), mined.counts, notes=mined.notes).tagged()

    def expand(self, shards):
        return shards | par_do(self._mine, tags=(COUNTS, NOTES, "languages", *MERGED))


class ReadDays(beam.PTransform):
    """PCollection[path of a day's shard] → PCollection of its tables, less what is forgotten."""

    def __init__(self, schema: pa.Schema, deletions: FromFiles[Deletions]):
        super().__init__()
        self._schema, self._deletions = schema, deletions

    def _read(self, path) -> Iterator[pa.Table]:
        with open_parquet(path) as file:
            for batch in file.iter_batches(READ_ROWS):
                table = pa.Table.from_batches([batch]).cast(self._schema)
                if "key" in table.column_names:  # an older version kept them as the log has them
                    place = table.schema.get_field_index("key")
                    table = table.set_column(place, "key", one_form(table["key"]))
                yield forget(table, self._deletions()) if "person" in table.column_names else table

    def expand(self, paths):
        return paths | beam.Reshuffle() | beam.FlatMap(self._read)
