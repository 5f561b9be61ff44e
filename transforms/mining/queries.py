"""The table of queries: text, language, support, spellings and history of each."""

from collections.abc import Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.text.language import detect_languages
from schemas.runs.run import Run
from schemas.tables import mined as tables
from schemas.tables.dead_letters import dead_letters
from transforms.mining.days import QUERY_DAYS, QUERY_USERS
from transforms.mining.events import CLICK_UNIT, QUERY_TEXTS
from transforms.mining.evidence import LANGUAGES, add_up
from transforms.shards.blocks import from_blocks
from transforms.shards.outputs import SHARDS, Output, par_do, write_sorted

QUERY_STATS = pa.schema(
    [
        ("query_id", pa.int64()),
        ("clicks", pa.float64()),
        ("images", pa.int64()),
        ("train_clicks", pa.float64()),
        ("train_images", pa.int64()),
    ]
)
# Queries that are spellings of another, which is none itself.
VARIANTS = pa.schema([("query_id", pa.int64()), ("canonical_id", pa.int64())])
VOTES = pa.schema([field for field in LANGUAGES if field.name != "person"])
QUERY_IDS = pa.schema([("query_id", pa.int64())])


def ids_of(table: pa.Table) -> pa.Table:
    """The column of ids of a table: rows of QUERY_IDS."""
    return table.select(QUERY_IDS.names)


