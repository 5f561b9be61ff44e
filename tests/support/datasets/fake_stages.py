"""A work folder whose stages are run by nobody: each commits a word, or fails where it shall."""

import contextlib

import pytest

from beam_jobs.runs import all_stages, chosen, reprocess, stages
from beam_jobs.runs.reprocess import Done, StageError
from schemas.base.errors import Exit
from schemas.runs import changes
from tests.support.datasets.snapshot_work import commit

OUTPUTS = [step.output for step in stages.STAGES]
USED, FORGOTTEN, NEXT = "2026-01-01", "2026-01-02", "2026-01-03"
OWN = ("new_predictions", "of_my_own/2026-01-01")


@pytest.fixture
def fake_work(tmp_path):
    """A work folder in which every dataset but the models holds something secret, in use."""
    work = tmp_path / "work"
    models = chosen.MODELS
    runs = {n: commit(str(work), n, n if n in models else f"secret {n}") for n in OUTPUTS}
    changes.write(str(work), USED, runs)
    changes.promote(str(work), USED)
    # What people make of a snapshot, and keep in the same folder.
    for name in OWN:
        commit(str(work), name, "secret predictions")
    return work


@pytest.fixture
def fake_stages(fake_work, monkeypatch):
    """What runs instead of the stages: each commits something else, or fails where it shall."""
    ran, failing = [], set()

    def run_step(step, argv, output, *_):
        ran.append(step.name)
        if step.name in failing:
            raise StageError(step.name, Exit.UNAVAILABLE)
        run_id = commit(str(fake_work), step.output, f"made without {len(ran)}")
        return Done(step.name, 1.0, run_id, False, 0, 0)

    monkeypatch.setattr(reprocess, "run_stage", run_step)
    monkeypatch.setattr(reprocess, "miner_of", lambda _: contextlib.nullcontext())
    # Nothing was run that leaves graphs and networks, and to look for them takes seconds.
    monkeypatch.setattr(reprocess.gc, "collect", lambda: 0)
    monkeypatch.setattr(all_stages, "check_mined", lambda *_: None)
    return ran, failing


def run(work, date, *flags):
    argv = [f"--workdir={work}", f"--date={date}", "--log=log", "--images=i", "--labels=l"]
    return reprocess.run([*argv, *flags])
