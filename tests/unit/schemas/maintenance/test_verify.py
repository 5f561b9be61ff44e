import pytest
import tensorflow as tf

from schemas.base.errors import Exit
from schemas.datasets import manifest
from schemas.datasets import shards as shards_lib
from schemas.maintenance import verify
from schemas.runs import changes
from tests.support.datasets import mined_dataset


@pytest.fixture
def work(tmp_path):
    mined_dataset.write_colours(str(tmp_path / "mined"))
    return tmp_path


def test_dataset_that_is_whole(work, capsys):
    assert verify.run([str(work / "mined")]) == 0
    out = capsys.readouterr().out
    assert "mine_pairs" in out
    assert "images: " in out
    assert out.endswith("  ok\n")


def test_folder_of_datasets_stands_for_all_of_them(work, capsys):
    mined_dataset.write_colours(str(work / "again"))
    assert verify.run([str(work)]) == 0
    assert capsys.readouterr().out.count("  ok\n") == 2


def test_dataset_of_a_snapshot(work, capsys):
    first = manifest.read(str(work / "mined")).run_id
    changes.write(str(work), "2026-01-31", {"mined": first})
    changes.promote(str(work), "2026-01-31")
    mined_dataset.write_colours(str(work / "mined"), per_colour=10)
    for path in ("current", "snapshots/2026-01-31"):
        assert verify.run([str(work / path / "mined")]) == 0
        assert f"run {first}" in capsys.readouterr().out


def test_every_problem_is_named(work, capsys):
    shards = sorted((work / "mined").rglob("images/*.parquet"))
    shards[0].write_bytes(shards[0].read_bytes()[:-1] + b"?")
    (shards[1].parent / "part-00009-of-00010.parquet").write_bytes(b"left by an older run")
    assert verify.run([str(work / "mined")]) == Exit.CORRUPT
    out = capsys.readouterr().out
    assert "checksum differs" in out
    assert "foreign file" in out


def test_no_dataset(tmp_path, capsys):
    assert verify.run([str(tmp_path)]) == 2
    assert "expected a dataset (manifest.json)" in capsys.readouterr().err


def test_tfrecords_are_counted_as_tensorflow_writes_them(tmp_path):
    path = str(tmp_path / "examples.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for n in range(5):
            writer.write(b"x" * n * 1000)
    assert shards_lib.count_tfrecords(path) == 5
    whole = (tmp_path / "examples.tfrecord").read_bytes()
    for broken in (whole[:-1], whole[:-40] + b"?" + whole[-39:], b"\1" + whole[1:]):
        (tmp_path / "examples.tfrecord").write_bytes(broken)
        with pytest.raises(ValueError, match="record"):
            shards_lib.count_tfrecords(path)
