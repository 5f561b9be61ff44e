"""Snapshots, the pointer and gc in Cloud Storage."""

import pytest

from schemas.base import atomic, storage
from schemas.base.errors import RivalCommitError
from schemas.datasets import dataset
from schemas.maintenance import gc
from schemas.runs import changes, inputs, pointer, snapshots
from schemas.runs import folders as run_folders
from tests.support.datasets.snapshot_work import snapshot, text_of

DATES = ["2026-01-01", "2026-01-02", "2026-01-03"]


def test_a_work_folder_in_a_bucket(bucket):
    work = f"{bucket}/work"
    for date in DATES:
        snapshot(work, date, date)
    assert snapshots.dates(work) == DATES
    assert snapshots.dataset_names(work) == ["model", "phrases"]
    for date in DATES[:2]:
        changes.promote(work, date)
        path = inputs.Resolver().resolve(f"{work}/current/model")
        assert text_of(dataset.Dataset(path)) == date
    assert changes.rollback(work).date == DATES[0]
    assert gc.run([f"--workdir={work}", "--keep=1"]) == 0
    assert snapshots.dates(work) == [DATES[0], DATES[2]]
    for date in (DATES[0], DATES[2]):
        assert text_of(snapshots.read(work, date).dataset("phrases")) == date
    assert len(run_folders.runs(f"{work}/model")) == 2

    storage.write_bytes(f"{work}/model/spill/dead/rows.arrow", b"half")
    assert gc.run([f"--workdir={work}", "--keep=1"]) == 0
    assert len(run_folders.leftovers(f"{work}/model")) == 1, "it may be in the making"
    assert (
        run_folders.purge(f"{work}/model", [r.run_id for r in run_folders.runs(f"{work}/model")])
        == []
    )
    assert run_folders.leftovers(f"{work}/model") == []


def test_of_two_promotions_in_a_bucket_one_wins(bucket, monkeypatch):
    work = f"{bucket}/race"
    for date in DATES:
        snapshot(work, date, date)
    changes.promote(work, DATES[0])
    replace = atomic.replace

    def overtaken(path, data, seen):
        monkeypatch.setattr(atomic, "replace", replace)
        changes.promote(work, DATES[1])
        return replace(path, data, seen)

    monkeypatch.setattr(atomic, "replace", overtaken)
    with pytest.raises(RivalCommitError, match=DATES[1]):
        changes.promote(work, DATES[2])
    assert pointer.current(work).date == DATES[1]
