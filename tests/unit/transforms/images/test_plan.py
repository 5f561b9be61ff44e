"""Which units images are cut into."""

import gzip
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from apache_beam.io.tfrecordio import _TFRecordUtil

from schemas.base.errors import PhraseLensError
from tests.support.inputs.image_tables import MAPPING, read, write_parquet, write_tar
from transforms.images import plan, readers
from transforms.images.plan import plan_images
from transforms.images.readers import read_unit


def test_a_folder_of_webdataset_has_tables_about_its_shards(tmp_path):
    write_parquet(tmp_path / "00000.parquet", key=["0"], url=["u"], status=["success"])
    (tmp_path / "00000_stats.json").write_text("{}")
    write_tar(tmp_path / "00000.tar", {"0.jpg": b"red"})
    assert read([str(tmp_path)]) == ([("0", b"red")], [])


def test_webdataset_without_shards(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", key=["0"])
    with pytest.raises(PhraseLensError, match=r"--images.*tar files"):
        read([path], "webdataset")


def table_of_paths(path, kind, names):
    """With a row too long, and one that is cut, where a format can have such."""
    if kind == "parquet":
        pq.write_table(pa.table({"key": names, "path": names}), path, row_group_size=4)
    elif kind == "jsonl":
        lines = [json.dumps({"key": name, "path": name}) for name in names]
        path.write_text("\n".join([*lines[:4], "{no json", *lines[4:]]))
    else:
        lines = [f"{name},{name}" for name in names]
        lines[4:4] = ["too,many,fields"]
        text = "\n".join(["key,path", *lines, "the,last,one"])
        path.write_text(text.replace(",", "\t") if kind == "tsv" else text)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("unit_rows", [1, 3, 7, 100])
def test_a_table_of_paths_is_many_units(tmp_path, monkeypatch, kind, unit_rows):
    """Together they have its rows, and each of the bad ones once."""
    names = [f"{i}.png" for i in range(10)]
    for name in names[:8]:  # the last two are missing
        (tmp_path / name).write_bytes(name.encode())
    path = tmp_path / f"images.{kind}"
    table_of_paths(path, kind, names)
    whole, bad = read([str(path)])
    assert len(whole) == 8
    assert len(bad) == {"parquet": 2, "jsonl": 3}.get(kind, 4)
    monkeypatch.setattr(plan, "NAMING_ROWS", unit_rows)
    monkeypatch.setattr(plan, "NAMING_BYTES", 12 * unit_rows)
    monkeypatch.setattr(readers, "BATCH_IMAGES", 2)
    units = plan_images("images", [str(path)], "auto", MAPPING, "stem").units
    assert [unit.files for unit in units] == [1] + [0] * (len(units) - 1)
    assert len(units) > 1 or unit_rows == 100
    found, found_bad = read([str(path)])
    assert sorted(found) == sorted(whole)
    # A part does not know how many lines are before it, and says behind which byte it begins.
    assert sorted(reason for reason, _ in found_bad) == sorted(reason for reason, _ in bad)
    missing = [[detail for _, detail in b if "No such file" in detail] for b in (found_bad, bad)]
    assert sorted(missing[0]) == sorted(missing[1])
    assert len(missing[0]) == 2


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "parquet"])
def test_all_units_of_a_table_read_its_rows_a_bounded_number_of_times(tmp_path, monkeypatch, kind):
    """Rows that are read, for each row that there is: the same at any size."""
    monkeypatch.setattr(plan, "NAMING_ROWS", 64)
    monkeypatch.setattr(plan, "NAMING_BYTES", 1 << 10)
    read_rows = []
    for module in ("read_part", "read_table"):
        whole = getattr(readers, module)

        def spy(*args, whole=whole, **more):
            for batch in whole(*args, **more):
                read_rows.append(batch.num_rows)
                yield batch

        monkeypatch.setattr(readers, module, spy)
    shares = []
    for rows in (500, 8000):
        path = tmp_path / f"{rows}.{kind}"
        lines = [f"{i},http://photos.example/{i}.jpg" for i in range(rows)]
        if kind == "parquet":
            keys, urls = zip(*(line.split(",") for line in lines), strict=True)
            pq.write_table(pa.table({"key": keys, "path": urls}), path, row_group_size=50)
        elif kind == "jsonl":
            path.write_text("\n".join(json.dumps({"key": li, "path": li}) for li in lines))
        else:
            text = "\n".join(["key,path", *lines]).encode()
            path.write_bytes(gzip.compress(text) if kind == "csv.gz" else text)
        units = plan_images("images", [str(path)], "auto", MAPPING, "stem").units
        assert not read_rows, "no row is read to make a plan"
        refused = [detail for unit in units for b in read_unit(unit) for detail in b.details]
        assert len(refused) == rows, "each names a URL, and those are not fetched unless asked for"
        shares.append(sum(read_rows) / rows)
        read_rows.clear()
    assert shares[1] <= (16 if kind.startswith("csv") else 1)


def test_a_table_of_images_is_cut_between_row_groups(tmp_path, monkeypatch):
    names = [str(i) for i in range(10, 50)]
    images = [name.encode() * 100 for name in names]
    table = pa.table({"key": names, "image": images})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    paths = [str(tmp_path / "a.parquet")]
    whole = read(paths)
    assert whole == (list(zip(names, images, strict=True)), [])
    assert len(plan_images("images", paths, "auto", MAPPING, "stem").units) == 1
    monkeypatch.setattr(plan, "UNIT_BYTES", 2000)
    units = plan_images("images", paths, "auto", MAPPING, "stem").units
    assert [unit.start for unit in units] == [0, *(unit.stop for unit in units[:-1])]
    assert [unit.files for unit in units] == [1] + [0] * (len(units) - 1)
    assert len(units) > 4
    assert read(paths) == whole


