"""The folders of a dataset's runs: what lies in them, who works on them, and deleting them.

A run has `runs/RUN_ID`, which its commit makes a dataset, and until then `scratch/RUN_ID`. Each
attempt at it has `spill/RUN_ID-ATTEMPT` for itself: two machines may make the same run at the same
time, and the first to commit must not take from the other what it still reads.
"""

import contextlib
import dataclasses
import fcntl
import glob
import logging
import os
import tempfile
from collections.abc import Collection, Iterator

from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.datasets import manifest

_LOG = logging.getLogger(__name__)
SPILL, SCRATCH = "spill", "scratch"
OF_ATTEMPT = "-"  # between the id of a run, which is hexadecimal, and that of an attempt at it


def spill_folder(dataset: str, run_id: str, attempt: str) -> str:
    """A folder that all workers of an attempt see, for what crosses a shuffle."""
    return storage.join(dataset, SPILL, f"{run_id}{OF_ATTEMPT}{attempt}")


def scratch_folder(dataset: str, run_id: str, attempt: str = "") -> str:
    """A local folder for checkpoints, kept until the run is committed, or one of an attempt."""
    base = tempfile.gettempdir() if dataset.startswith(storage.GCS_PREFIX) else dataset
    return os.path.join(base, SCRATCH, f"{run_id}{OF_ATTEMPT}{attempt}" if attempt else run_id)


def lock_path(dataset: str, run_id: str, worker: int = 0) -> str:
    """The file that a process locks while it works on a run; each of several has its own."""
    return f"{scratch_folder(dataset, run_id)}{f'-{worker}' if worker else ''}.lock"


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder of files that one run of a stage wrote.

    Attributes:
      dataset: the dataset's folder.
      run_id: the run's name.
      committed: whether it was ever committed; else it is being made, or its maker died.
      bytes: of its files.
      changed: when the youngest of them was written, seconds since 1970.
      folder: what it lies in: runs; or spill or scratch, which are never committed.
      attempt: whose it is, where it is not the run's but that of one attempt at it.
    """

    dataset: str
    run_id: str
    committed: bool
    bytes: int
    changed: float
    folder: str = manifest.RUNS
    attempt: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.run_id}{OF_ATTEMPT}{self.attempt}" if self.attempt else self.run_id

    @property
    def path(self) -> str:
        return storage.join(self.dataset, self.folder, self.name)


def runs(dataset: str) -> list[Run]:
    """All runs of a dataset, by name."""
    found = list(_folders(dataset, manifest.RUNS))
    try:
        last = manifest.read(dataset)
    except PhraseLensError:
        last = None  # it is damaged, and the runs have copies
    # Runs from before manifests were copied into them have none.
    committed = {run.run_id for run, files in found if manifest.FILE_NAME in files}
    committed |= {last.run_id} if last else set()
    return [dataclasses.replace(run, committed=run.run_id in committed) for run, _ in found]


def leftovers(dataset: str) -> list[Run]:
    """What runs keep beside their shards: those that are being made, and those that died."""
    return [run for folder in (SPILL, SCRATCH) for run, _ in _folders(dataset, folder)]


def _folders(dataset: str, folder: str) -> Iterator[tuple[Run, set[str]]]:
    """The folders right below one of a dataset's, by name, and the names of their files."""
    by_folder: dict[str, list[tuple[str, int, float]]] = {}
    for name, size, changed in storage.list_sizes(storage.join(dataset, folder)):
        whose, below, file = name.partition("/")
        if below:  # a lock lies beside the folder of its run
            by_folder.setdefault(whose, []).append((file, size, changed))
    for whose, files in sorted(by_folder.items()):
        names, sizes, times = zip(*files, strict=True)
        run_id, _, attempt = whose.partition(OF_ATTEMPT)
        yield Run(dataset, run_id, False, sum(sizes), max(times), folder, attempt), set(names)


@contextlib.contextmanager
def _free(run: Run) -> Iterator[bool]:
    """Tells whether no process of this machine works on a run; none can begin to meanwhile."""
    with contextlib.ExitStack() as stack:
        free = True
        first = scratch_folder(run.dataset, run.run_id)
        for path in glob.glob(f"{glob.escape(first)}*.lock"):  # of all its workers
            file = stack.enter_context(open(path, "rb"))
            try:
                # Shared, which is enough, since it needs no right to write another user's file.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
        yield free


def is_free(run: Run) -> bool:
    """Whether no process of this machine works on a run."""
    with _free(run) as free:
        return free


def remove_run(run: Run) -> bool:
    """Deletes a run; a reader that opened it fails from then on.

    Returns:
      False when a process of this machine works on it: nothing was deleted then.
    """
    with _free(run) as free:
        if free:
            # First what says that it is whole: if this is killed, the rest is nobody's.
            storage.remove(storage.join(run.path, manifest.FILE_NAME))
            storage.remove_tree(run.path)
    return free


def purge(dataset: str, keep: Collection[str] = (), *, keep_last: bool = True) -> list[str]:
    """Deletes every run of a dataset but those of `keep`, and, unless told, the last one.

    So it does with whatever runs left in spill and scratch, those that are kept too. What a
    process of this machine works on is left alone, and logged; a job that runs elsewhere loses
    its files and fails.

    Returns:
      The names of the runs that it deleted.
    """
    last = manifest.read(dataset)
    kept = {*keep, *([last.run_id] if last and keep_last else [])}
    if last and last.run_id not in kept:
        storage.remove(storage.join(dataset, manifest.FILE_NAME))
    old = [run for run in runs(dataset) if run.run_id not in kept]
    gone = []
    for run in [*old, *leftovers(dataset)]:
        if remove_run(run):
            gone.append(run)
        else:
            _LOG.warning("%s is being made and was not deleted: do this again later", run.path)
    return [run.run_id for run in gone if run.folder == manifest.RUNS]
