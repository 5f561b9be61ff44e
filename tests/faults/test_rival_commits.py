"""Runs that commit at once, in threads and processes, while others read: one wins, all is whole."""

import threading
import time
from pathlib import Path

import pytest

from schemas import manifest
from schemas.errors import RivalCommitError
from tests import forked, work_folder
from tests.unit.test_manifest import plan, work

ROUNDS, PROCESSES, THREADS = 6, 2, 3


def rows(size: int) -> list[str]:
    """What the work of this size writes."""
    return [f"{size}-{n}" for n in range(3)]


def race(root: str, sizes: list[int], barrier, results) -> None:
    """In a process: each of its threads plans work, waits for all others, and commits."""
    import pyarrow as pa

    def one(size: int) -> None:
        planned = plan(root, size)
        done = work(planned, pa.table({"id": rows(size)}))
        barrier.wait()
        try:
            results.put((size, manifest.commit(root, done, planned.seen)))
        except RivalCommitError as error:
            results.put((size, str(error)))

    threads = [threading.Thread(target=one, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read(root: str, stop: threading.Event, seen: list) -> None:
    """Reads the dataset over and over, whole."""
    while not stop.is_set():
        if manifest.read(root):
            seen.append(manifest.Dataset(root).table("rows")["id"].to_pylist())
        time.sleep(0.001)


@pytest.mark.parametrize("same", [False, True], ids=["other work", "same work"])
def test_of_rivals_one_wins(same, tmp_path, figure):
    context, root = forked.server(), str(tmp_path / "dataset")
    stop, seen, losers = threading.Event(), [], 0
    reader = threading.Thread(target=read, args=(root, stop, seen))
    reader.start()
    try:
        for number in range(ROUNDS):
            barrier, results = context.Barrier(PROCESSES * THREADS), context.Queue()
            sizes = [
                [100 * number + (0 if same else process * THREADS + n) for n in range(THREADS)]
                for process in range(PROCESSES)
            ]
            racers = [context.Process(target=race, args=(root, s, barrier, results)) for s in sizes]
            for racer in racers:
                racer.start()
            found = [results.get(timeout=60) for _ in range(PROCESSES * THREADS)]
            for racer in racers:
                racer.join()
            (winner,) = [size for size, outcome in found if outcome is True]
            lost = [outcome for _, outcome in found if outcome is not True]
            losers += len(lost)
            run_id = plan(root, winner).run_id
            assert all(
                outcome is False if same else f"Run {run_id} won" in outcome for outcome in lost
            )
            assert manifest.Dataset(root).table("rows")["id"].to_pylist() == rows(winner)
            assert manifest.verify(root) == []
    finally:
        stop.set()
        reader.join()
    assert seen
    for found in seen:
        assert found == rows(int(found[0].partition("-")[0]))
    figure(
        f"{ROUNDS} races of {PROCESSES} processes with {THREADS} threads: {ROUNDS} commits, "
        f"{losers} losers who say so; {len(seen)} reads meanwhile, all whole"
    )


def test_of_two_runs_of_the_same_training_one_works(tiny_run, tmp_path, figure):
    """Two would write checkpoints and model files of one name, and spoil what the other commits."""
    output, logs = str(tmp_path / "fusion"), [str(tmp_path / f"log{n}") for n in range(2)]
    command = work_folder.command_into("train_fusion", tiny_run.config, output)
    runs = [forked.start(command, log) for log in logs]
    for run in runs:
        run.join()
    loser, winner = sorted(range(2), key=lambda n: -(runs[n].exitcode or 0))
    assert runs[winner].exitcode == 0
    printed = Path(logs[loser]).read_text()
    if runs[loser].exitcode:  # else it came when the other was done
        assert runs[loser].exitcode == 2
        assert "expected one process that works on it" in printed
    else:
        assert "already done" in printed
    assert manifest.verify(output) == []
    expected = work_folder.rows_of(tiny_run.dataset("train_fusion"))
    assert work_folder.rows_of(output) == expected
    figure("one trained, the other said so and left; the model is whole")


def test_late_loser_leaves_the_files_of_the_winner_alone(tmp_path):
    """Of two machines that trained the same model, the later one writes over nothing."""
    first, second = (plan(str(tmp_path / "model")) for _ in range(2))
    for planned, weights in ((first, b"dated today"), (second, b"dated tomorrow")):
        (tmp_path / "local").mkdir(exist_ok=True)
        (tmp_path / "local" / "weights").write_bytes(weights)
        won = planned.commit_files("model", str(tmp_path / "local"), {}, "m" * 64)
        assert won is (planned is first)
    assert manifest.verify(first.output) == []
