"""What people did, told without who they are: events → evidence for pairs of image and query.

The rows of one person meet in one shard. There equal rows become one event, robots go, and
what is left of a day is added up (`mine_days`): these tables of one day can be kept, and
those of any days merge into what a single run over all of them gives (transforms/mining/days.py).
"""

import dataclasses
from collections.abc import Iterator, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.base import fingerprint
from schemas.base.errors import PhraseLensError
from transforms.files.secret_files import FromFiles
from transforms.mining.deletions import Deletions
from transforms.mining.events import CLICK_UNIT, DAY_MS, EVENTS, QUERY_TEXTS
from transforms.shards.blocks import SplitTables, from_blocks
from transforms.shards.ceilings import EXAMPLES
from transforms.shards.outputs import COUNTS, NOTES, Notes, Output, par_do

EVIDENCE = pa.schema(
    [
        ("person", pa.int64()),  # hash of the user, else of the session, else of query and image
        ("known", pa.int8()),  # NOBODY, A_SESSION or A_USER
        ("day", pa.int32()),  # since 1970, or null
        ("query_id", pa.int64()),
        ("key", pa.string()),
        ("position", pa.int32()),
        ("clicks", pa.int64()),
        ("impressions", pa.int64()),
        ("rows", pa.int64()),  # events that it stands for
    ]
)
VISITS = pa.schema(
    [
        ("person", pa.int64()),
        ("session", pa.int64()),
        ("query_id", pa.int64()),
        ("start", pa.int64()),  # milliseconds, first and last event of a run of one query
        ("end", pa.int64()),
    ]
)
LANGUAGES = pa.schema(
    [
        ("person", pa.int64()),
        ("query_id", pa.int64()),
        ("language", pa.string()),
        ("rows", pa.int64()),
    ]
)

NOBODY, A_SESSION, A_USER = 0, 1, 2
ROBOTS = "deliveries.dropped_robot"


@dataclasses.dataclass(frozen=True)
class DayRules:
    """What one person can do on a day; see the flags of beam_jobs/mining/log_flags.py.

    Attributes:
      max_person_events: who does more is a robot.
      max_person_clicks: clicks, and impressions, of one person on one pair that count.
      day: days since 1970 that rows without a time are of, or None.
      deletions: what must be forgotten.
    """

    max_person_events: int = 1000
    max_person_clicks: int = 3
    day: int | None = None
    deletions: Deletions = dataclasses.field(default_factory=Deletions)


def add_up(table: pa.Table, keys: list[str], schema: pa.Schema, **how: str) -> pa.Table:
    """Groups a table by `keys` and aggregates the other columns of `schema` (default: sum)."""
    rest = [name for name in schema.names if name not in keys]
    aggregates = [(name, how.get(name, "sum")) for name in rest]
    grouped = table.group_by(keys, use_threads=False).aggregate(aggregates)
    return grouped.rename_columns([*keys, *rest]).select(schema.names).cast(schema)


def people(events: pa.Table) -> np.ndarray:
    """[rows] int64: hash of the user, else of the session, else of query and image."""
    person = pc.coalesce(events["user"], events["session"])
    if not person.null_count:
        return person.to_numpy()
    nobody = fingerprint.mix(events["query_id"].to_numpy(), fingerprint.hash64_array(events["key"]))
    return pc.coalesce(person, pa.array(nobody)).to_numpy()


def routes(events: pa.Table) -> np.ndarray:
    """[rows] int64 hash that brings the events of a person together, and equal events.

    Events of nobody in particular spread by all that they say: no query or image is so
    popular that all of it lands in one shard.
    """
    spread = fingerprint.mix(people(events), pc.fill_null(events["time"], 0).to_numpy())
    return pc.coalesce(events["user"], events["session"], pa.array(spread)).to_numpy()


