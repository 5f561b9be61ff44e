import os
import time

import pytest

from schemas.base import atomic, storage
from schemas.base.errors import PhraseLensError, RivalCommitError
from schemas.datasets import checks, dataset, manifest
from schemas.maintenance import forgetting, garbage, gc
from schemas.runs import changes, pointer, snapshots
from schemas.runs import folders as run_folders
from schemas.runs import run as run_lib
from tests.support.datasets.snapshot_work import Config, commit, snapshot, text_of

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
        changes.promote(work, DATES[place])
    kept = {*DATES[len(DATES) - keep :], *(DATES[place] for place in promoted[-2:])}
    assert gc.run([f"--workdir={work}", f"--keep={keep}"]) == 0
    assert readable(work) == sorted(kept)
    for name in ("model", "phrases"):
        runs = {snapshots.read(work, date).datasets[name] for date in kept}
        runs.add(manifest.read(f"{work}/{name}").run_id)  # the last run is always kept
        assert {run.run_id for run in run_folders.runs(f"{work}/{name}")} == runs
        assert checks.verify(f"{work}/{name}") == []
    current = pointer.current(work)
    assert (current.date if current else None) == (DATES[promoted[-1]] if promoted else None)
    for place in reversed(promoted[:-1]):
        if DATES[place] in kept:
            assert changes.rollback(work).date == DATES[place]


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


def leave(path, hours=25.0):
    """Writes a file as a process did that was killed so many hours ago."""
    storage.write_bytes(path, b"half")
    then = time.time() - hours * HOUR
    os.utime(path, (then, then))


@pytest.mark.parametrize("folder", ["spill", "scratch"])
def test_what_a_dead_run_left_beside_its_shards_goes_too(work, folder, capsys):
    last = manifest.read(f"{work}/model").run_id
    for run in ("dead", last):  # the last one was killed when it had just been committed
        leave(f"{work}/model/{folder}/{run}/rows/block.arrow", 25 if run == "dead" else 23)
    assert gc.run([f"--workdir={work}", "--keep=9"]) == 0
    freed = capsys.readouterr().out
    assert f"{work}/model {folder} dead: 4 bytes\n" in freed
    assert "freed 4 bytes: 0 runs, 0 snapshots, 1 leftovers of dead runs" in freed
    assert storage.list_files(f"{work}/model/{folder}") == [f"{last}/rows/block.arrow"]

    command = [f"--workdir={work}", "--keep=9", "--in_progress_hours=0"]
    assert gc.run([*command, "--dry_run"]) == 0
    assert len(storage.list_files(f"{work}/model/{folder}")) == 1
    assert gc.run(command) == 0
    assert storage.list_files(f"{work}/model/{folder}") == []
    assert readable(work) == DATES


def test_a_run_is_being_made_while_any_file_of_it_is_young(work):
    left = [f"{work}/model/{folder}/made/rows/a" for folder in ("runs", "spill", "scratch")]
    for young in left:
        for path in left:
            leave(path, 1 if path == young else 25)
        assert gc.run([f"--workdir={work}", "--keep=9"]) == 0
        assert all(storage.size(path) == 4 for path in left)
    leave(left[-1])
    assert gc.run([f"--workdir={work}", "--keep=9"]) == 0
    assert not any(storage.exists(path) for path in left)


@pytest.mark.parametrize("worker", [0, 1])
def test_a_run_that_a_process_works_on_is_left_alone(work, worker, caplog):
    planned = run_lib.plan("job", Config(f"{work}/model", "in the making"), [], {})
    folders = [planned.absolute(planned.folder("model")), planned.spill, planned.scratch]
    with planned.alone():
        pass  # the first of them has ended
    with planned.alone(worker):
        for folder in folders:
            leave(f"{folder}/half")
        assert gc.run([f"--workdir={work}", "--keep=9"]) == 0
        forgetting.forget(work, ["model"], DATES[-1])
        assert all(storage.list_files(folder) == ["half"] for folder in folders)
        assert f"{planned.spill} is being made and was not deleted" in caplog.text
    forgetting.forget(work, ["model"], DATES[-1])
    assert not any(storage.list_files(folder) for folder in folders)
    with planned.alone():
        pass  # who works on it next finds it free


