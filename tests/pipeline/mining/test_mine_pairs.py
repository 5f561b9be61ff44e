"""mine_pairs on small messy data, from any format, in any order, by any number of workers."""

import csv
import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.tfrecordio import _TFRecordUtil

from tests.support.datasets.messy_mining import COLUMNS, FILES, checksums, messy_log, mine
from tests.support.inputs.image_files import encode, photo


def write_csv(path, rows, delimiter="\t", opener=open):
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, COLUMNS, delimiter=delimiter, quoting=quoting, lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_images(folder):
    folder.mkdir()
    for key, (i, format_) in FILES.items():
        (folder / f"{key}.{format_.lower()}").write_bytes(encode(photo(i), format_))
    return folder


def write_labels(path):
    """Every fourth picture is test; a copy that says train does not bring it back."""
    lines = ["key\tlabel\tsplit"]
    for key, (i, _) in FILES.items():
        is_copy = key.startswith("copy")
        lines.append(f"{key}\tlabel{i % 3}\t{'train' if is_copy or i % 4 else 'test'}")
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def labels(tmp_path):
    return write_labels(tmp_path / "labels.tsv")


def log_as(tmp_path, kind, rows):
    path = tmp_path / f"log.{kind}"
    if kind == "tsv":
        write_csv(path, rows)
    elif kind == "csv.gz":
        write_csv(path, rows, ",", gzip.open)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def images_as(tmp_path, kind, folder):
    rows = [{"key": p.stem, "path": f"images/{p.name}"} for p in sorted(folder.iterdir())]
    with_bytes = [{"key": r["key"], "image": (tmp_path / r["path"]).read_bytes()} for r in rows]
    if kind == "files":
        return folder / "*"
    if kind == "paths":
        path = tmp_path / "images.csv"
        path.write_text("key,path\n" + "".join(f"{r['key']},{r['path']}\n" for r in rows))
    elif kind == "bytes":
        path = tmp_path / "images.parquet"
        pq.write_table(pa.Table.from_pylist(with_bytes), path)
    else:
        from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

        path = tmp_path / "images.tfrecord"
        lists = {name: [[row[name]] for row in with_bytes] for name in ("key", "image")}
        schema = pa.schema([(name, pa.large_list(pa.large_binary())) for name in lists])
        (batch,) = pa.table(
            {
                n: [[v.encode() if isinstance(v, str) else v for v in r] for r in c]
                for n, c in lists.items()
            },
            schema,
        ).to_batches()
        with open(path, "wb") as file:
            for record in RecordBatchToExamplesEncoder().encode(batch):
                _TFRecordUtil.write_record(file, record)
    return path


def test_every_format_gives_the_same_shards(tmp_path, images, labels):
    log = messy_log(7)
    found = []
    for log_kind, image_kind in (
        ("tsv", "files"),
        ("csv.gz", "bytes"),
        ("jsonl", "paths"),
        ("parquet", "tfrecord"),
    ):
        status, root = mine(
            tmp_path,
            log_as(tmp_path, log_kind, log),
            images_as(tmp_path, image_kind, images),
            "--labels",
            labels,
            "--max_dead_fraction",
            1,
            output=f"from_{log_kind}",
        )
        assert status == 0
        found.append(checksums(root))
    assert all(other == found[0] for other in found[1:])


WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


@pytest.mark.parametrize(
    "workers",
    [(), pytest.param(WORKERS, marks=pytest.mark.slow)],
    ids=["one process", "two processes"],
)
def test_order_repeats_and_workers_do_not_matter(tmp_path, images, labels, capsys, workers):
    log = messy_log(8)
    flags = ("--labels", labels, "--max_dead_fraction", 1)
    status, root = mine(tmp_path, write_csv(tmp_path / "log.tsv", log), images, *flags)
    assert status == 0
    again = tmp_path / "again"
    again.mkdir()
    rng = random.Random(1)
    for name in ("a", "b"):
        rng.shuffle(log)
        write_csv(again / f"{name}0.tsv", log[:100])
        write_csv(again / f"{name}1.csv", log[100:], ",")
    capsys.readouterr()
    status, other = mine(tmp_path, again, images, *flags, *workers, output="other")
    assert status == 0
    assert "committed" in capsys.readouterr().out
    assert checksums(other) == checksums(root)


def test_done_work_is_not_done_again(tmp_path, images, capsys):
    log = write_csv(tmp_path / "log.tsv", [{"query": "red", "image": f"p{i}"} for i in range(9)])
    assert mine(tmp_path, log, images, "--dry_run")[0] == 0
    assert "--dry_run: nothing was run" in capsys.readouterr().out
    assert not (tmp_path / "mined").exists()
    assert mine(tmp_path, log, images)[0] == 0
    assert "next: ./run.sh prepare_pairs" in capsys.readouterr().out
    assert mine(tmp_path, log, images)[0] == 0
    assert "already done" in capsys.readouterr().out
