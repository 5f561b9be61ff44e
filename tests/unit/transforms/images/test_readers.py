"""Images in the layouts of other tools: img2dataset, WebDataset, the datasets library."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.inputs.image_tables import MAPPING, read, write_parquet, write_tar
from transforms.images import plan, readers
from transforms.images.plan import plan_images
from transforms.images.readers import read_unit
from transforms.rows.tabular import BadRows


@pytest.mark.parametrize("name", ["00000.tar", "00000.tar.gz"])
def test_webdataset(tmp_path, name):
    files = {"0.jpg": b"red", "0.txt": b"a", "a/1.json": b"{}", "a/1.PNG": b"blue", "2.txt": b"b"}
    path = write_tar(tmp_path / name, files)
    expected = [("0", b"red"), ("a/1", b"blue"), ("2", None)], []
    assert read([path]) == expected
    assert read([path], "webdataset") == expected


def test_cut_webdataset(tmp_path):
    path = write_tar(tmp_path / "a.tar", {f"{i}.jpg": bytes([i]) * 3000 for i in range(1, 9)})
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[:10_000])
    rows, bad = read([path])
    assert [key for key, _ in rows] == ["1", "2"]
    assert [reason for reason, _ in bad] == ["unreadable_file"]


def test_img2dataset_parquet_has_images_where_the_download_succeeded(tmp_path):
    path = write_parquet(
        tmp_path / "00000.parquet",
        key=["0", "1"],
        jpg=pa.array([b"red", None], pa.binary()),
        status=["success", "failed_to_download"],
    )
    assert read([path]) == ([("0", b"red")], [])


def test_images_of_the_datasets_library(tmp_path):
    (tmp_path / "blue.jpg").write_bytes(b"blue")
    images = [{"bytes": b"red", "path": "red.jpg"}, {"bytes": None, "path": "blue.jpg"}]
    path = write_parquet(
        tmp_path / "train.parquet",
        id=["0", "1"],
        image=pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    )
    assert read([path], mapping=MAPPING | {"key": "id"}) == ([("0", b"red"), ("1", b"blue")], [])


TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", *TEXTS], ids=str)
def test_a_column_of_images_that_is_text_names_them(tmp_path, kind):
    """No image can lie in text, so what is there is where the image is."""
    names = ["red.png", "deep/blue.png", "missing.png"]
    (tmp_path / "deep").mkdir()
    for name in names[:2]:
        (tmp_path / name).write_bytes(name.encode())
    if isinstance(kind, pa.DataType):
        table = pa.table({"key": ["0", "1", "2"], "image": pa.array(names).cast(kind)})
        pq.write_table(table, tmp_path / "images.parquet")
    else:
        rows = [{"key": str(i), "image": name} for i, name in enumerate(names)]
        lines = "\n".join(["key,image", *(f"{row['key']},{row['image']}" for row in rows)])
        texts = {
            "csv": lines,
            "tsv": lines.replace(",", "\t"),
            "json": json.dumps(rows),
            "jsonl": "\n".join(map(json.dumps, rows)),
        }
        (tmp_path / f"images.{kind}").write_text(texts[kind])
    (path,) = tmp_path.glob("images.*")
    found, ((reason, detail),) = read([str(path)])
    assert found == [(str(i), name.encode()) for i, name in enumerate(names[:2])]
    assert reason == "unreadable_image"
    assert "missing.png" in detail


def test_a_table_that_cannot_be_read_to_its_end_says_so_once(tmp_path, monkeypatch):
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(b"image")
    path = tmp_path / "images.csv"
    path.write_text("\n".join(["key,path", *(f"{i},{i}.png" for i in range(10))]))
    monkeypatch.setattr(plan, "NAMING_BYTES", 25)
    monkeypatch.setattr(readers, "BATCH_IMAGES", 1)
    units = plan_images("images", [str(path)], "auto", MAPPING, "stem").units
    assert [unit.files for unit in units] == [1, 0, 0, 0]
    whole = readers.read_table
    for end in range(11):

        def cut(name, mapping, size, end=end):
            rows = pa.concat_tables(whole(name, mapping, size))
            yield from (rows.slice(row, 1) for row in range(end))
            yield BadRows("unreadable_file", name, ["cut"])

        monkeypatch.setattr(readers, "read_table", cut)
        found = [list(read_unit(unit)) for unit in units]
        bad = [sum(isinstance(batch, BadRows) for batch in batches) for batches in found]
        assert bad == [1, 0, 0, 0]
        tables = [b for batches in found for b in batches if not isinstance(b, BadRows)]
        assert sum(table.num_rows for table in tables) == end
