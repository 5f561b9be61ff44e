"""Runs that commit at once, in threads and processes, while others read: one wins, all is whole."""

import importlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from schemas.base import storage
from schemas.base.errors import Exit, RivalCommitError
from schemas.datasets import checks, commit, manifest
from schemas.datasets import dataset as dataset_lib
from schemas.maintenance import gc
from schemas.runs import folders as run_folders
from tests.support.datasets import work_folder
from tests.support.datasets.committed import plan, work
from tests.support.inputs.image_files import encode, photo
from tests.support.processes import forked
from tests.support.processes.cloud import bucket  # noqa: F401

ROUNDS, PROCESSES, THREADS = 4, 2, 3


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
            results.put((size, commit.commit(root, done, planned.seen)))
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
            seen.append(dataset_lib.Dataset(root).table("rows")["id"].to_pylist())
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
            assert dataset_lib.Dataset(root).table("rows")["id"].to_pylist() == rows(winner)
            assert checks.verify(root) == []
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
        assert runs[loser].exitcode == Exit.BUSY
        assert "expected one process that works on it" in printed
    else:
        assert "already done" in printed
    assert checks.verify(output) == []
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
    assert checks.verify(first.output) == []


def on_machine(local: str, environment: Mapping[str, str], argv: list[str], log: str) -> None:
    """In a process: mines as on a machine of its own, whose local disk is the folder `local`."""
    os.setsid()
    os.environ.update(environment, TMPDIR=local)
    tempfile.tempdir = None
    # As on a network disk where one machine does not see the locks of another.
    run_folders.lock_path = lambda dataset, run_id, worker=0: f"{local}/{run_id}-{worker}.lock"
    with open(log, "a") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    sys.exit(importlib.import_module("beam_jobs.mining.mine_pairs").run(argv))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Machines:
    """Machines that mine the same log into the same dataset, each with a local disk of its own."""

    def __init__(self, shared: str, root: Path):
        self.output, self._shared, self._root = f"{shared}/work/mined", shared, root
        self._started: list = []
        # Enough of them for tables that cross a shuffle through files.
        rows = [f"query {n % 5},p{n % 8},user {n % 97},{n}" for n in range(4000)]
        log = "\n".join(["query,image,user,timestamp", *rows]).encode()
        storage.write_bytes(f"{shared}/log.csv", log)
        for n in range(8):
            storage.write_bytes(f"{shared}/photos/p{n}.png", encode(photo(n), "PNG"))

    def start(self, name: str):
        """Starts a job; its output goes into a file of that name."""
        local = self._root / f"disk of {name}"
        local.mkdir()
        argv = [f"--log={self._shared}/log.csv", f"--images={self._shared}/photos"]
        argv += [f"--output={self.output}", "--num_shards=3"]
        known = {k: v for k, v in os.environ.items() if k in ("STORAGE_EMULATOR_HOST",)}
        args = (str(local), known, argv, str(self._root / name))
        process = forked.server().Process(target=on_machine, args=args)
        process.start()
        self._started.append(process)
        return process

    def stop(self) -> None:
        for process in self._started:
            forked.kill(process)

    def start_and_stop(self, name: str):
        """Starts a job and stops it, alive, when it has written what it is to read later."""
        process = self.start(name)
        wait_for(lambda: self.spilled() or process.exitcode is not None)
        assert process.exitcode is None, self.printed(name)
        os.killpg(process.pid, signal.SIGSTOP)
        return process

    def spilled(self) -> list[str]:
        return storage.list_files(f"{self.output}/spill")

    def printed(self, name: str) -> str:
        return (self._root / name).read_text()


@pytest.fixture(params=["a disk that they share", pytest.param("a bucket", marks=pytest.mark.slow)])
def machines(request, tmp_path) -> Iterator[Machines]:
    shared = str(tmp_path / "shared")
    if request.param == "a bucket":
        shared = f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    found = Machines(shared, tmp_path)
    yield found
    found.stop()


def test_of_two_machines_that_make_the_same_run_both_end_well(machines, figure):
    """One is stopped in the middle, and goes on when the other has committed and cleaned up."""
    late = machines.start_and_stop("late")
    held = machines.spilled()
    first = machines.start("first")
    first.join()
    assert first.exitcode == 0, machines.printed("first")
    committed = manifest.read(machines.output)
    assert machines.spilled() == held
    os.killpg(late.pid, signal.SIGCONT)
    late.join()
    assert late.exitcode == 0, machines.printed("late")
    assert "another run has committed the same work" in machines.printed("late")
    assert manifest.read(machines.output) == committed
    assert checks.verify(machines.output) == []
    assert machines.spilled() == []
    figure("one committed while the other stood still, which then went on: both ended well")


def test_what_a_dead_attempt_spilled_is_nobody_s_and_goes_with_gc(machines, capsys):
    dead = machines.start_and_stop("dead")
    left = machines.spilled()
    os.killpg(dead.pid, signal.SIGKILL)
    dead.join()
    again = machines.start("again")
    again.join()
    assert again.exitcode == 0, machines.printed("again")
    assert checks.verify(machines.output) == []
    assert machines.spilled() == left
    work = machines.output.rpartition("/")[0]
    assert gc.run([f"--workdir={work}", "--keep=1"]) == 0
    assert machines.spilled() == left  # it might be a rival's that is at work
    assert gc.run([f"--workdir={work}", "--keep=1", "--in_progress_hours=0"]) == 0
    assert "1 leftovers of dead runs" in capsys.readouterr().out
    assert machines.spilled() == []
    assert checks.verify(machines.output) == []
