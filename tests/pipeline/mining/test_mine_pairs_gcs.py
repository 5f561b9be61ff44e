"""mine_pairs from gs:// to gs://, and the manifest there, against a local emulator."""

import pytest

from beam_jobs.mining import mine_pairs
from schemas.base import storage
from schemas.datasets import checks, commit, dataset, manifest
from tests.support.datasets.committed import plan, work
from tests.support.inputs.image_files import encode, photo


def test_storage(bucket):
    path = f"{bucket}/folder/a b.txt"
    assert storage.size(path) is None
    assert storage.list_files(f"{bucket}/folder") == []
    storage.write_bytes(path, b"data")
    storage.write_bytes(f"{bucket}/folder/deep/c.txt", b"")
    assert storage.read_bytes(path) == b"data"
    assert storage.size(path) == 4
    assert storage.exists(path)
    assert storage.is_folder(f"{bucket}/folder")
    assert not storage.is_folder(path)
    assert storage.list_files(f"{bucket}/folder") == ["a b.txt", "deep/c.txt"]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{bucket}/nothing")


def test_folders_go_up_and_come_down(bucket, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a").write_bytes(b"1")
    assert storage.upload_dir(str(tmp_path), f"{bucket}/up") == ["deep/a"]
    with storage.local_copy(f"{bucket}/up") as folder:
        assert storage.list_files(folder) == ["deep/a"]
        assert storage.sha256(f"{folder}/deep/a") == storage.sha256(f"{bucket}/up/deep/a")


def test_manifest(bucket):
    root = f"{bucket}/dataset"
    assert manifest.read(root) is None
    assert commit.token(root) == ""
    planned = plan(root)
    done = work(planned)
    assert commit.commit(root, done, planned.seen)
    assert manifest.read(root) == done
    assert checks.verify(root) == []
    assert commit.token(root) not in ("", "0")
    assert plan(root).done
    storage.write_bytes(dataset.Dataset(root).path(done.tables["rows"].shards[0]), b"cut")
    assert len(checks.verify(root)) == 1


def test_mine_pairs_reads_and_writes_there(bucket, capsys):
    storage.write_bytes(
        f"{bucket}/log/log.csv",
        b"query,image\n" + b"".join(b"red,p%d\nrot,p%d\n" % (i, i) for i in range(8)),
    )
    for i in range(8):
        storage.write_bytes(f"{bucket}/photos/p{i}.png", encode(photo(i), "PNG"))
    root = f"{bucket}/mined"
    argv = ["--log", f"{bucket}/log/*.csv", "--images", f"{bucket}/photos", "--output", root]
    assert mine_pairs.run(argv) == 0
    assert checks.verify(root) == []
    mined = dataset.Dataset(root)
    assert mined.table("images").num_rows == 8
    assert mined.table("pairs").num_rows == 16
    capsys.readouterr()
    assert mine_pairs.run(argv) == 0
    assert "already done" in capsys.readouterr().out
    argv[1] = f"{bucket}/nothing/*.csv"
    assert mine_pairs.run(argv) == 2
    assert "--log gs://bucket/nothing/*.csv: expected at least one" in capsys.readouterr().err
