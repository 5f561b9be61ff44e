"""Five ways in which a committed dataset is spoilt, and `verify` names each of them."""

import shutil
from pathlib import Path

import pytest

from schemas.base.errors import Exit
from schemas.datasets import dataset, shards
from schemas.maintenance import verify


def cut_parquet(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def cut_at_record(path: Path) -> Path:
    """Leaves the first record alone, whole: length (8 bytes), CRC (4), the record, CRC (4)."""
    data = path.read_bytes()
    path.write_bytes(data[: 16 + int.from_bytes(data[:8], "little")])
    assert shards.count_tfrecords(str(path)) == 1  # a reader sees nothing wrong
    return path


def flip_bit(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0b100
    path.write_bytes(data)
    return path


def remove(path: Path) -> Path:
    path.unlink()
    return path


def add_foreign(path: Path) -> Path:
    return Path(shutil.copy(path, path.with_name(path.name.replace("part-0000", "part-0009"))))


@pytest.mark.parametrize(
    ("stage", "harm", "problem"),
    [
        ("embed_images", cut_parquet, "bytes, the manifest says"),
        ("prepare_examples", cut_at_record, "bytes, the manifest says"),
        ("embed_images", flip_bit, "checksum differs"),
        ("embed_images", remove, "missing"),
        ("embed_images", add_foreign, "foreign file"),
    ],
    ids=["cut Parquet", "TFRecord cut at a record", "flipped bit", "missing", "foreign"],
)
def test_verify_names(stage, harm, problem, tiny_run, tmp_path, capsys, figure):
    root = shutil.copytree(tiny_run.dataset(stage), tmp_path / "dataset")
    tables = dataset.Dataset(str(root)).manifest.tables
    shard = max(tables["examples" if stage == "prepare_examples" else "features"].shards)
    assert verify.run([str(root)]) == 0
    capsys.readouterr()
    spoilt = harm(root / shard.path)
    assert verify.run([str(root)]) == Exit.CORRUPT
    found = [line for line in capsys.readouterr().out.splitlines() if "problem: " in line]
    assert len(found) == 1
    assert str(spoilt.relative_to(root)) in found[0]
    assert problem in found[0]
    figure("named, and nothing else")
