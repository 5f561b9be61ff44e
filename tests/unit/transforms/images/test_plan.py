"""Which units images are cut into."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.base.errors import PhraseLensError
from tests.support.inputs.image_tables import MAPPING, read, write_parquet, write_tar
from transforms.images import plan
from transforms.images.plan import plan_images


def test_a_folder_of_webdataset_has_tables_about_its_shards(tmp_path):
    write_parquet(tmp_path / "00000.parquet", key=["0"], url=["u"], status=["success"])
    (tmp_path / "00000_stats.json").write_text("{}")
    write_tar(tmp_path / "00000.tar", {"0.jpg": b"red"})
    assert read([str(tmp_path)]) == ([("0", b"red")], [])


def test_webdataset_without_shards(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", key=["0"])
    with pytest.raises(PhraseLensError, match=r"--images.*tar files"):
        read([path], "webdataset")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("unit_rows", [1, 3, 7, 100])
def test_a_table_of_paths_is_many_units(tmp_path, monkeypatch, kind, unit_rows):
    """Together they have its rows, and each of the bad ones once."""
    names = [f"{i}.png" for i in range(10)]
    for name in names[:8]:  # the last two are missing
        (tmp_path / name).write_bytes(name.encode())
    path = tmp_path / f"images.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"key": names, "path": names}), path, row_group_size=4)
    elif kind == "csv":
        lines = [f"{name},{name}" for name in names]
        lines[4:4] = ["too,many,fields"]
        path.write_text("\n".join(["key,path", *lines, "the,last,one"]))
    else:
        lines = [json.dumps({"key": name, "path": name}) for name in names]
        path.write_text("\n".join([*lines[:4], "{no json", *lines[4:]]))
    whole, bad = read([str(path)])
    assert len(whole) == 8
    assert len(bad) == {"parquet": 2, "csv": 4, "jsonl": 3}[kind]
    monkeypatch.setattr(plan, "UNIT_ROWS", unit_rows)
    units = plan_images("images", [str(path)], "auto", MAPPING, "stem").units
    assert len(units) == -(-10 // unit_rows)
    found, found_bad = read([str(path)])
    assert found == whole
    assert sorted(found_bad) == sorted(bad)


def test_a_table_of_images_is_one_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "UNIT_ROWS", 1)
    path = write_parquet(tmp_path / "a.parquet", key=["0", "1"], image=[b"red", b"blue"])
    assert len(plan_images("images", [path], "auto", MAPPING, "stem").units) == 1
