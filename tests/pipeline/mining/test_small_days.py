"""Days that are empty, foreign, smaller than they were, or there twice."""

import datetime

import pytest

from beam_jobs.mining import mine_log
from beam_jobs.mining.days import find_days
from schemas.base.errors import Exit, PhraseLensError
from schemas.datasets import manifest

FRIDAY = datetime.date(2026, 11, 20)


def log_of(folder, day, events, dead=0):
    """A log of some good events of a day, and rows without a query."""
    path = folder / f"{day}-{events}-{dead}.csv"
    rows = [f"red shoe,p{n % 5},user-{n},{day}T10:00:00Z" for n in range(events)]
    rows += [f",p{n % 5},user-{n},{day}T10:00:00Z" for n in range(dead)]
    path.write_text("\n".join(["query,image,user,timestamp", *rows]) + "\n")
    return path


def mine(folder, log, day=FRIDAY, *flags, name=""):
    output = folder / "days" / (name or str(day))
    argv = [f"--log={log}", f"--partition={day}", f"--output={output}", "--num_shards=1"]
    return mine_log.run([*argv, *flags]), output


def events_of(output):
    found = manifest.read(str(output))
    return found and found.counters.get("events.out", 0)


OTHER = FRIDAY - datetime.timedelta(days=3)
NONE = [(FRIDAY, 0, 0), (OTHER, 200, 0), (OTHER, 200, 3), (FRIDAY, 0, 5)]


@pytest.mark.parametrize(
    ("day", "events", "dead"), NONE, ids=["no row", "foreign", "foreign and dead", "only dead"]
)
def test_a_day_without_an_event_replaces_none_unless_it_is_meant(
    tmp_path, capsys, day, events, dead
):
    status, output = mine(tmp_path, log_of(tmp_path, FRIDAY, 40))
    assert (status, events_of(output)) == (Exit.DONE, 40)
    log = log_of(tmp_path, day, events, dead)
    flags = ["--max_dead_fraction=1"]
    status, _ = mine(tmp_path, log, FRIDAY, *flags)
    assert (status, events_of(output)) == (Exit.BAD_INPUT, 40)
    assert "--allow_empty" in capsys.readouterr().err
    status, _ = mine(tmp_path, log, FRIDAY, *flags, "--allow_empty")
    assert (status, events_of(output)) == (Exit.DONE, 0)
    assert "warning: 0 events of the day, 0.0% of its last delivery" in capsys.readouterr().err


def test_a_delivery_that_shrinks_warns_and_fails_where_it_shall(tmp_path, capsys):
    _, output = mine(tmp_path, log_of(tmp_path, FRIDAY, 100))
    half, less = log_of(tmp_path, FRIDAY, 50), log_of(tmp_path, FRIDAY, 49)
    assert mine(tmp_path, less, FRIDAY, "--fail_small_day")[0] == Exit.BAD_INPUT
    assert "49 events of the day, 49.0% of its last delivery" in capsys.readouterr().err
    assert events_of(output) == 100
    assert mine(tmp_path, less, FRIDAY, "--fail_small_day", "--min_day_share=0.4")[0] == Exit.DONE
    assert "warning" not in capsys.readouterr().err
    mine(tmp_path, log_of(tmp_path, FRIDAY, 100, dead=1))
    assert mine(tmp_path, half)[0] == Exit.DONE
    assert "warning" not in capsys.readouterr().err
    mine(tmp_path, log_of(tmp_path, FRIDAY, 100, dead=2))
    assert mine(tmp_path, log_of(tmp_path, FRIDAY, 49, dead=1))[0] == Exit.DONE
    assert "warning: 49 events of the day, 49.0% of its last" in capsys.readouterr().err


def test_a_day_is_measured_by_its_weekday(tmp_path, capsys):
    for weeks, events in ((1, 90), (2, 100), (3, 400), (9, 9000)):
        day = FRIDAY - datetime.timedelta(weeks=weeks)
        mine(tmp_path, log_of(tmp_path, day, events), day)
    mine(tmp_path, log_of(tmp_path, OTHER, 5000), OTHER)
    output = str(tmp_path / "days" / str(FRIDAY))
    day = mine_log.day_number(str(FRIDAY))
    assert mine_log.usual_events(output, day) == {"the median Friday of 3 before": 100}
    capsys.readouterr()
    assert mine(tmp_path, log_of(tmp_path, FRIDAY, 30))[0] == Exit.DONE
    said = "warning: 30 events of the day, 30.0% of the median Friday of 3 before"
    assert said in capsys.readouterr().err


def test_one_day_in_two_folders_is_refused(tmp_path):
    log = log_of(tmp_path, FRIDAY, 20)
    mine(tmp_path, log)
    mine(tmp_path, log, OTHER, "--allow_empty")
    assert len(find_days(str(tmp_path / "days"))) == 2
    mine(tmp_path, log, FRIDAY, name="again")
    with pytest.raises(PhraseLensError, match=r"days 2026-11-20 and again .* would count twice"):
        find_days(str(tmp_path / "days"))
