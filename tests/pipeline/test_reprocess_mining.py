"""The driver of reprocess on its first stage, which needs no networks: plan, runs, snapshots."""

import csv
import json

import pytest

from beam_jobs.runs import chosen, reprocess, stages
from beam_jobs.runs import plan as reprocess_plan
from schemas.base import storage
from schemas.maintenance import metrics, summaries
from schemas.runs import changes, command_line, pointer, snapshots
from schemas.runs import folders as run_folders
from tests.support.datasets.messy_mining import COLUMNS, messy_log
from tests.support.datasets.snapshot_work import commit
from tests.support.inputs.image_files import encode, photo
from transforms.images.read import source_of

SETTINGS = ("num_shards=2", "max_dead_fraction=1", "min_users=1", "one_person_pairs=true")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Plans and runs a reprocess of mine_pairs alone; returns both, and what it printed."""
    monkeypatch.setattr(stages, "STAGES", stages.STAGES[:1])
    work = str(tmp_path / "work")
    for name in chosen.MODELS:
        commit(work, name, name, f"train_{name}")
    with open(tmp_path / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(messy_log(0, 100))
    for i in range(6):
        storage.write_bytes(str(tmp_path / "images" / f"p{i}.png"), encode(photo(i), "PNG"))
    storage.write_bytes(str(tmp_path / "labels.csv"), b"key,label\np1,shoe\np2,hat\n")

    def go(date, *more, settings=()):
        flags = ",".join(f"mine_pairs.{s}" for s in (*SETTINGS, *settings))
        argv = [f"--workdir={work}", f"--date={date}", f"--log={tmp_path}/log.csv"]
        argv += [f"--images={tmp_path}/images", f"--labels={tmp_path}/labels.csv"]
        argv += [f"--set={flags}", *more]
        config = command_line.parse(chosen.Config, "reprocess", "", argv)
        files = storage.list_sizes(work)
        (planned,) = reprocess_plan.plan(config)
        assert storage.list_sizes(work) == files, "a plan writes nothing"
        (done,) = reprocess.reprocess(config)
        assert (done.images, done.reused) == (planned.images, planned.reused) or done.skipped
        assert done.skipped != planned.runs
        return planned, done, snapshots.read(work, date)

    return go


def test_days_of_mining(run, tmp_path):
    planned, done, first = run("2026-01-01")
    assert (done.images, done.reused) == (6, 0)
    assert planned.why.startswith("never done before")
    assert set(first.datasets) == {"mined", *chosen.MODELS}

    planned, done, _ = run("2026-01-02")
    assert not planned.runs

    (tmp_path / "images" / "p2.png").unlink()
    storage.write_bytes(str(tmp_path / "images" / "new.png"), encode(photo(9), "PNG"))
    planned, done, second = run("2026-01-03")
    assert (done.images, done.reused) == (1, 5)
    assert "input images; 1 new images, 1 gone" in planned.why
    # What was there before is retired, and no row about it is dead.
    before, counters = (s.dataset("mined").manifest.counters for s in (first, second))
    assert before["image_keys.retired"] == before["known_labels.dropped_retired_image"] == 0
    assert counters["image_keys.retired"] == counters["known_labels.dropped_retired_image"] == 1
    unknown = before["clicks.dropped_unknown_image"]
    assert counters["clicks.dropped_unknown_image"] == unknown
    assert counters["clicks.dropped_retired_image"] == before["clicks.out"] - counters["clicks.out"]

    planned, done, _ = run("2026-01-04", settings=("min_pair_clicks=2",))
    assert (done.images, done.reused) == (0, 6)
    assert "--min_pair_clicks" in planned.why

    # Back to what was done before: that run is the last one again, and nothing is computed.
    planned, done, again = run("2026-01-05")
    assert not planned.runs
    assert again.datasets == second.datasets
    keys = first.dataset("mined").table("images", ["keys"])["keys"].to_pylist()
    assert ["p2"] in keys, "the old snapshot is as it was"

    deletions = tmp_path / "deletions.csv"
    deletions.write_text("image,user,query\np4,,\n")
    changes.promote(first.work, "2026-01-01")
    _, done, last = run("2026-01-06", f"--forget={deletions}")
    assert snapshots.dates(first.work) == ["2026-01-06"]
    assert pointer.current(first.work) == last
    assert [r.run_id for r in run_folders.runs(f"{first.work}/mined")] == [last.datasets["mined"]]
    sources = last.dataset("mined").table("sources", ["source"])["source"].to_pylist()
    assert source_of(encode(photo(4), "PNG")) not in sources
    keys = last.dataset("mined").table("images", ["keys"])["keys"].to_pylist()
    assert sorted(key for of in keys for key in of) == ["new", "p0", "p1", "p3", "p5"]

    # Under the date that is in use, as people do who do not think of another.
    deletions.write_text("image,user,query\np4,,\np5,,\n")
    _, done, last = run("2026-01-06", f"--forget={deletions}")
    assert pointer.current(first.work) == last
    assert [r.run_id for r in run_folders.runs(f"{first.work}/mined")] == [last.datasets["mined"]]
    keys = last.dataset("mined").table("images", ["keys"])["keys"].to_pylist()
    assert sorted(key for of in keys for key in of) == ["new", "p0", "p1", "p3"]


def test_a_date_that_was_in_use_is_left_alone(run, tmp_path, capsys):
    _, _, first = run("2026-01-01")
    for date in ("2026-01-01", "2026-01-02"):
        if date != "2026-01-01":
            run(date, settings=("min_pair_clicks=2",))
        changes.promote(first.work, date)
    storage.write_bytes(str(tmp_path / "images" / "new.png"), encode(photo(9), "PNG"))
    before = files_but_what_a_run_says(first.work)
    argv = [f"--workdir={first.work}", f"--log={tmp_path}/log.csv", f"--images={tmp_path}/images"]
    argv += [f"--labels={tmp_path}/labels.csv"]
    for date in ("2026-01-01", "2026-01-02"):
        summary = tmp_path / f"{date}.json"
        assert reprocess.run([*argv, f"--date={date}", f"--summary={summary}"]) == 0
        told = json.loads(summary.read_text())
        assert (told["outcome"], told["stages"]) == ("nothing", [])
        assert f"snapshot {date} is or was in use" in capsys.readouterr().out
    assert files_but_what_a_run_says(first.work) == before


def files_but_what_a_run_says(work):
    """The files of a work folder, without those that every run writes of itself."""
    own = (f"{summaries.FOLDER}/", metrics.FILE_NAME)
    return [file for file in storage.list_sizes(work) if not file[0].startswith(own)]
