import pytest

from schemas import verify
from tests import mined_dataset


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


def test_every_problem_is_named(work, capsys):
    shards = sorted((work / "mined").rglob("images/*.parquet"))
    shards[0].write_bytes(shards[0].read_bytes()[:-1] + b"?")
    (shards[1].parent / "part-00009-of-00010.parquet").write_bytes(b"left by an older run")
    assert verify.run([str(work / "mined")]) == 1
    out = capsys.readouterr().out
    assert "checksum differs" in out
    assert "foreign file" in out


def test_no_dataset(tmp_path, capsys):
    assert verify.run([str(tmp_path)]) == 2
    assert "expected a dataset (manifest.json)" in capsys.readouterr().err
