"""The mining of mine_pairs in the SQL of benchmarks/logs/mining.sql, on DuckDB or on Spark.

Reads a log of benchmarks/logs/mining_log.py; writes pairs, queries, query_days and query_pairs
as Parquet. Both engines use two cores and `memory` (DuckDB's memory_limit, the heap of
Spark's one JVM), and may spill to a folder below `output`.

  ./run.sh bench mining_peers --engine duckdb --log work/bench/log --output work/bench/duckdb
"""

import dataclasses
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.base.errors import PhraseLensError
from schemas.base.fingerprint import hash64
from schemas.console.flags import flag
from schemas.runs import command_line

ENGINES = ("duckdb", "spark")
CORES = 2
# With an exponent a literal is a double to both engines, and no decimal.
Z, Z2 = "1.6449e0", f"{1.6449**2}e0"
RATE = f"""
  (clicks / examined + {Z2} / (2 * examined)
    - {Z} * sqrt(clicks / examined * (1 - clicks / examined) / examined
      + {Z2} / (4 * examined * examined))) / (1 + {Z2} / examined)"""
SQL = Path(__file__).with_name("mining.sql")


@dataclasses.dataclass(frozen=True)
class Config:
    engine: str = flag("Who does it.", choices=ENGINES)
    log: str = flag("Folder of the log.", role="input")
    output: str = flag("Folder for the tables.", role="output")
    memory: int = flag("GiB that the engine may use.", default=8, minimum=1)


def statements() -> Iterator[tuple[str, str, str]]:
    """The statements of mining.sql as (kind, name, SELECT)."""
    for part in SQL.read_text(encoding="utf-8").split("\n-- ")[1:]:
        head, _, select = part.partition("\n")
        kind, _, name = head.partition(": ")
        if kind in ("table", "view", "result", "python"):
            yield kind, name, select.strip().rstrip(";")


def query_ids(texts: pa.Array) -> pa.Array:
    return pa.array([hash64(text) for text in texts.to_pylist()], pa.int64())


def image_ids(keys: pa.Array) -> pa.Array:
    digests = [hashlib.blake2b(key.encode(), digest_size=16) for key in keys.to_pylist()]
    return pa.array([digest.hexdigest() for digest in digests], pa.string())


def examination(places: pa.Table) -> pa.Table:
    """What share of its impressions each position gets looked at, in units of 1/65536."""
    rows = sorted(places.to_pylist(), key=lambda row: row["position"])
    examined, reference = 65536, None
    found = []
    for row in rows:
        if reference is None:
            reference = row if row["position"] and row["c"] else None
        elif row["i"]:
            rate = 65536 * row["c"] * reference["i"] // (row["i"] * reference["c"])
            examined = max(4096, min(examined, rate))
        found.append({"position": row["position"], "examined": examined})
    schema = pa.schema([("position", places.schema.field("position").type), ("examined", "int64")])
    return pa.Table.from_pylist(found, schema=schema)


def variants(candidates: pa.Table) -> pa.Table:
    """The candidates that are spellings of one another: columns variant and query_id."""
    from tests.support.oracles.mining_sql import (
        ends_of_variants,  # heavy, and Spark's workers import this module
    )

    names = ("variant", "query_id", "variant_text", "text")
    ends = ends_of_variants([tuple(row[n] for n in names) for row in candidates.to_pylist()])
    schema = pa.schema([("variant", pa.int64()), ("query_id", pa.int64())])
    return pa.Table.from_pylist(ends, schema=schema)


