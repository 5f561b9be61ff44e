"""What keeps a snapshot out of use: a hold, the gate's verdict, a date that has not come."""

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import storage
from schemas.base.errors import Exit, PhraseLensError, RefusedError
from schemas.maintenance import forgetting, garbage, gc, promote
from schemas.runs import changes, pointer, snapshots
from tests.support.datasets.snapshot_work import snapshot


@pytest.fixture
def work(tmp_path):
    """Three snapshots, of which the second is in use after the first."""
    work = str(tmp_path / "work")
    for day, text in enumerate("abc", start=1):
        snapshot(work, f"2026-01-0{day}", text)
    changes.promote(work, "2026-01-01")
    changes.promote(work, "2026-01-02")
    return work


def judge(work, date, verdict):
    runs = dict(snapshots.read(work, date).datasets)
    text = json.dumps({"date": date, "verdict": verdict, "runs": runs})
    storage.write_bytes(f"{work}/gates/{date}.json", text.encode())


def command(name, work, *flags):
    return promote.run([name, f"--workdir={work}", *flags])


def test_a_roll_back_holds_until_it_is_lifted(work, capsys):
    assert command("rollback", work, "--hold=wrong labels") == 0
    assert "held: 2026-01-02: wrong labels" in capsys.readouterr().out
    assert command("promote", work, "--date=2026-01-02") == Exit.REFUSED
    assert "wrong labels" in capsys.readouterr().err
    # Made again under the same date it is held, too; another date is not.
    snapshot(work, "2026-01-02", "d")
    assert command("promote", work, "--date=2026-01-02") == Exit.REFUSED
    assert command("promote", work, "--date=2026-01-03") == 0
    assert command("hold", work, "--date=2026-01-02", "--lift") == 0
    assert command("promote", work, "--date=2026-01-02") == 0
    assert pointer.read_pointer(work).holds == {}


def test_a_roll_back_without_a_reason_holds_nothing(work):
    assert command("rollback", work) == 0
    assert command("promote", work, "--date=2026-01-02") == 0


@pytest.mark.parametrize("verdict", ["refuse", "error", "undecided"])
def test_what_the_gate_did_not_let_pass_needs_a_reason(work, capsys, verdict):
    judge(work, "2026-01-03", verdict)
    assert command("promote", work, "--date=2026-01-03") == Exit.REFUSED
    assert "--despite" in capsys.readouterr().err
    assert pointer.read_pointer(work).date == "2026-01-02"
    assert command("promote", work, "--date=2026-01-03", "--despite=a new shop") == 0
    assert pointer.read_pointer(work).despite == "a new shop"
    # It is of that promotion alone.
    snapshot(work, "2026-01-04", "d")
    assert changes.promote(work, "2026-01-04").despite == ""


def test_a_verdict_is_of_the_runs_that_the_gate_saw(work):
    judge(work, "2026-01-03", "refuse")
    snapshot(work, "2026-01-03", "other")
    assert snapshots.verdict(snapshots.read(work, "2026-01-03")) == ""
    assert changes.promote(work, "2026-01-03").date == "2026-01-03"


def test_despite_ends_a_hold(work):
    changes.hold(work, "2026-01-03", "not yet")
    with pytest.raises(RefusedError, match="not yet"):
        changes.promote(work, "2026-01-03")
    assert changes.promote(work, "2026-01-03", "now").holds == {}


def test_holds_stay_over_all_that_changes_the_pointer(work):
    changes.hold(work, "2026-01-09", "not yet")
    changes.promote(work, "2026-01-03")
    changes.rollback(work)
    garbage.collect(work, 0, 0.0)
    forgetting.forget(work, ["model", "phrases"], pointer.read_pointer(work).date)
    assert pointer.read_pointer(work).holds == {"2026-01-09": "not yet"}


@pytest.mark.parametrize(
    "flags",
    [
        ["--date=2026-01-02", "--reason=it is in use"],
        ["--date=2026-01-03"],
        ["--date=2026-01-03", "--reason= "],
        ["--date=2026-01-03", "--lift"],
        ["--date=2026-01-03", "--lift", "--reason=x"],
        ["--date=yesterday", "--reason=x"],
    ],
    ids=["in use", "no reason", "blank reason", "not held", "both", "no date"],
)
def test_a_hold_that_means_nothing_is_refused(work, capsys, flags):
    before = pointer.read_pointer(work)
    assert command("hold", work, *flags) == Exit.BAD_INPUT
    assert ": expected " in capsys.readouterr().err
    assert pointer.read_pointer(work) == before


@pytest.mark.parametrize("date", ["2026-01-01", "2026-01-02", "2026-01-08"])
def test_a_snapshot_that_is_needed_or_unknown_is_not_deleted(work, date):
    assert gc.run([f"--workdir={work}", "--keep=9", f"--delete=2026-01-03,{date}"]) == 2
    assert snapshots.dates(work) == ["2026-01-01", "2026-01-02", "2026-01-03"]


def test_a_snapshot_is_deleted_with_the_runs_that_only_it_names(work):
    judge(work, "2026-01-03", "pass")
    snapshot(work, "2026-01-04", "d")
    gone = snapshots.read(work, "2026-01-03").path("model")
    argv = [f"--workdir={work}", "--keep=9", "--delete=2026-01-03", "--in_progress_hours=0"]
    assert gc.run([*argv, "--dry_run"]) == 0
    assert storage.exists(f"{gone}/manifest.json")
    assert gc.run(argv) == 0
    assert snapshots.dates(work) == ["2026-01-01", "2026-01-02", "2026-01-04"]
    assert not storage.exists(f"{gone}/manifest.json")
    assert storage.size(f"{work}/gates/2026-01-03.json") is None


@given(st.datetimes(datetime.datetime(1000, 1, 1), datetime.datetime(9998, 1, 1)))
def test_dates_are_dates_and_no_later_than_any_clock_on_earth(moment):
    latest = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=14)
    has_come = moment.replace(tzinfo=datetime.UTC, microsecond=0) <= latest
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H%M", "%Y-%m-%dT%H%M%SZ"):
        date = moment.strftime(form)
        assert snapshots.check_date(date) == date
        if has_come:
            snapshots.check_is_past(date)
    if not has_come and moment.date() > latest.date():
        with pytest.raises(PhraseLensError, match="a date that has come"):
            snapshots.check_is_past(f"{moment:%Y-%m-%d}")


@pytest.mark.parametrize(
    "date", ["2026-02-31", "2026-13-01", "2026-1-1", "2026-01-01T24", "2026-01-01T123", "../x", ""]
)
def test_what_is_no_date_is_refused(work, date):
    with pytest.raises(PhraseLensError, match="a date such as"):
        snapshots.check_date(date)


def test_a_snapshot_of_the_future_is_never_in_use(work):
    snapshot(work, "2099-01-01", "d")
    with pytest.raises(PhraseLensError, match="a date that has come"):
        changes.promote(work, "2099-01-01")
    garbage.delete(work, "2099-01-01")
    assert snapshots.dates(work)[-1] == "2026-01-03"
