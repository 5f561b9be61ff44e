"""A shard of an earlier run that was cut or changed: whoever reads it says so in one line."""

import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_code.gate import command as gate
from schemas.base.errors import CorruptError, Exit
from schemas.datasets.dataset import Dataset
from schemas.runs import changes, snapshots
from tests.support.datasets import gate_work
from tests.support.datasets.gate_work import Day

FOOTER_BYTES = 250  # of each footer that are changed

TABLES = [
    ("mined", "images"),
    ("mined", "pairs"),
    ("mined", "queries"),
    ("features", "features"),
    ("predictions", "predictions"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with a snapshot in use, and one that may follow it."""
    work = str(tmp_path_factory.mktemp("mangled") / "work")
    gate_work.write(work, "2026-01-01", Day(images=200))
    changes.promote(work, "2026-01-01")
    gate_work.write(work, "2026-01-02", Day(images=200, seed=1))
    return work


def rows(dataset, table):
    return [row for batch in dataset.batches(table) for row in batch.to_pylist()]


@pytest.fixture(scope="module", params=TABLES, ids=".".join)
def shard(request, work):
    """A dataset, the name of a table, its rows, and the path of its only shard."""
    name, table = request.param
    dataset = Dataset(f"{work}/{name}")
    (only,) = dataset.shards(table)
    return dataset, table, rows(dataset, table), dataset.path(only)


def read(dataset, table):
    """The rows of a table, or what was said instead."""
    try:
        return rows(dataset, table), ""
    except CorruptError as error:
        return [], str(error)


@settings(max_examples=60)
@given(data=st.data())
def test_changed_bytes_are_never_rows(shard, data):
    """Either the file is named, or the rows are those that were written."""
    dataset, table, expected, path = shard
    with open(path, "rb") as file:
        whole = file.read()
    start = data.draw(st.integers(0, len(whole) - 1))
    flips = data.draw(st.binary(min_size=1, max_size=8).filter(any))
    end = whole[start : start + len(flips)]
    changed = whole[:start] + bytes(a ^ b for a, b in zip(end, flips, strict=False))
    changed += whole[start + len(end) :]
    try:
        with open(path, "wb") as file:
            file.write(changed)
        found, told = read(dataset, table)
    finally:
        with open(path, "wb") as file:
            file.write(whole)
    if told:
        assert path in told
        assert f"./run.sh verify --repair {dataset.root}" in told
    else:
        assert found == expected


def test_a_changed_footer_takes_no_row(shard):
    """Pages have checksums and the footer has none: every byte of it is changed once."""
    dataset, table, expected, path = shard
    with open(path, "rb") as file:
        whole = file.read()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    try:
        for place in range(footer, len(whole), max((len(whole) - footer) // FOOTER_BYTES, 1)):
            for flip in (1, 0x0F, 0xF0):
                changed = whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :]
                with open(path, "wb") as file:
                    file.write(changed)
                found, told = read(dataset, table)
                assert told or found == expected, (place - footer, flip)
    finally:
        with open(path, "wb") as file:
            file.write(whole)


@pytest.mark.parametrize("kept", [0, 1, 100, -1], ids=str)
def test_a_cut_shard_is_named(shard, kept):
    dataset, table, _, path = shard
    shutil.copy(path, f"{path}.whole")
    try:
        os.truncate(path, kept if kept >= 0 else os.path.getsize(path) + kept)
        with pytest.raises(CorruptError, match=r"of its [\d,]+ bytes"):
            rows(dataset, table)
        os.remove(path)
        with pytest.raises(CorruptError, match="found no file"):
            rows(dataset, table)
    finally:
        os.replace(f"{path}.whole", path)
    assert rows(dataset, table)


def test_a_command_says_it_in_one_line(work, capsys):
    dataset = snapshots.read(work, "2026-01-02").dataset("features")
    (only,) = dataset.shards("features")
    path = dataset.path(only)
    shutil.copy(path, f"{path}.whole")
    os.truncate(path, 1000)
    try:
        status = gate.run([f"--workdir={work}", "--date=2026-01-02"])
    finally:
        os.replace(f"{path}.whole", path)
    assert status == Exit.CORRUPT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: expected the shard that was committed, found 1,000 of")
