"""A log of more files than anybody looks into before workers start: they look into the others."""

import pytest

from schemas.base.errors import PhraseLensError
from tests.support.inputs.log_files import parquet
from transforms.rows import logs
from transforms.rows.logs import LOOKED_INTO, cut, plan_log, read_log

MAPPING = {field: field for field in ("query", "image", "clicks")}
COUNT = 3 * LOOKED_INTO


@pytest.fixture
def folder(tmp_path):
    for number in range(COUNT):
        rows = f"query,image\nquery {number},image {number}\n"
        (tmp_path / f"part-{number:04}.csv").write_text(rows)
    return tmp_path


def rows_of(folder, unit_bytes=1 << 20):
    units, files = plan_log("log", [str(folder)], "auto", MAPPING, unit_bytes)
    assert len(files) == len(list(folder.iterdir()))
    found = [part for unit in units for part in cut(unit)]
    return sorted(
        (row["query"].decode(), row["image"].decode())
        for part in found
        for table in read_log(part)
        for row in table.to_pylist()
    )


def test_each_row_is_read_once_whoever_looks_into_its_file(folder):
    expected = sorted((f"query {n}", f"image {n}") for n in range(COUNT))
    assert rows_of(folder) == expected
    assert rows_of(folder, unit_bytes=10) == expected


def test_the_plan_opens_as_many_files_as_it_may(folder, monkeypatch):
    opened, read_head = [], logs.read_head
    monkeypatch.setattr(logs, "read_head", lambda path: opened.append(path) or read_head(path))
    units, _ = plan_log("log", [str(folder)], "auto", MAPPING, 1 << 20)
    assert len(opened) == LOOKED_INTO
    assert [unit.unit_bytes > 0 for unit in units].count(True) == COUNT - LOOKED_INTO
    assert not units[0].unit_bytes  # a preflight reads its first rows


def test_one_that_is_no_log_is_named(folder):
    (folder / "part-0001.csv").write_bytes(b"%PDF-1.7 of a report")
    with pytest.raises(PhraseLensError, match=r"part-0001\.csv"):
        rows_of(folder)


def test_one_that_lacks_a_column_is_named(folder):
    (folder / "part-0001.csv").write_text("words,image\na,b\n")
    with pytest.raises(PhraseLensError, match=r"part-0001\.csv.*query"):
        rows_of(folder)


def test_one_of_another_kind_of_table_is_read_as_what_it_is(folder):
    data = parquet(query=["query 1"], image=["image 1"])
    (folder / "part-0001.csv").write_bytes(data)
    assert ("query 1", "image 1") in rows_of(folder)


def test_empty_parts_hold_no_rows(folder):
    for number in range(1, COUNT, 2):
        (folder / f"part-{number:04}.csv").write_text("")
    assert len(rows_of(folder)) == COUNT // 2