def mine_days(events: pa.Table, rules: DayRules) -> Output:
    """Adds up what people did, day by day.

    Args:
      events: rows of EVENTS, all of each person's, of any days.
      rules: see `DayRules`.

    Returns:
      Tables `evidence`, `visits` and `languages`; counts of `deliveries` (events that
      arrived more than once, or were a robot's, are dropped) and of `remembered` ones; notes
      of the biggest robots.
    """
    names = [
        name for name in EVENTS.names if events[name].null_count < len(events) or name == "time"
    ]
    unique = events.group_by(names, use_threads=False).aggregate([([], "count_all")])
    for name in set(EVENTS.names) - set(names):
        unique = unique.append_column(name, pa.nulls(len(unique), EVENTS.field(name).type))
    day = pa.array(
        np.floor_divide(pc.fill_null(unique["time"], 0).to_numpy(), DAY_MS).astype(np.int32)
    )
    day = pc.if_else(pc.is_valid(unique["time"]), day, pa.scalar(rules.day, pa.int32()))
    known = pc.if_else(
        pc.is_valid(unique["user"]), A_USER, pc.cast(pc.is_valid(unique["session"]), pa.int64())
    )
    unique = unique.append_column("day", day)
    unique = unique.append_column("known", known.cast(pa.int8()))
    unique = unique.append_column("person", pa.array(people(unique)))

    busy = unique.filter(pc.equal(unique["part"], 0))
    busy = busy.group_by(["person", "known", "day"], use_threads=False)
    busy = busy.aggregate([([], "count_all")])
    is_robot = pc.and_(
        pc.greater(busy["known"], NOBODY), pc.greater(busy["count_all"], rules.max_person_events)
    )
    robots = busy.filter(is_robot)
    by_robots = _rows_of(unique, robots.select(["person", "day"]))
    robot_rows = int(unique["count_all"].to_numpy()[by_robots].sum())
    kept = unique.filter(pa.array(~by_robots))
    whole = {
        "evidence": _evidence(kept, rules.max_person_clicks),
        "visits": _visits(kept),
        "languages": _languages(kept),
    }
    tables = {name: forget(table, rules.deletions) for name, table in whole.items()}
    remembered = pc.sum(tables["evidence"]["rows"]).as_py() or 0
    counts = {
        "deliveries.in": events.num_rows,
        "deliveries.out": kept.num_rows,
        ROBOTS: robot_rows,
        "deliveries.dropped_delivered_twice": events.num_rows - robot_rows - kept.num_rows,
        "remembered.in": kept.num_rows,
        "remembered.out": remembered,
        "remembered.dropped_forgotten": kept.num_rows - remembered,
    }
    return Output(tables, (), counts, notes={ROBOTS: _biggest(robots)})


def _biggest(robots: pa.Table) -> list[tuple[int, str]]:
    """The robots with most events on a day, by their hashes, as notes."""
    order = [("count_all", "descending"), ("person", "ascending"), ("day", "ascending")]
    return [
        (n := row["count_all"], f"user or session {row['person'] % 2**64:016x} ({n:,} on a day)")
        for row in robots.sort_by(order).slice(0, EXAMPLES).to_pylist()
    ]


def check_robots(counters: Mapping[str, int], notes: Notes, most: float) -> None:
    """Refuses a log of which too much is a robot's: mostly it is a name for people not known.

    Args:
      counters: see `mine_days`.
      notes: the biggest robots.
      most: share of the events that may be a robot's.

    Raises:
      PhraseLensError: more are.
    """
    robots, events = counters.get(ROBOTS, 0), counters.get("deliveries.in", 0)
    if not events or robots <= most * events:
        return
    shown = ", ".join(text for _, text in notes.get(ROBOTS, ()))
    raise PhraseLensError(
        f"{robots / events:.1%} of the events ({robots:,} of {events:,}) would be dropped as a "
        f"robot's, most of them of {shown}",
        f"at most {most:.1%}",
        "Where that is what the log writes for people whom it does not know, name it with "
        "--nobody (docs/how_it_works/mining.md says whose a hash is). Where people do so much, "
        "raise --max_person_events; where there are so many robots, --max_robot_share.",
    )


def forget(table: pa.Table, deletions: Deletions) -> pa.Table:
    """Rows of EVIDENCE, VISITS or LANGUAGES that need not be forgotten.

    Of an image its evidence goes; what people typed while they saw it is theirs.
    """
    if deletions == Deletions():
        return table
    keys, places = pa.array([""]), np.zeros(len(table), np.int64)
    if "key" in table.column_names:
        encoded = table["key"].combine_chunks().dictionary_encode()
        keys, places = encoded.dictionary, encoded.indices.to_numpy()
    query_ids, people = table["query_id"].to_numpy(), table["person"].to_numpy()
    return table.filter(pa.array(~deletions.match(keys, places, query_ids, people)))


def _rows_of(table: pa.Table, some: pa.Table) -> np.ndarray:
    """[rows] bool: rows of one of some (person, day)."""
    if not some.num_rows:
        return np.zeros(len(table), bool)

    def code(rows: pa.Table) -> np.ndarray:
        days = pc.fill_null(rows["day"], np.iinfo(np.int32).min).to_numpy().astype(np.int64)
        return fingerprint.mix(rows["person"].to_numpy(), days)

    known = table["known"].to_numpy() > NOBODY
    return known & np.isin(code(table), code(some))


