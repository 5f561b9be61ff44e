"""What a person on call reads: the status of a work folder, and the summary of its last run."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import storage
from schemas.base.errors import Exit
from schemas.datasets import manifest
from schemas.maintenance import status
from schemas.runs import changes, snapshots
from tests.support.datasets.fake_stages import FORGOTTEN, NEXT, USED, run
from tests.support.datasets.snapshot_work import commit


def told(path, capsys, *flags):
    capsys.readouterr()
    assert status.run([str(path), *flags]) == Exit.DONE
    return capsys.readouterr().out


def summary(work, date):
    return json.loads((work / "summaries" / f"{date}.json").read_text())


def test_a_summary_is_written_of_every_run(fake_work, fake_stages, capsys):
    _, failing = fake_stages
    failing.add("embed_images")
    assert run(fake_work, NEXT) == Exit.UNAVAILABLE
    found = summary(fake_work, NEXT)
    assert (found["outcome"], found["exit"]) == ("failed", Exit.UNAVAILABLE)
    assert found["error"].startswith("embed_images failed")
    assert [row["stage"] for row in found["stages"]] == ["mine_pairs", "embed_phrases"]
    failing.clear()
    assert run(fake_work, NEXT) == Exit.DONE
    found = summary(fake_work, NEXT)
    assert (found["outcome"], found["exit"], found["error"]) == ("done", 0, "")
    assert len(found["stages"]) == 5
    assert found["started"] <= found["ended"]
    changes.promote(str(fake_work), NEXT)
    assert run(fake_work, NEXT) == Exit.DONE
    assert summary(fake_work, NEXT)["outcome"] == "nothing"
    assert run(fake_work, NEXT, "--detailed_exit_code") == Exit.NOTHING
    assert summary(fake_work, NEXT)["exit"] == Exit.NOTHING
    assert "last run: 2026-01-03, nothing (exit status 10)" in told(fake_work, capsys)


def test_a_bug_is_in_the_summary_too(fake_work, fake_stages, monkeypatch):
    def run_stage(*_):
        raise KeyError("nobody thought of it")

    monkeypatch.setattr("beam_jobs.runs.reprocess.run_stage", run_stage)
    with pytest.raises(KeyError):
        run(fake_work, NEXT)
    found = summary(fake_work, NEXT)
    assert (found["outcome"], found["exit"]) == ("failed", Exit.BUG)
    assert "nobody thought of it" in found["error"]


def test_a_wrong_work_folder_becomes_none(tmp_path):
    assert run(tmp_path / "typo", NEXT) == Exit.BAD_INPUT
    assert not (tmp_path / "typo").exists()
    assert status.run([str(tmp_path / "typo")]) == Exit.BAD_INPUT


def test_a_status_has_what_a_person_asks_for(fake_work, fake_stages, capsys):
    date = "2026-01-06"
    assert run(fake_work, date) == Exit.DONE
    runs = dict(snapshots.read(str(fake_work), date).datasets)
    judged = {"date": date, "verdict": "refuse", "runs": runs}
    storage.write_bytes(f"{fake_work}/gates/{date}.json", json.dumps(judged).encode())
    changes.promote(str(fake_work), date, "the new shop is meant")
    changes.hold(str(fake_work), "2026-01-07", "labels of another team")
    text = told(fake_work, capsys)
    for line in (
        f"in use: {date} since 20",
        "  promoted although it was refused: the new shop is meant",
        f"  before it: {USED}",
        "held: 2026-01-07: labels of another team",
        "snapshots: 2",
        "gate: not asked",
        "gate: refuse",
        "  no snapshot of 2026-01-02, 2026-01-03, 2026-01-04, 2026-01-05",
        f"last run: {date}, done (exit status 0)",
    ):
        assert line in text, line
    found = json.loads(told(fake_work, capsys, "--json"))
    assert found["in_use"] == date
    assert found["snapshots"][date]["verdict"] == "refuse"
    size = sum(
        shard.bytes
        for name, run_id in runs.items()
        for shard in manifest.shards_of(manifest.read(f"{fake_work}/{name}", run_id))
    )
    assert found["snapshots"][date]["bytes"] == size > 0
    assert found["last_run"]["date"] == date


def test_a_deletion_that_waits_is_shown(fake_work, fake_stages, capsys):
    fake_stages[1].add("embed_images")
    run(fake_work, FORGOTTEN, "--forget=list.csv")
    text = told(fake_work, capsys)
    assert "a deletion has not ended: begun 20" in text
    assert f"as {FORGOTTEN}; the next" in text
    fake_stages[1].clear()
    run(fake_work, FORGOTTEN, "--forget=list.csv")
    assert "a deletion" not in told(fake_work, capsys)


def test_a_snapshot_whose_run_is_gone_is_shown(fake_work, capsys):
    old = snapshots.read(str(fake_work), USED).datasets["features"]
    commit(str(fake_work), "features", "a later one")
    storage.remove_tree(f"{fake_work}/features/runs/{old}")
    assert f"  {USED}: a run of it is gone" in told(fake_work, capsys)


@given(st.sets(st.dates(), max_size=8).filter(lambda d: not d or (max(d) - min(d)).days < 400))
def test_gaps_are_the_days_between(dates):
    missing = status.gaps([str(date) for date in dates])
    if not dates:
        assert missing == []
        return
    assert len(missing) + len(dates) == (max(dates) - min(dates)).days + 1
    assert not set(missing) & {str(date) for date in dates}
    assert all(str(min(dates)) < day < str(max(dates)) for day in missing)
