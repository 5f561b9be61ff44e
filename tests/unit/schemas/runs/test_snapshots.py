import dataclasses
import json
import multiprocessing
import os

import pytest

from schemas.base import atomic, storage
from schemas.base.errors import PhraseLensError, RivalCommitError
from schemas.console.flags import flag
from schemas.datasets import checks, manifest
from schemas.datasets import commit as commit_lib
from schemas.datasets.dataset import Dataset
from schemas.runs import changes, command_line, inputs, snapshots
from schemas.runs import pointer as pointer_lib
from schemas.runs import run as run_lib
from tests.support.datasets.snapshot_work import Config, commit, snapshot, text_of


@dataclasses.dataclass(frozen=True)
class Reader:
    model: str = flag("Model.", role="input")
    phrases: str = flag("Phrases.", role="input", default="")


@pytest.fixture
def work(tmp_path):
    work = str(tmp_path / "work")
    for day, text in enumerate("abc", start=1):
        snapshot(work, f"2026-01-0{day}", text)
    return work


def test_a_dataset_opens_at_an_old_run(work):
    first = snapshots.read(work, "2026-01-01")
    assert text_of(Dataset(f"{work}/model")) == "c"
    old = Dataset(f"{work}/model", first.datasets["model"])
    assert (
        text_of(old) == text_of(Dataset(old.run_folder)) == text_of(first.dataset("model")) == "a"
    )
    assert old.root == Dataset(old.run_folder).root == f"{work}/model"
    assert Dataset(old.run_folder).manifest == old.manifest
    assert checks.verify(old.run_folder) == []


def test_a_run_that_is_not_there(work):
    with pytest.raises(PhraseLensError, match="runs/0000"):
        Dataset(f"{work}/model", "0000")
    with pytest.raises(PhraseLensError, match="2026-01-01, 2026-01-02, 2026-01-03"):
        snapshots.read(work, "2026-01-09")
    with pytest.raises(PhraseLensError, match="one of model, phrases"):
        snapshots.read(work, "2026-01-01").path("modle")
    with pytest.raises(PhraseLensError, match="a date"):
        snapshots.read(work, "../../etc")


def test_a_dataset_whose_folder_is_called_runs_is_no_run(tmp_path):
    commit(str(tmp_path / "runs"), "model", "a")
    opened = Dataset(str(tmp_path / "runs" / "model"))
    assert opened.root == str(tmp_path / "runs" / "model")
    assert text_of(opened) == "a"


def test_runs_from_before_manifests_were_copied_stay_readable(tmp_path):
    work = str(tmp_path)
    run = commit(work, "model", "a")
    copy = f"{manifest.run_folder(f'{work}/model', run)}/manifest.json"
    os.remove(copy)
    assert text_of(Dataset(f"{work}/model", run)) == "a"
    changes.write(work, "2026-01-01", {"model": run})
    commit(work, "model", "b")
    assert text_of(snapshots.read(work, "2026-01-01").dataset("model")) == "a"


def test_promote_and_roll_back(work):
    assert pointer_lib.current(work) is None
    with pytest.raises(PhraseLensError, match="was in use before"):
        changes.rollback(work)
    for date in ("2026-01-01", "2026-01-03", "2026-01-03", "2026-01-02"):
        changes.promote(work, date)
        assert pointer_lib.current(work) == snapshots.read(work, date)
    assert pointer_lib.read_pointer(work).history == ("2026-01-01", "2026-01-03")
    fields = json.loads(storage.read_bytes(f"{work}/current.json"))
    assert (fields["date"], fields["history"]) == ("2026-01-02", ["2026-01-01", "2026-01-03"])
    assert changes.rollback(work).date == "2026-01-03"
    assert changes.rollback(work).date == "2026-01-01"
    with pytest.raises(PhraseLensError, match="one of 2026-01-01"):
        changes.promote(work, "2026-01-09")
    assert pointer_lib.current(work).date == "2026-01-01"


def test_paths_below_current_are_resolved_once_and_for_ever(work):
    def parse(*argv):
        return command_line.parse(Reader, "reader", "", argv)

    assert parse(f"--model={work}/current/model").model == f"{work}/current/model"
    changes.promote(work, "2026-01-01")
    opened = parse(
        f"--model={work}/current/model", f"--phrases={work}/snapshots/2026-01-02/phrases"
    )
    changes.promote(work, "2026-01-03")
    assert text_of(Dataset(opened.model)) == "a"
    assert text_of(Dataset(opened.phrases)) == "b"
    assert text_of(Dataset(parse(f"--model={work}/current/model").model)) == "c"
    assert parse(f"--model={work}/model").model == f"{work}/model"
    with pytest.raises(PhraseLensError, match="'modle'"):
        parse(f"--model={work}/current/modle")


def test_all_flags_of_a_command_see_one_snapshot(work, monkeypatch):
    changes.promote(work, "2026-01-01")
    found, read_current = [], pointer_lib.current

    def promoting(folder):
        found.append(read_current(folder))
        changes.promote(work, "2026-01-02")
        return found[-1]

    monkeypatch.setattr(inputs, "current", promoting)
    argv = [f"--model={work}/current/model", f"--phrases={work}/current/phrases"]
    config = command_line.parse(Reader, "reader", "", argv)
    assert [text_of(Dataset(p)) for p in (config.model, config.phrases)] == ["a", "a"]
    assert len(found) == 1


def test_a_snapshot_in_use_does_not_change(work):
    runs = snapshots.read(work, "2026-01-01").datasets
    changes.promote(work, "2026-01-02")
    assert changes.write(work, "2026-01-02", snapshots.read(work, "2026-01-02").datasets)
    with pytest.raises(PhraseLensError, match="never promoted"):
        changes.write(work, "2026-01-02", runs)
    changes.promote(work, "2026-01-03")
    with pytest.raises(PhraseLensError, match="never promoted"):
        changes.write(work, "2026-01-02", runs)
    assert changes.write(work, "2026-01-01", {"model": runs["model"]}).datasets.keys() == {"model"}
    assert changes.write(work, "2026-01-03", runs, replace_used=True).datasets == runs
    assert pointer_lib.current(work).datasets == runs


def _race(work, date, barrier, results):
    original = atomic.replace

    def replace(*args):
        barrier.wait()  # all have read the pointer before any replaces it
        return original(*args)

    atomic.replace = replace
    try:
        results.put((date, changes.promote(work, date).date))
    except RivalCommitError:
        results.put((date, "lost"))


def test_of_writers_that_race_exactly_one_wins(work):
    changes.promote(work, "2026-01-01")
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    dates = ["2026-01-02", "2026-01-02", "2026-01-03", "2026-01-03"]
    racers = [context.Process(target=_race, args=(work, d, barrier, results)) for d in dates]
    for racer in racers:
        racer.start()
    found = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    pointer = pointer_lib.read_pointer(work)
    assert pointer.history == ("2026-01-01",)
    for date, outcome in found:
        assert outcome == (date if date == pointer.date else "lost")


def test_work_that_an_older_run_did_is_not_done_again(work):
    root = f"{work}/model"
    first = snapshots.read(work, "2026-01-01").datasets["model"]
    assert not run_lib.plan("job", Config(root, "new"), [], {}).done
    planned = run_lib.plan("job", Config(root, "a"), [], {})
    assert planned.done
    assert planned.run_id == first
    assert text_of(Dataset(root)) == "c"
    planned.restore()
    assert text_of(Dataset(root)) == "a"
    assert checks.verify(root) == []
    token = commit_lib.token(root)
    run_lib.plan("job", Config(root, "a"), [], {}).restore()
    assert commit_lib.token(root) == token
