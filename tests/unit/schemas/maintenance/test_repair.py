"""A damaged run is taken out of use by one command, and nothing that is in use names it."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base.errors import Exit
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.maintenance import verify
from schemas.runs import changes, snapshots
from schemas.runs import pointer as pointer_lib
from tests.support.datasets import gate_work
from tests.support.datasets.gate_work import Day

DATES = ("2026-01-01", "2026-01-02", "2026-01-03")
NAMES = ("features", "fusion", "mined", "predictions")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A work folder with three snapshots, of which the last is in use."""
    work = tmp_path_factory.mktemp("repair") / "work"
    for seed, date in enumerate(DATES):
        gate_work.write(str(work), date, Day(images=60, seed=seed))
        changes.promote(str(work), date)
    return work


@pytest.fixture
def work(three, tmp_path):
    return shutil.copytree(three, tmp_path / "work")


def harm(work, date, name):
    """Flips a bit of the first file of a run, which keeps its size."""
    found = snapshots.read(str(work), date).dataset(name)
    path = Path(found.path(manifest.shards_of(found.manifest)[0]))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def is_sound(work):
    """Whether all snapshots can be opened, and all that is in use or last is whole."""
    for date in snapshots.dates(str(work)):
        found = snapshots.read(str(work), date)
        assert all(found.dataset(name).manifest for name in found.datasets)
    pointer = pointer_lib.read_pointer(str(work))
    assert {pointer.date, *pointer.history} - {""} <= set(snapshots.dates(str(work)))
    return verify.run([str(work)]) == Exit.DONE


@pytest.mark.parametrize("name", NAMES)
def test_the_snapshot_before_takes_over(work, name, capsys):
    harm(work, DATES[2], name)
    for path in (work, work / "current", work / "snapshots" / DATES[2], work / "current" / name):
        assert verify.run([str(path)]) == Exit.CORRUPT
    assert verify.run([str(work / "snapshots" / DATES[1])]) == Exit.DONE
    gone = snapshots.read(str(work), DATES[2]).datasets[name]
    kept = snapshots.read(str(work), DATES[1]).datasets[name]
    assert verify.run([str(work), "--repair"]) == Exit.DONE
    told = capsys.readouterr().out
    assert f"deleted run {work}/{name}/runs/{gone}" in told
    assert f"deleted snapshot {DATES[2]} (it was in use)" in told
    assert f"in use: {DATES[1]}" in told
    assert f"./run.sh reprocess --workdir {work} --date {DATES[2]}" in told
    assert pointer_lib.read_pointer(str(work)).history == (DATES[0],)
    assert Dataset(str(work / name)).manifest.run_id == kept
    assert is_sound(work)
    # Nothing says of the date that it is done: it can be made again.
    assert not pointer_lib.read_pointer(str(work)).knows(DATES[2])


def test_an_old_snapshot_goes_and_the_one_in_use_stays(work, capsys):
    harm(work, DATES[0], "mined")
    assert verify.run([str(work)]) == Exit.DONE, "it is neither in use nor the last run"
    assert verify.run([f"{work}/snapshots/{DATES[0]}", "--repair"]) == Exit.DONE
    pointer = pointer_lib.read_pointer(str(work))
    assert (pointer.date, pointer.history) == (DATES[2], (DATES[1],))
    assert snapshots.dates(str(work)) == list(DATES[1:])
    assert is_sound(work)


def test_nothing_is_in_use_where_all_snapshots_are_damaged(work, capsys):
    for date in DATES:
        harm(work, date, "features")
    paths = [str(work), *(f"{work}/snapshots/{date}" for date in DATES)]
    assert verify.run([*paths, "--repair"]) == Exit.DONE
    assert "in use: none" in capsys.readouterr().out
    assert pointer_lib.read_pointer(str(work)).date == ""
    assert manifest.read(f"{work}/features") is None
    assert is_sound(work)


@pytest.mark.parametrize(("date", "says"), [(DATES[1], "the run is gone"), (DATES[2], "missing")])
def test_a_run_that_is_gone_is_damage_too(work, capsys, date, says):
    shutil.rmtree(snapshots.read(str(work), date).path("features"))
    path = f"{work}/snapshots/{date}"
    assert verify.run([path]) == Exit.CORRUPT
    assert says in capsys.readouterr().out
    assert verify.run([path, "--repair"]) == Exit.DONE
    assert date not in snapshots.dates(str(work))
    assert pointer_lib.read_pointer(str(work)).date == (DATES[2] if date == DATES[1] else DATES[1])
    assert is_sound(work)


def test_a_foreign_file_goes_and_the_run_stays(work, capsys):
    run = snapshots.read(str(work), DATES[2]).path("mined")
    Path(run, "images", "part-99.parquet").write_bytes(b"left by somebody")
    assert verify.run([str(work)]) == Exit.CORRUPT
    assert verify.run([str(work), "--repair"]) == Exit.DONE
    assert not Path(run, "images", "part-99.parquet").exists()
    assert pointer_lib.read_pointer(str(work)).date == DATES[2]
    assert is_sound(work)


def test_what_is_whole_is_left_alone(work):
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    assert verify.run([str(work), "--repair"]) == Exit.DONE
    assert {p: p.stat().st_mtime_ns for p in work.rglob("*") if p.is_file()} == before


@settings(max_examples=15)
@given(damaged=st.sets(st.tuples(st.sampled_from(DATES), st.sampled_from(NAMES)), max_size=6))
def test_whatever_is_damaged_one_command_mends(three, tmp_path_factory, damaged):
    work = shutil.copytree(three, tmp_path_factory.mktemp("damaged") / "work")
    for date, name in damaged:
        harm(work, date, name)
    paths = [str(work), *(f"{work}/snapshots/{date}" for date in DATES)]
    assert verify.run([*paths, "--repair"]) == Exit.DONE
    whole = [date for date in DATES if not any(of == date for of, _ in damaged)]
    assert snapshots.dates(str(work)) == whole
    assert pointer_lib.read_pointer(str(work)).date == (whole[-1] if whole else "")
    assert is_sound(work) or not whole
