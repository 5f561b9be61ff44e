"""The benchmark of mining: its log has what it says, and its SQL mines as the oracle does."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.logs import mining_log, mining_peers
from model_code.text.normalise import normalize_query
from tests.support.oracles.mining_sql import Settings, mine

ROWS = 30_000


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(mining_log, "FILE_ROWS", ROWS // 2)
    patch.setattr(mining_log, "ROBOT_ROWS", 1_500)
    folder = mining_log.write_log(tmp_path_factory.mktemp("bench") / "log", ROWS, seed=1)
    patch.undo()
    return folder


def test_the_log_is_as_skewed_and_messy_as_it_says(log):
    table = pq.read_table(log)
    assert table.schema == mining_log.LOG
    assert (table.num_rows, len(list(log.iterdir()))) == (ROWS, 2)
    assert table.num_rows - table.group_by(table.column_names).aggregate([]).num_rows == ROWS // 20
    clicks = pc.fill_null(table["clicks"], 1)
    texts = [normalize_query(text) for text in table["query"].to_pylist()]
    is_hot = pa.array([text == mining_log.query_text(0) for text in texts])
    assert 0.3 < pc.sum(clicks.filter(is_hot)).as_py() / pc.sum(clicks).as_py() < 0.5
    is_image = pc.equal(table["image"], "img0000000")
    assert 0.08 < pc.mean(is_image.cast(pa.float64())).as_py() < 0.13
    assert len(set(table["query"].to_pylist())) > 2 * len(set(texts))
    people = table.filter(pc.invert(pc.starts_with(pc.fill_null(table["user"], ""), "robot")))
    rates = [
        pc.mean(pc.fill_null(people.filter(pc.equal(people["position"], k))["clicks"], 1)).as_py()
        for k in (1, 3, 9)
    ]
    assert rates[0] > 2 * rates[1] > 4 * rates[2]


def test_one_seed_gives_one_log(log):
    (first, *_) = mining_log.log_files(5_000, seed=1)
    assert first.equals(next(mining_log.log_files(5_000, seed=1)))
    assert not first.equals(next(mining_log.log_files(5_000, seed=2)))


def test_the_sql_of_the_peers_mines_as_the_oracle(log, tmp_path):
    flags = ["--engine", "duckdb", "--log", str(log), "--output", str(tmp_path)]
    assert mining_peers.run(flags) == 0
    table = pq.read_table(log)
    rows = [
        {name: str(value).encode() for name, value in row.items() if value is not None}
        for row in table.to_pylist()
    ]
    expected = mine(rows, None, Settings())
    assert expected.counts["robot"] > 1_000
    assert any(q["variants"] for q in expected.tables["queries"])
    for name, rows in expected.tables.items():
        found = pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
        ids = [c for c in ("image_id", "query_id", "query_a", "query_b", "day") if c in rows[0]]
        by_ids = {tuple(row[i] for i in ids): row for row in found}
        assert len(by_ids) == len(found) == len(rows) > 0
        for row in rows:
            other = by_ids[tuple(row[i] for i in ids)]
            for column in set(row) & set(other):
                if row[column] is not None and (name, column) != ("query_pairs", "skips"):
                    assert other[column] == pytest.approx(row[column], abs=1e-9), (name, column)
