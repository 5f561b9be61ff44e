"""Every kind of input from a bucket: what is read there is what is read from a disk."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.tfrecordio import _TFRecordUtil

from beam_jobs.mining import forget, mine_log, mine_pairs
from schemas.base import storage
from schemas.datasets import checks
from tests.support.datasets import work_folder
from tests.support.inputs.image_files import encode, photo
from tests.support.inputs.image_tables import read, write_parquet, write_tar
from transforms.mining.labels import LABEL_FIELDS
from transforms.rows.checked import texts_of
from transforms.rows.tabular import read_table

PHOTOS = {f"p{n}": encode(photo(n), "PNG") for n in range(6)}


def write_images(folder, layout: str) -> None:
    """Six photos in one of the layouts of docs/use/formats.md."""
    folder.mkdir()
    if layout == "files":
        for key, data in PHOTOS.items():
            (folder / f"{key}.png").write_bytes(data)
    elif layout == "table":
        write_parquet(
            folder / "a.parquet", key=list(PHOTOS), image=pa.array(PHOTOS.values(), pa.binary())
        )
    elif layout == "paths":
        (folder / "photos").mkdir()
        for key, data in PHOTOS.items():
            (folder / "photos" / f"{key}.png").write_bytes(data)
        table = {"key": list(PHOTOS), "path": [f"photos/{key}.png" for key in PHOTOS]}
        pq.write_table(pa.table(table), folder / "a.parquet")
    elif layout == "tar":
        write_tar(folder / "00000.tar.gz", {f"{key}.png": data for key, data in PHOTOS.items()})
    else:
        _write_tfrecord(folder / "a.tfrecord")


def _write_tfrecord(path) -> None:
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

    columns = [[[key.encode()] for key in PHOTOS], [[data] for data in PHOTOS.values()]]
    arrays = [pa.array(column, pa.list_(pa.binary())) for column in columns]
    batch = pa.RecordBatch.from_arrays(arrays, ["key", "image"])
    with open(path, "wb") as file:
        for record in RecordBatchToExamplesEncoder().encode(batch):
            _TFRecordUtil.write_record(file, record)


GLOBS = {"files": "*.png", "table": "a.*", "paths": "*.parquet", "tar": "*.tar.gz"}


@pytest.mark.parametrize("layout", ["files", "table", "paths", "tar", "tfrecord"])
def test_images(layout, bucket, tmp_path):
    write_images(tmp_path / layout, layout)
    storage.upload_dir(str(tmp_path / layout), f"{bucket}/{layout}")
    pattern = GLOBS.get(layout, "*.tfrecord")
    expected = read([str(tmp_path / layout / pattern)])
    assert dict(expected[0]) == PHOTOS
    assert expected[1] == []
    assert read([f"{bucket}/{layout}/{pattern}"]) == expected


@pytest.mark.parametrize("name", ["l.csv", "l.tsv.gz", "l.jsonl", "l.jsonl.zst"])
def test_label_tables(name, bucket, tmp_path):
    rows = [{"key": f"p{n}", "label": f"class {n % 2}"} for n in range(4)]
    separator = "\t" if "tsv" in name else ","
    text = "\n".join([separator.join(rows[0]), *(separator.join(row.values()) for row in rows)])
    if "jsonl" in name:
        text = "\n".join(map(json.dumps, rows))
    data = text.encode()
    if name.endswith("gz"):
        data = gzip.compress(data)
    elif name.endswith("zst"):
        data = pa.compress(data, codec="zstd", asbytes=True)
    storage.write_bytes(f"{bucket}/labels/{name}", data)
    mapping = {field: field for field in LABEL_FIELDS}
    (batch,) = read_table(f"{bucket}/labels/{name}", mapping, 10)
    assert [texts_of(batch[name], 4) for name in ("key", "label")] == [
        [row[name] for row in rows] for name in ("key", "label")
    ]


def test_days_and_deletions(bucket, tmp_path):
    """mine_log, forget and mine_pairs, each with all its inputs in the bucket and on a disk."""
    log = [f"q{n % 4},p{n % 6},u{n % 5},2026-11-20T10:{n % 60:02}:00Z" for n in range(120)]
    inputs = {
        "log.csv.gz": gzip.compress("\n".join(["query,image,user,timestamp", *log]).encode()),
        "labels.csv": b"key,label\np0,red\np1,blue\n",
        "deletions.csv": b"image,user,query\np5,,\n,u4,\n",
        "key.txt": b"a secret of at least sixteen bytes",
    } | {f"photos/{key}.png": data for key, data in PHOTOS.items()}
    rows = []
    for base in (bucket, str(tmp_path)):
        for name, data in inputs.items():
            storage.write_bytes(f"{base}/in/{name}", data)
        person = f"--person_key={base}/in/key.txt"
        flags = [f"--log={base}/in/log*", f"--output={base}/days/d", person, "--num_shards=2"]
        assert mine_log.run(flags) == 0
        list_ = f"{base}/in/deletions.csv"
        assert forget.run([f"--list={list_}", f"--days={base}/days", person]) == 0
        flags = [f"--days={base}/days", f"--forget={list_}", person, f"--output={base}/mined"]
        flags += [f"--images={base}/in/photos", f"--labels={base}/in/labels.csv"]
        assert mine_pairs.run([*flags, "--num_shards=2", "--min_users=1"]) == 0
        assert checks.verify(f"{base}/mined") == []
        found = work_folder.rows_of(f"{base}/mined")
        assert found["pairs"]
        # A dead letter names its run, which is known by where its input lies.
        found = {k: v for k, v in found.items() if k not in ("dead_letters", "content_hash")}
        rows.append(found)
    assert rows[0] == rows[1]