def test_forgetting_does_not_wait_for_dead_runs_to_grow_old(work):
    last = manifest.read(f"{work}/model").run_id
    for folder in ("spill", "scratch"):
        for run in ("dead", last):
            storage.write_bytes(f"{work}/model/{folder}/{run}/queries", b"what people typed")
    forgetting.forget(work, ["model", "phrases"], DATES[-1])
    assert [f for f in storage.list_files(f"{work}/model") if f.endswith("queries")] == []
    assert readable(work) == DATES[-1:]


def test_forgetting_reaches_a_dataset_whose_only_run_died(work):
    for folder in ("runs", "spill", "scratch"):
        storage.write_bytes(f"{work}/mined/{folder}/dead/queries", b"what people typed")
    forgetting.forget(work, ["model", "phrases", "mined", "never_begun"], DATES[-1])
    assert storage.list_files(f"{work}/mined") == []
    assert readable(work) == DATES[-1:]


def test_a_folder_that_vanishes_while_it_is_listed_is_passed_over(work, monkeypatch):
    """A job that is being made deletes what it spilled just then."""
    path = f"{work}/model/spill/made/rows/block.arrow"
    leave(path, 1)

    class Vanishing:
        def get_file_info(self, selector):
            if storage.size(path) is not None:
                storage.remove_tree(f"{work}/model/spill/made")
                raise FileNotFoundError(path)
            return real(selector.base_dir)[0].get_file_info(selector)

    def filesystem(listed):
        fs, inner = real(listed)
        return (Vanishing() if listed.endswith("model/spill") else fs), inner

    real = storage.filesystem
    monkeypatch.setattr(storage, "filesystem", filesystem)
    assert gc.run([f"--workdir={work}", "--keep=9"]) == 0
    assert storage.size(path) is None


def test_of_a_collection_and_a_promotion_that_race_one_wins(work, monkeypatch):
    """The promotion has seen that its snapshot is there; then the collection deletes it."""
    changes.promote(work, DATES[-1])
    replace = atomic.replace

    def collecting(path, data, seen):
        monkeypatch.setattr(atomic, "replace", replace)
        garbage.collect(work, 1, 0.0)
        return replace(path, data, seen)

    monkeypatch.setattr(atomic, "replace", collecting)
    with pytest.raises(RivalCommitError):
        changes.promote(work, DATES[0])
    assert pointer.current(work).date == DATES[-1]
    assert readable(work) == DATES[-1:]


def test_forgetting_leaves_one_snapshot_and_puts_it_in_use(work):
    changes.promote(work, DATES[0])
    refused = commit(work, "model", "refused")  # the last run, but not that of the snapshot
    forgetting.forget(work, ["model", "phrases", "never_made"], DATES[-1])
    assert readable(work) == DATES[-1:]
    assert pointer.current(work).date == DATES[-1]
    kept = snapshots.read(work, DATES[-1]).datasets
    assert {run.run_id for run in run_folders.runs(f"{work}/model")} == {kept["model"], refused}
    assert {run.run_id for run in run_folders.runs(f"{work}/phrases")} == {kept["phrases"]}


def test_forgetting_without_a_snapshot_leaves_none(work):
    changes.promote(work, DATES[0])
    forgetting.forget(work, ["model", "phrases"])
    assert pointer.current(work) is None
    assert snapshots.dates(work) == []
    assert text_of(dataset.Dataset(f"{work}/model")) == DATES[-1]


def test_a_folder_without_datasets_is_left_alone(tmp_path, capsys):
    assert gc.run([f"--workdir={tmp_path}/nothing", "--keep=1"]) == 2
    assert "a folder that holds datasets" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_keep_must_be_a_number_of_snapshots(work, capsys):
    assert gc.run([f"--workdir={work}", "--keep=-1"]) == 2
    assert "error: --keep=-1: expected a whole number, at least 0" in capsys.readouterr().err
