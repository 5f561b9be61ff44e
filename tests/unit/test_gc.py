import os
import time

import pytest

from schemas import gc, manifest, snapshots, storage
from schemas.errors import PhraseLensError, RivalCommitError
from tests.unit.test_snapshots import commit, snapshot, text_of

DATES = [f"2026-01-0{day}" for day in range(1, 7)]
HOUR = 3600.0


@pytest.fixture
def work(tmp_path):
    work = str(tmp_path / "work")
    for date in DATES:
        snapshot(work, date, date)
    return work


def readable(work):
    """The dates whose snapshot can be read to its last byte."""
    found = []
    for date in DATES:
        try:
            opened = snapshots.read(work, date)
            texts = {text_of(opened.dataset(name)) for name in ("model", "phrases")}
        except (PhraseLensError, FileNotFoundError):
            continue
        assert texts == {date}
        found.append(date)
    return found


@pytest.mark.parametrize("keep", range(7))
@pytest.mark.parametrize("promoted", [(), (1,), (0, 3), (0, 3, 1)])
def test_what_is_kept_stays_readable_and_nothing_else(work, keep, promoted):
    for place in promoted:
        snapshots.promote(work, DATES[place])
    kept = {*DATES[len(DATES) - keep :], *(DATES[place] for place in promoted[-2:])}
    assert gc.run([f"--workdir={work}", f"--keep={keep}"]) == 0
    assert readable(work) == sorted(kept)
    for name in ("model", "phrases"):
        runs = {snapshots.read(work, date).datasets[name] for date in kept}
        runs.add(manifest.read(f"{work}/{name}").run_id)  # the last run is always kept
        assert {run.run_id for run in manifest.runs(f"{work}/{name}")} == runs
        assert manifest.verify(f"{work}/{name}") == []
    current = snapshots.current(work)
    assert (current.date if current else None) == (DATES[promoted[-1]] if promoted else None)
    for place in reversed(promoted[:-1]):
        if DATES[place] in kept:
            assert snapshots.rollback(work).date == DATES[place]


def test_it_says_what_it_frees_and_a_dry_run_frees_nothing(work, capsys):
    files = storage.list_sizes(work)
    assert gc.run([f"--workdir={work}", "--keep=2", "--dry_run"]) == 0
    planned = capsys.readouterr().out
    assert storage.list_sizes(work) == files
    assert gc.run([f"--workdir={work}", "--keep=2"]) == 0
    freed = capsys.readouterr().out
    assert planned.replace("--dry_run: would free", "freed") == freed
    assert "8 runs, 4 snapshots" in freed
    left = set(storage.list_files(work))
    gone = sum(size for name, size, _ in files if "/runs/" in name and name not in left)
    assert f"freed {gone:,} bytes" in freed


def test_a_run_that_is_being_made_is_left_alone(work):
    path = f"{work}/model/runs/being_made/rows/part-00000-of-00002.parquet"
    storage.write_bytes(path, b"half")
    assert gc.run([f"--workdir={work}", "--keep=9"]) == 0
    assert storage.size(path) == 4
    old = time.time() - 25 * HOUR
    os.utime(path, (old, old))
    assert gc.run([f"--workdir={work}", "--keep=9"]) == 0
    assert storage.size(path) is None


def test_of_a_collection_and_a_promotion_that_race_one_wins(work, monkeypatch):
    """The promotion has seen that its snapshot is there; then the collection deletes it."""
    snapshots.promote(work, DATES[-1])
    replace = manifest.replace

    def collecting(path, data, seen):
        monkeypatch.setattr(manifest, "replace", replace)
        snapshots.collect(work, 1, 0.0)
        return replace(path, data, seen)

    monkeypatch.setattr(manifest, "replace", collecting)
    with pytest.raises(RivalCommitError):
        snapshots.promote(work, DATES[0])
    assert snapshots.current(work).date == DATES[-1]
    assert readable(work) == DATES[-1:]


def test_forgetting_leaves_one_snapshot_and_puts_it_in_use(work):
    snapshots.promote(work, DATES[0])
    refused = commit(work, "model", "refused")  # the last run, but not that of the snapshot
    snapshots.forget(work, ["model", "phrases", "never_made"], DATES[-1])
    assert readable(work) == DATES[-1:]
    assert snapshots.current(work).date == DATES[-1]
    kept = snapshots.read(work, DATES[-1]).datasets
    assert {run.run_id for run in manifest.runs(f"{work}/model")} == {kept["model"], refused}
    assert {run.run_id for run in manifest.runs(f"{work}/phrases")} == {kept["phrases"]}


def test_forgetting_without_a_snapshot_leaves_none(work):
    snapshots.promote(work, DATES[0])
    snapshots.forget(work, ["model", "phrases"])
    assert snapshots.current(work) is None
    assert snapshots.dates(work) == []
    assert text_of(manifest.Dataset(f"{work}/model")) == DATES[-1]


def test_a_folder_without_datasets_is_left_alone(tmp_path, capsys):
    assert gc.run([f"--workdir={tmp_path}/nothing", "--keep=1"]) == 2
    assert "a folder that holds datasets" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_keep_must_be_a_number_of_snapshots(work, capsys):
    assert gc.run([f"--workdir={work}", "--keep=-1"]) == 2
    assert "error: --keep -1" in capsys.readouterr().err