def record(key: str, image: bytes) -> bytes:
    bytes_list = tf.train.BytesList
    features = {
        "key": tf.train.Feature(bytes_list=bytes_list(value=[key.encode()])),
        "image": tf.train.Feature(bytes_list=bytes_list(value=[image])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    buffer = io.BytesIO()
    _TFRecordUtil.write_record(buffer, example)
    return buffer.getvalue()


def images_of_records(count):
    rng = np.random.default_rng(0)
    # Some with many zeros, as the lengths of records have.
    return [bytes(int(n)) + rng.bytes(int(n)) for n in rng.integers(0, 300, count)]


@pytest.mark.parametrize("unit_bytes", [30, 90, 1000, 1 << 20])
def test_tfrecord_is_cut_between_records(tmp_path, monkeypatch, unit_bytes):
    images = images_of_records(40)
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(record(str(i), image) for i, image in enumerate(images)))
    rows = [(str(i), image) for i, image in enumerate(images)]
    assert read([str(path)]) == (rows, [])
    monkeypatch.setattr(plan, "UNIT_BYTES", unit_bytes)
    units = plan_images("images", [str(path)], "auto", MAPPING, "stem").units
    assert len(units) == -(-path.stat().st_size // unit_bytes)
    assert read([str(path)]) == (rows, [])
    packed = tmp_path / "b.tfrecord.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read([str(packed)]) == (rows, [])
    assert len(plan_images("images", [str(packed)], "auto", MAPPING, "stem").units) == 1


def test_a_record_within_an_image_is_no_record_in_silence(tmp_path, monkeypatch):
    inner = record("forged", b"inner")
    data = [record("a", b"x" * 100), record("b", b"y" * 300 + inner + b"z" * 90), record("c", b"")]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(data))
    whole, bad = read([str(path)])
    assert ([key for key, _ in whole], bad) == (["a", "b", "c"], [])
    monkeypatch.setattr(plan, "UNIT_BYTES", 330)
    _, bad = read([str(path)])
    assert ("unreadable_file", "looks like the start of another") in [
        (reason, detail.partition("byte ")[2].partition(" ")[2]) for reason, detail in bad
    ]


def test_damage_costs_the_part_that_it_is_in(tmp_path, monkeypatch):
    data = [record(str(i), bytes(100)) for i in range(20)]
    data[7] = data[7][:50] + b"!" + data[7][51:]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(data))
    monkeypatch.setattr(plan, "UNIT_BYTES", 5 * len(data[0]))
    rows, bad = read([str(path)])
    assert [key for key, _ in rows] == [str(i) for i in range(20) if i not in (7, 8, 9)]
    assert [reason for reason, _ in bad] == ["unreadable_file"]


def tar_of(files, format_):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as file:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("unit_bytes", [700, 1536, 4000, 20_000])
@pytest.mark.parametrize("format_", FORMATS)
def test_a_tar_file_is_cut_between_samples(tmp_path, monkeypatch, format_, unit_bytes):
    """The files of a sample stay together, wherever a part begins; long names stay whole."""
    rng = np.random.default_rng(0)
    long = "" if format_ == "ustar" else "a folder of a long name/" * 8
    files = []
    for number in range(12):
        key = f"{long if number % 3 else ''}{number:03}"
        files += [(f"{key}.txt", b"caption"), (f"{key}.jpg", rng.bytes(number * 90))]
        files += [(f"{key}.json", b"{}")] * (number % 4) + [(f"._{number}.jpg", b"litter")]
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(files, FORMATS[format_]))
    whole = read([str(path)])
    assert [len(whole[0]), whole[1]] == [12, []]
    monkeypatch.setattr(plan, "UNIT_BYTES", unit_bytes)
    assert len(plan_images("images", [str(path)], "auto", MAPPING, "stem").units) > 1
    assert read([str(path)]) == whole


def test_a_compressed_tar_file_is_one_unit(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar.gz", {f"{i}.jpg": bytes(900) for i in range(9)})
    monkeypatch.setattr(plan, "UNIT_BYTES", 100)
    assert len(plan_images("images", [path], "auto", MAPPING, "stem").units) == 1
    assert len(read([path])[0]) == 9


def test_a_tar_file_within_a_tar_file_is_none_in_silence(tmp_path, monkeypatch):
    """Of a few files it is seen; of many it cannot be told apart, and says so."""
    monkeypatch.setattr(plan, "UNIT_BYTES", 4096)
    for count in (3, 40):
        inner = tar_of([(f"in{i}.jpg", b"inner") for i in range(count)], tarfile.USTAR_FORMAT)
        files = [(f"{i}.jpg", bytes([i + 1]) * 900) for i in range(30)]
        files.insert(9, ("9.tar", inner))
        path = tmp_path / f"{count}.tar"
        path.write_bytes(tar_of(files, tarfile.USTAR_FORMAT))
        rows, bad = read([str(path)])
        if count == 3:
            assert (len(rows), bad) == (30, [])
        else:
            assert {reason for reason, _ in bad} == {"unreadable_file"}
            assert "looks like the start of another" in bad[0][1]


def test_a_cut_tar_file_is_so_in_its_last_part_alone(tmp_path, monkeypatch):
    data = tar_of([(f"{i}.jpg", bytes([i + 1]) * 900) for i in range(30)], tarfile.USTAR_FORMAT)
    path = tmp_path / "a.tar"
    path.write_bytes(data[:30_000])
    whole = read([str(path)])
    assert [reason for reason, _ in whole[1]] == ["unreadable_file"]
    monkeypatch.setattr(plan, "UNIT_BYTES", 4096)
    found = read([str(path)])
    assert found[0] == whole[0]
    assert {reason for reason, _ in found[1]} == {"unreadable_file"}
