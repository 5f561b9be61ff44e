"""What must be forgotten is forgotten whatever else fails, or the next command ends it first."""

import json
from pathlib import Path

import pytest

from beam_jobs.runs import reprocess
from schemas.base import storage
from schemas.base.errors import Exit
from schemas.datasets import manifest
from schemas.maintenance import pending, promote, summaries
from schemas.runs import changes, pointer, snapshots
from tests.support.datasets.fake_stages import FORGOTTEN, NEXT, OWN, USED, run
from tests.support.datasets.snapshot_work import commit


def holds_secret(work):
    return [p for p in work.rglob("*") if p.is_file() and b"secret" in p.read_bytes()]


def test_a_deletion_leaves_nothing(fake_work, fake_stages, capsys):
    """Nor in what people made of a snapshot and keep there, in verdicts, or in what errors said."""
    for date in (USED, FORGOTTEN):
        judged = json.dumps({"date": date, "verdict": "pass", "movers": ["a secret query"]})
        storage.write_bytes(str(fake_work / snapshots.GATES / f"{date}.json"), judged.encode())
    commit(str(fake_work), "damaged", "secret predictions")
    (fake_work / "damaged" / "manifest.json").write_text("{")
    failed = {"date": USED, "ended": f"{USED}T03:00:00Z", "error": "a secret image is cut"}
    summaries.write(summaries.path_of(str(fake_work), USED), failed)
    changes.write(str(fake_work), FORGOTTEN, snapshots.read(str(fake_work), USED).datasets)
    assert run(fake_work, FORGOTTEN, "--forget=list.csv") == Exit.DONE
    assert holds_secret(fake_work) == []
    printed = capsys.readouterr().out
    for name in (*OWN, "damaged"):
        assert f"deleted {fake_work}/{name}: " in printed
        assert manifest.read(str(fake_work / name)) is None
    assert pending.read(str(fake_work)) is None
    assert pointer.read_pointer(str(fake_work)).date == FORGOTTEN
    assert "report" in snapshots.read(str(fake_work), FORGOTTEN).datasets


def test_nothing_waits_for_a_report(fake_work, fake_stages, capsys):
    fake_stages[1].add("report")
    assert run(fake_work, FORGOTTEN, "--forget=list.csv") == Exit.UNAVAILABLE
    assert holds_secret(fake_work) == []
    assert pending.read(str(fake_work)) is None
    assert "not forgotten yet" not in capsys.readouterr().err
    assert pointer.read_pointer(str(fake_work)).date == FORGOTTEN
    assert manifest.read(str(fake_work / "report")) is None


@pytest.mark.parametrize("stage", ["mine_pairs", "embed_images", "classify_images"])
def test_the_next_command_ends_a_deletion_first(fake_work, fake_stages, stage, capsys):
    ran, failing = fake_stages
    failing.add(stage)
    assert run(fake_work, FORGOTTEN, "--forget=list.csv") == Exit.UNAVAILABLE
    told = capsys.readouterr().err
    assert "not forgotten yet: runs of " in told
    assert f"snapshots {USED}; {fake_work}/new_predictions; " in told
    # Nothing that may hold it comes into use meanwhile, nor is another day made.
    for command in (["promote", f"--date={USED}"], ["rollback"]):
        assert promote.run([*command, f"--workdir={fake_work}"]) == Exit.REFUSED
    assert "./run.sh reprocess" in capsys.readouterr().err
    ran.clear()
    assert run(fake_work, NEXT) == Exit.UNAVAILABLE
    assert ran[-1] == stage
    assert NEXT not in snapshots.dates(str(fake_work))
    failing.clear()
    ran.clear()
    assert run(fake_work, NEXT) == Exit.DONE
    assert ran.count("mine_pairs") == 2
    assert holds_secret(fake_work) == []
    assert snapshots.dates(str(fake_work)) == [FORGOTTEN, NEXT]
    assert pointer.read_pointer(str(fake_work)).date == FORGOTTEN