def one_text_each(texts: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The text of each id, and those that another text keeps from it.

    Ids have 64 bits: among 1e10 queries two or three pairs share one. The first of two texts by
    their order has the id, on whichever worker they meet.

    Args:
      texts: rows of QUERY_TEXTS, any number of each.

    Returns:
      Rows of QUERY_TEXTS: each id once; and all other texts, each once.
    """
    distinct = texts.group_by(QUERY_TEXTS.names, use_threads=False).aggregate([])
    distinct = distinct.sort_by([(name, "ascending") for name in QUERY_TEXTS.names])
    query_ids = distinct["query_id"].to_numpy()
    is_other = np.concatenate([np.zeros(min(1, len(query_ids)), bool), np.diff(query_ids) == 0])
    return distinct.filter(pa.array(~is_other)), distinct.filter(pa.array(is_other))


def texts_of(ids: pa.Array, texts: pa.Table, run: Run) -> Output:
    """The texts of some queries, each id's once.

    Args:
      ids: [n] int64.
      texts: rows of QUERY_TEXTS of these and other queries.
      run: the run, named in dead letters.

    Returns:
      Table `texts` (QUERY_TEXTS), dead letters of those that another text keeps from their id, and
      counts of `query_texts`. A dead letter names the id alone: what people typed stands in none.
    """
    kept, others = one_text_each(texts.filter(pc.is_in(texts["query_id"], value_set=ids)))
    letters = dead_letters(
        run.name,
        run.run_id,
        "id_collision",
        [f"query {query_id}" for query_id in others["query_id"].to_pylist()],
        ["another query has the id, and what people did for both counts for it"] * len(others),
        payloads=[b""] * len(others),
    )
    counts = {"in": len(kept) + len(others), "out": len(kept), "dropped_id_collision": len(others)}
    return Output(
        {"texts": kept}, (letters,), {f"query_texts.{name}": n for name, n in counts.items()}
    )


def rename_variants(rows: pa.Table, variants: pa.Table, column: str = "query_id") -> pa.Table:
    """Puts what a variant is a spelling of in its place.

    Args:
      rows: a table with the int64 `column`.
      variants: rows of VARIANTS.
      column: of ids of queries.
    """
    place = pc.index_in(rows[column], value_set=variants["query_id"].combine_chunks())
    canonical = pc.coalesce(variants["canonical_id"].take(place), rows[column])
    return rows.set_column(rows.column_names.index(column), column, canonical)


def query_stats(pairs: pa.Table) -> pa.Table:
    """Clicks and images of each query among rows of tables.PAIRS: rows of QUERY_STATS."""
    trains = pc.equal(pairs["split"], "train")
    table = pa.table(
        {
            "query_id": pairs["query_id"],
            "clicks": pairs["clicks"],
            "images": np.ones(len(pairs), np.int64),
            "train_clicks": pc.if_else(trains, pairs["clicks"], 0.0),
            "train_images": trains.cast(pa.int64()),
        },
        QUERY_STATS,
    )
    return add_up(table, ["query_id"], QUERY_STATS)  # sums of 1/1024ths: exact in any order


def build_queries(
    stats: pa.Table,
    *,
    texts: pa.Table,
    languages: pa.Table,
    users: pa.Table,
    days: pa.Table,
    spellings: pa.Table,
) -> tuple[pa.Table, pa.Table]:
    """The queries of one shard that have pairs, and their history.

    Args:
      stats: rows of QUERY_STATS.
      texts: rows of QUERY_TEXTS.
      languages: rows of VOTES; the one that most events give wins, and where none does
        the text is identified.
      users: rows of QUERY_USERS.
      days: rows of days.QUERY_DAYS.
      spellings: rows of QUERY_TEXTS: other spellings of a query.

    Returns:
      Rows of tables.QUERIES with `head` still false, and rows of tables.QUERY_DAYS.
    """
    stats = add_up(stats, ["query_id"], QUERY_STATS).sort_by("query_id")
    ids = stats["query_id"].combine_chunks()
    query = _look_up(one_text_each(texts)[0], "query", ids)
    votes = add_up(languages, ["query_id", "language"], VOTES).sort_by(
        [("query_id", "ascending"), ("rows", "descending"), ("language", "ascending")]
    )
    voted = _look_up(votes, "language", ids)
    silent = pc.is_null(voted)
    detected = pa.array(detect_languages(query.filter(silent).to_pylist()), pa.string())
    language = pc.replace_with_mask(voted, silent, detected)
    counted = add_up(users, ["query_id"], QUERY_USERS)
    history = days.filter(pc.is_in(days["query_id"], value_set=ids))
    history = add_up(history, ["query_id", "day"], QUERY_DAYS)
    ends = history.group_by("query_id", use_threads=False).aggregate(
        [("day", "min"), ("day", "max")]
    )
    variants: dict[int, set[str]] = {}
    for row in spellings.to_pylist():
        variants.setdefault(row["query_id"], set()).add(row["query"])
    queries = pa.table(
        {
            **{name: stats[name] for name in QUERY_STATS.names},
            "query": query,
            "language": language,
            "users": pc.fill_null(_look_up(counted, "users", ids), 0),
            "head": np.zeros(len(stats), bool),
            "first_day": _look_up(ends, "day_min", ids).cast(pa.date32()),
            "last_day": _look_up(ends, "day_max", ids).cast(pa.date32()),
            "variants": pa.array(
                [sorted(variants.get(query_id, ())) for query_id in ids.to_pylist()],
                pa.list_(pa.string()),
            ),
        }
    )
    clicks = pc.divide(history["clicks"].cast(pa.float64()), float(CLICK_UNIT))
    history = pa.table(
        [history["query_id"], history["day"].cast(pa.date32()), clicks, history["impressions"]],
        tables.QUERY_DAYS,
    )
    return queries.select(tables.QUERIES.names).cast(tables.QUERIES), history


def _look_up(table: pa.Table, column: str, ids: pa.Array) -> pa.Array:
    """The first row of each id, or null."""
    place = pc.index_in(ids, value_set=table["query_id"].combine_chunks())
    return table[column].combine_chunks().take(place)


def head_support(histogram: Mapping[int, int], head_queries: int) -> int:
    """Training images that a head query has at least.

    Args:
      histogram: training images → how many queries have so many.
      head_queries: how many may be head; of queries that tie at the border none is.
    """
    taken, support = 0, max(histogram, default=0) + 1
    for images in sorted(histogram, reverse=True):
        taken += histogram[images]
        if taken > head_queries or not images:
            break
        support = images
    return support


class KeepHistory(beam.PTransform):
    """Shards of queries ({languages, days, known}) → tagged `languages` (VOTES), `days`.

    Of the queries that may leave only, and added up. What waits for the spelling variants
    to be found waits in the memory of some runners: it must be small.
    """

    def _keep(self, shard):
        _, blocks = shard
        known = from_blocks(blocks["known"], QUERY_IDS)["query_id"].combine_chunks()
        found = {
            "languages": (from_blocks(blocks["languages"], LANGUAGES), VOTES),
            "days": (from_blocks(blocks["days"], QUERY_DAYS), QUERY_DAYS),
        }
        for name, (table, schema) in found.items():
            table = table.filter(pc.is_in(table["query_id"], value_set=known))
            summed = add_up(table, schema.names[:2], schema)
            yield beam.pvalue.TaggedOutput(name, summed)

    def expand(self, shards):
        return shards | par_do(self._keep, tags=("languages", "days"))


class BuildQueries(beam.PTransform):
    """Shards of queries → PCollection[(name, Shard)] of tables.QUERIES and tables.QUERY_DAYS.

    Input: shards of {stats, texts, languages, users, days, spellings}.
    """

    def __init__(self, run: Run, num_shards: int, head_queries: int):
        super().__init__()
        self._run, self._num_shards, self._head_queries = run, num_shards, head_queries

    def _build(self, shard):
        index, blocks = shard
        stats = from_blocks(blocks["stats"], QUERY_STATS)
        if not stats.num_rows:
            return
        queries, history = build_queries(
            stats,
            texts=from_blocks(blocks["texts"], QUERY_TEXTS),
            languages=from_blocks(blocks["languages"], VOTES),
            users=from_blocks(blocks["users"], QUERY_USERS),
            days=from_blocks(blocks["days"], QUERY_DAYS),
            spellings=from_blocks(blocks["spellings"], QUERY_TEXTS),
        )
        yield beam.pvalue.TaggedOutput("queries", (index, queries))
        if history.num_rows:
            keys = ["query_id", "day"]
            yield beam.pvalue.TaggedOutput(
                SHARDS,
                write_sorted(
                    self._run, history, "query_days", index, num_shards=self._num_shards, keys=keys
                ),
            )

    def _histogram(self, queries):
        counted = pc.value_counts(queries[1]["train_images"])
        for row in counted.to_pylist():
            yield row["values"], row["counts"]

    def _write(self, indexed, histogram):
        index, queries = indexed
        support = head_support(histogram, self._head_queries)
        head = pc.greater_equal(queries["train_images"], support)
        queries = queries.set_column(tables.QUERIES.names.index("head"), "head", head)
        return write_sorted(
            self._run, queries, "queries", index, num_shards=self._num_shards, keys=["query_id"]
        )

    def expand(self, shards):
        built = shards | beam.ParDo(self._build).with_outputs("queries", SHARDS)
        histogram = built.queries | beam.FlatMap(self._histogram) | beam.CombinePerKey(sum)
        written = built.queries | "Write" >> beam.Map(self._write, beam.pvalue.AsDict(histogram))
        return (written, built[SHARDS]) | beam.Flatten()