def mine(
    keep: Callable[[str, str, str], None],
    fetch: Callable[[str], pa.Table],
    give: Callable[[str, pa.Table], None],
    write: Callable[[str, str], None],
    global_flag: str,
) -> None:
    """Runs mining.sql on an engine.

    Args:
      keep: names the rows of (kind, name, SELECT).
      fetch: the rows of a SELECT.
      give: names a table of ours.
      write: writes the rows of (name, SELECT).
      global_flag: what regexp_replace needs to replace all there is.
    """
    words = {"global": global_flag}
    for kind, name, select in statements():
        if kind == "python" and name == "examination":
            places = fetch("select * from places")
            words["score"] = RATE if sum(places["unclicked"].to_pylist()) > 0 else "clicks"
            give(name, examination(places))
        elif kind == "python":
            give(name, variants(fetch("select * from candidates")))
        elif kind == "result":
            write(name, select.format(**words))
        else:
            keep(kind, name, select.format(**words))


def with_duckdb(config: Config) -> None:
    import duckdb

    db = duckdb.connect()
    db.execute(f"set threads = {CORES}; set memory_limit = '{config.memory}GiB'")
    db.execute("set preserve_insertion_order = false")
    db.execute(f"set temp_directory = '{config.output}/spill'")
    db.create_function("query_id_of", query_ids, ["VARCHAR"], "BIGINT", type="arrow")
    db.create_function("image_id_of", image_ids, ["VARCHAR"], "VARCHAR", type="arrow")
    db.execute(
        'create view log as select * exclude ("user", session, timestamp), "user" as user_name, '
        f"session as session_name, timestamp as time from '{config.log}/*.parquet'"
    )

    def give(name: str, table: pa.Table) -> None:
        db.register("given", table)
        db.execute(f"create table {name} as from given")

    mine(
        lambda kind, name, select: db.execute(f"create {kind} {name} as {select}"),
        lambda select: db.sql(select).to_arrow_table(),
        give,
        lambda name, select: db.execute(f"copy ({select}) to '{config.output}/{name}.parquet'"),
        ", 'g'",
    )


def with_spark(config: Config) -> None:
    if shutil.which("java") is None:
        raise PhraseLensError(
            "java",
            "Java 17 or later on PATH, in which PySpark runs",
            "Install it (Debian, Ubuntu: apt install openjdk-17-jre-headless) and try again.",
        )
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import arrow_udf

    settings = {
        "spark.driver.memory": f"{config.memory}g",
        "spark.local.dir": f"{config.output}/spill",
        # Twice as many as the log has files of a million rows: the default, 200, is for clusters.
        "spark.sql.shuffle.partitions": max(4, 2 * len(list(Path(config.log).glob("*.parquet")))),
        "spark.ui.enabled": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.session.timeZone": "UTC",
    }
    builder = SparkSession.builder.master(f"local[{CORES}]").appName("mining")
    for name, value in settings.items():
        builder = builder.config(name, str(value))
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    spark.udf.register("query_id_of", arrow_udf(query_ids, "bigint"))
    spark.udf.register("image_id_of", arrow_udf(image_ids, "string"))
    names = {"user": "user_name", "session": "session_name", "timestamp": "time"}
    log = spark.read.parquet(config.log).withColumnsRenamed(names)
    log.createOrReplaceTempView("log")

    def keep(kind: str, name: str, select: str) -> None:
        rows = spark.sql(select)
        if kind == "table":
            # Kept as files: plans that grow from one cached table to the next take minutes.
            path = f"{config.output}/spill/{name}.parquet"
            rows.write.parquet(path)
            rows = spark.read.parquet(path)
        rows.createOrReplaceTempView(name)

    mine(
        keep,
        lambda select: spark.sql(select).toArrow(),
        lambda name, table: spark.createDataFrame(table).createOrReplaceTempView(name),
        lambda name, select: spark.sql(select).write.parquet(f"{config.output}/{name}.parquet"),
        "",
    )
    spark.stop()


def work(config: Config) -> None:
    Path(config.output).mkdir(parents=True, exist_ok=True)
    {"duckdb": with_duckdb, "spark": with_spark}[config.engine](config)
    pairs = pq.read_table(f"{config.output}/pairs.parquet", columns=["image_id"]).num_rows
    print(f"wrote {pairs:,} pairs into {config.output}")


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "bench mining_peers", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