def _evidence(events: pa.Table, max_person_clicks: int) -> pa.Table:
    events = events.append_column("rows", pa.array(np.ones(len(events), np.int64)))
    is_known = pc.greater(events["known"], NOBODY)
    known, unknown = events.filter(is_known), events.filter(pc.invert(is_known))
    known = known.set_column(
        known.column_names.index("position"),
        "position",
        pc.if_else(pc.equal(known["position"], 0), pa.scalar(None, pa.int32()), known["position"]),
    )
    keys = ["person", "known", "day", "query_id", "key"]
    people = add_up(known, keys, EVIDENCE, position="min")
    people = pa.table(
        {
            **{name: people[name] for name in EVIDENCE.names},
            "position": pc.fill_null(people["position"], 0),
            "clicks": pc.min_element_wise(people["clicks"], max_person_clicks * CLICK_UNIT),
            "impressions": pc.min_element_wise(people["impressions"], max_person_clicks),
        },
        EVIDENCE,
    )
    return pa.concat_tables([people, add_up(unknown, [*keys, "position"], EVIDENCE)])


def _visits(events: pa.Table) -> pa.Table:
    """Runs of one query in a session: rows of VISITS."""
    # People go from query to query, not to a part of what they typed.
    is_visit = pc.and_(pc.is_valid(events["session"]), pc.is_valid(events["time"]))
    events = events.filter(pc.and_(is_visit, pc.equal(events["part"], 0)))
    moments = ["person", "session", "time", "query_id"]
    events = events.select(moments).group_by(moments, use_threads=False).aggregate([])
    visits = pa.table(
        [events[name] for name in ("person", "session", "query_id", "time", "time")], VISITS.names
    )
    return join_runs(visits.cast(VISITS))


def join_runs(visits: pa.Table) -> pa.Table:
    """Joins visits that follow each other in a session with the same query; sorts them."""
    order = [(name, "ascending") for name in ("session", "start", "query_id")]
    visits = visits.sort_by(order)
    session, query = visits["session"].to_numpy(), visits["query_id"].to_numpy()
    first = np.ones(len(visits), bool)
    first[1:] = (session[1:] != session[:-1]) | (query[1:] != query[:-1])
    starts = np.flatnonzero(first)
    last = np.r_[starts[1:], len(visits)][: len(starts)] - 1
    runs = visits.take(pa.array(starts))
    return runs.set_column(VISITS.names.index("end"), "end", visits["end"].take(pa.array(last)))


def _languages(events: pa.Table) -> pa.Table:
    named = events.filter(pc.is_valid(events["language"]))
    named = named.append_column("rows", pa.array(np.ones(len(named), np.int64)))
    return add_up(named, ["person", "query_id", "language"], LANGUAGES)


class GroupPeople(beam.PTransform):
    """PCollection of EVENTS tables → shards of people ({events}), in blocks."""

    def __init__(self, num_shards: int, spill: str):
        super().__init__()
        self._num_shards, self._spill = num_shards, spill

    def expand(self, events):
        split = events | SplitTables(routes, self._num_shards, self._spill)
        return {"events": split} | beam.CoGroupByKey()


class MineDays(beam.PTransform):
    """Shards of people ({events}) → tagged `evidence`, `visits`, `languages`, `counts`, `notes`."""

    def __init__(self, rules: FromFiles[DayRules]):
        super().__init__()
        self._rules = rules

    def _mine(self, shard):
        _, blocks = shard
        yield from mine_days(from_blocks(blocks["events"], EVENTS), self._rules()).tagged()

    def expand(self, shards):
        return shards | par_do(self._mine, tags=(COUNTS, NOTES, "evidence", "visits", "languages"))


class KeepTyped(beam.PTransform):
    """Shards of queries ({texts, evidence}) → tables of QUERY_TEXTS that the evidence is of."""

    def _keep(self, shard) -> Iterator[pa.Table]:
        _, blocks = shard
        texts = from_blocks(blocks["texts"], QUERY_TEXTS)
        typed = from_blocks(blocks["evidence"], TYPED)["query_id"].combine_chunks()
        texts = texts.filter(pc.is_in(texts["query_id"], value_set=typed))
        yield texts.group_by(QUERY_TEXTS.names, use_threads=False).aggregate([])

    def expand(self, shards):
        return shards | beam.FlatMap(self._keep)


TYPED = pa.schema([("query_id", pa.int64())])


def typed(evidence: pa.Table) -> pa.Table:
    """The distinct queries of rows of EVIDENCE: rows of TYPED."""
    return pa.table([pc.unique(evidence["query_id"])], TYPED)
