"""What must be forgotten is forgotten whatever else fails, or the next command ends it first."""

from pathlib import Path

import pytest

from beam_jobs import pipeline, reprocess, reprocess_steps
from beam_jobs.reprocess import Done, StageError
from schemas import manifest, pending, promote, snapshots
from schemas.errors import Exit
from tests.unit.test_snapshots import commit

OUTPUTS = [step.output for step in pipeline.STEPS]
USED, FORGOTTEN, NEXT = "2026-01-01", "2026-01-02", "2026-01-03"


@pytest.fixture
def work(tmp_path):
    """A work folder in which every dataset but the models holds something secret, in use."""
    work = tmp_path / "work"
    models = reprocess_steps.MODELS
    runs = {n: commit(str(work), n, n if n in models else f"secret {n}") for n in OUTPUTS}
    snapshots.write(str(work), USED, runs)
    snapshots.promote(str(work), USED)
    return work


@pytest.fixture
def stages(work, monkeypatch):
    """What runs instead of the stages: each commits something else, or fails where it shall."""
    ran, failing = [], set()

    def run_step(step, argv, output, meanwhile=None):
        ran.append(step.name)
        if step.name in failing:
            raise StageError(step.name, Exit.UNAVAILABLE)
        run_id = commit(str(work), step.output, f"made without {len(ran)}")
        return Done(step.name, 1.0, run_id, False, 0, 0)

    monkeypatch.setattr(reprocess, "run_step", run_step)
    monkeypatch.setattr(reprocess, "loading", lambda *_: None)
    monkeypatch.setattr(pipeline, "check_mined", lambda *_: None)
    return ran, failing


def run(work, date, *flags):
    argv = [f"--workdir={work}", f"--date={date}", "--log=log", "--images=i", "--labels=l"]
    return reprocess.run([*argv, *flags])


def holds_secret(work):
    return [p for p in work.rglob("*") if p.is_file() and b"secret" in p.read_bytes()]


def test_a_deletion_leaves_nothing(work, stages):
    assert run(work, FORGOTTEN, "--forget=list.csv") == Exit.DONE
    assert holds_secret(work) == []
    assert pending.read(str(work)) is None
    assert snapshots.read_pointer(str(work)).date == FORGOTTEN
    assert "report" in snapshots.read(str(work), FORGOTTEN).datasets


def test_nothing_waits_for_a_report(work, stages, capsys):
    stages[1].add("report")
    assert run(work, FORGOTTEN, "--forget=list.csv") == Exit.UNAVAILABLE
    assert holds_secret(work) == []
    assert pending.read(str(work)) is None
    assert "not forgotten yet" not in capsys.readouterr().err
    assert snapshots.read_pointer(str(work)).date == FORGOTTEN
    assert manifest.read(str(work / "report")) is None


@pytest.mark.parametrize("stage", ["mine_pairs", "embed_images", "classify_images"])
def test_the_next_command_ends_a_deletion_first(work, stages, stage, capsys):
    ran, failing = stages
    failing.add(stage)
    assert run(work, FORGOTTEN, "--forget=list.csv") == Exit.UNAVAILABLE
    told = capsys.readouterr().err
    assert "not forgotten yet: runs of " in told
    assert f"snapshots {USED}; " in told
    # Nothing that may hold it comes into use meanwhile, nor is another day made.
    for command in (["promote", f"--date={USED}"], ["rollback"]):
        assert promote.run([*command, f"--workdir={work}"]) == Exit.REFUSED
    assert "./run.sh reprocess" in capsys.readouterr().err
    ran.clear()
    assert run(work, NEXT) == Exit.UNAVAILABLE
    assert ran[-1] == stage
    assert NEXT not in snapshots.dates(str(work))
    failing.clear()
    ran.clear()
    assert run(work, NEXT) == Exit.DONE
    assert ran.count("mine_pairs") == 2
    assert holds_secret(work) == []
    assert snapshots.dates(str(work)) == [FORGOTTEN, NEXT]
    assert snapshots.read_pointer(str(work)).date == FORGOTTEN


def test_a_plan_ends_nothing(work, stages, monkeypatch):
    stages[1].add("mine_pairs")
    run(work, FORGOTTEN, "--forget=list.csv")
    stages[0].clear()
    monkeypatch.setattr("beam_jobs.reprocess_plan.plan", lambda config: [])
    assert run(work, NEXT, "--dry_run") == Exit.DONE
    assert stages[0] == []
    assert pending.read(str(work)) is not None


def test_paths_are_those_of_the_folder_where_it_was_given(work, stages, monkeypatch, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.chdir(first)
    stages[1].add("mine_pairs")
    run(work, FORGOTTEN, "--forget=list.csv")
    stages[1].clear()
    monkeypatch.chdir(second)
    seen = []
    whole = reprocess.reprocess
    monkeypatch.setattr(
        reprocess, "reprocess", lambda config: (seen.append(Path.cwd()), whole(config))[1]
    )
    assert run(work, NEXT) == Exit.DONE
    assert seen == [first, second]