def test_a_plan_ends_nothing(fake_work, fake_stages, monkeypatch):
    fake_stages[1].add("mine_pairs")
    run(fake_work, FORGOTTEN, "--forget=list.csv")
    fake_stages[0].clear()
    monkeypatch.setattr("beam_jobs.runs.plan.plan", lambda config: [])
    assert run(fake_work, NEXT, "--dry_run") == Exit.DONE
    assert fake_stages[0] == []
    assert pending.read(str(fake_work)) is not None


def test_paths_are_those_of_the_folder_where_it_was_given(
    fake_work, fake_stages, monkeypatch, tmp_path
):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.chdir(first)
    fake_stages[1].add("mine_pairs")
    run(fake_work, FORGOTTEN, "--forget=list.csv")
    fake_stages[1].clear()
    monkeypatch.chdir(second)
    seen = []
    whole = reprocess.reprocess
    monkeypatch.setattr(
        reprocess, "reprocess", lambda *args: (seen.append(Path.cwd()), whole(*args))[1]
    )
    assert run(fake_work, NEXT) == Exit.DONE
    assert seen == [first, second]


def test_models_samples_and_days_of_ones_own_stay(fake_work, fake_stages, monkeypatch):
    """Models as those in use do; samples are what was given; days are cleaned by themselves."""
    stages = {"my_text_generator": "train_text_generator", "samples": "make_samples"}
    stages["days/2026-01-01"] = "mine_log"
    for name, stage in stages.items():
        commit(str(fake_work), name, "kept", stage)
    assert run(fake_work, FORGOTTEN, "--forget=list.csv") == Exit.DONE
    assert all(manifest.read(str(fake_work / name)) for name in stages)


def test_what_is_given_or_lies_elsewhere_is_never_deleted(fake_work, fake_stages, tmp_path):
    """Links, other programs' files, and days and models that are damaged or of a later version."""
    elsewhere, work = tmp_path / "elsewhere", str(fake_work)
    commit(str(elsewhere), "mined", "kept")
    (fake_work / "shared").symlink_to(elsewhere)
    (fake_work / "latest").symlink_to(fake_work / "predictions")
    (fake_work / "self").symlink_to(fake_work)
    site = fake_work / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "app", "start_url": "."}')
    (site / "runs").mkdir()
    (site / "runs" / "log.txt").write_text("of another program")
    commit(work, "days/2026-01-01", "kept", "mine_log")
    (fake_work / "days/2026-01-01/manifest.json").write_bytes(b"\xff{")
    commit(work, "my_model", "kept", "train_fusion")
    for path in (fake_work / "my_model").rglob("manifest.json"):
        path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))
    before = {
        path: path.read_bytes()
        for folder in (elsewhere, site, fake_work / "days", fake_work / "my_model")
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert run(fake_work, FORGOTTEN, "--forget=list.csv") == Exit.DONE
    assert {path: path.read_bytes() for path in before} == before
    assert manifest.read(f"{work}/predictions") is not None
    assert pointer.current(work).dataset("predictions").shards("model")


def test_leftovers_of_ones_own_are_found_wherever_they_lie(fake_work, fake_stages):
    """Below a stage's folder, in one that is called runs, after a kill, and of a run that died."""
    work = str(fake_work)
    for name in ("predictions/new", "runs/new", "mine/runs/2026-01/predictions"):
        commit(work, name, "secret predictions")
    commit(work, "killed", "secret predictions")
    (fake_work / "killed/manifest.json").unlink()  # the first that a deletion removes
    for folder in ("runs", "spill", "scratch"):
        storage.write_bytes(f"{work}/died/{folder}/{'0a' * 8}/part", b"secret rows")
    orphan = json.dumps({"date": "2025-12-01", "movers": ["a secret query"]})
    storage.write_bytes(f"{work}/{snapshots.GATES}/2025-12-01.json", orphan.encode())
    storage.write_bytes(summaries.path_of(work, "2025-12-01"), b'{"error": "a secret image')
    assert run(fake_work, FORGOTTEN, "--forget=list.csv") == Exit.DONE
    assert holds_secret(fake_work) == []
