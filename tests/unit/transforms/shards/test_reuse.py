import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import fingerprint
from schemas.datasets.manifest import Manifest, Shard, Table
from transforms.shards import reuse as earlier
from transforms.shards.reuse import Earlier


def write(path, rows, row_group_size=3):
    table = pa.table(
        {"id": [r[0] for r in rows], "value": [r[1] for r in rows], "by": [r[2] for r in rows]},
        pa.schema([("id", pa.string()), ("value", pa.int64()), ("by", pa.string())]),
    )
    pq.write_table(table, path, row_group_size=row_group_size)
    return str(path)


IDS = st.integers(0, 30).map("image{}".format)


@given(
    files=st.lists(st.lists(st.tuples(IDS, st.sampled_from("ab"))), max_size=3),
    asked=st.lists(IDS),
)
def test_take_finds_what_a_dictionary_finds(tmp_path_factory, files, asked):
    folder, known, paths = tmp_path_factory.mktemp("earlier"), {}, []
    for number, rows in enumerate(files):
        unique = {}
        for place, (image_id, by) in enumerate(rows):
            if image_id not in unique:
                unique[image_id] = (image_id, 100 * number + place, by)
        paths.append(write(folder / str(number), list(unique.values())))
        for image_id, value, by in unique.values():
            if by == "a":
                known.setdefault(image_id, value)
    mask, found = Earlier(paths, "id", ["value"], {"by": "a"}).take(pa.array(asked, pa.string()))
    assert mask.tolist() == [image_id in known for image_id in asked]
    wanted = [(image_id, known[image_id]) for image_id in asked if image_id in known]
    assert (found is None) == (not wanted)
    if found is not None:
        rows = zip(found["id"].to_pylist(), found["value"].to_pylist(), strict=True)
        assert list(rows) == wanted


def test_an_equal_hash_of_another_id_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "hash64_array", lambda ids: np.zeros(len(ids), np.int64))
    known = Earlier([write(tmp_path / "a", [("x", 1, "a")])], "id", ["value"])
    mask, found = known.take(pa.array(["x", "y"]))
    assert mask.tolist() == [True, False]
    assert found["value"].to_pylist() == [1]


@pytest.mark.parametrize(("then", "now"), [(3, 3), (4, 6), (3, 4), (1, 5), (7, 1)])
def test_shards_by_index_miss_no_row(then, now):
    shards = tuple(Shard(str(i), i, 1, 1, "") for i in range(then))
    tables = {"rows": Table("parquet", "", shards)}
    found = Manifest("job", "r", "f", {}, "c", {}, {}, tables, {}, num_shards=then)
    dataset = types.SimpleNamespace(
        manifest=found, shards=lambda table: list(shards), path=lambda shard: shard.path
    )
    paths = earlier.shards_by_index(dataset, "rows", now)
    ids = pa.array([f"id{i}" for i in range(500)])
    places = zip(
        fingerprint.shard_of(ids, then).tolist(),
        fingerprint.shard_of(ids, now).tolist(),
        strict=True,
    )
    assert all(str(old) in paths[new] for old, new in places)
    if then == now:
        assert all(len(found) == 1 for found in paths.values())
