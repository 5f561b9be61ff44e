"""Deletes what a work folder holds of images and people that must be forgotten.

New runs are made without them first; what is left then are older runs and snapshots, what runs
that died left, and datasets that people made of a snapshot and keep in the same folder, such as
predictions of images of their own.
"""

import itertools
import os
import re
from collections.abc import Collection, Iterator

from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.datasets import manifest
from schemas.maintenance import summaries
from schemas.runs import folders as run_folders
from schemas.runs.pointer import Pointer, change_pointer, read_pointer
from schemas.runs.snapshots import GATES, dates, moment, read, remove, verdict

# What a person gave; days are cleaned by beam_jobs/mining/forget.py.
_GIVEN = ("make_samples", "mine_log")
_RUN_ID = re.compile(r"[0-9a-f]{16}(-.*)?")  # of a run, or of an attempt at it
_OF_RUNS = (manifest.RUNS, run_folders.SPILL, run_folders.SCRATCH)


def forget(work: str, names: Collection[str], date: str = "") -> list[str]:
    """Deletes every run of datasets but the last one and a snapshot's, and all other snapshots.

    What must be forgotten stays in no old run, nor in what a run that died left, nor in a dataset
    that the new snapshot has not, nor in verdicts and errors that may name it. Where a snapshot was
    in use, the new one is; or none, where there is no date.

    Args:
      work: the work folder.
      names: the datasets of its stages.
      date: the snapshot that was made without what must be forgotten.

    Returns:
      The folders of `others`, which were deleted.
    """
    if read_pointer(work).date:
        change_pointer(
            work, lambda old: Pointer(date, (), old.collected + 1, old.holds, since=moment())
        )
    for old in dates(work):
        if old != date:
            remove(work, old)
    _remove_verdicts(work, date)
    summaries.forget_errors(work)
    kept = read(work, date).datasets if date else {}
    for name in names:
        keep = [kept[name]] if name in kept else []
        run_folders.purge(storage.join(work, name), keep, keep_last=name in kept or not date)
    gone = others(work, names)
    for root in gone:
        # It may be damaged. From here on `others` finds it by its runs.
        storage.remove(storage.join(root, manifest.FILE_NAME))
        run_folders.purge(root, keep_last=False)
    return gone


def _remove_verdicts(work: str, date: str) -> None:
    """Removes what the gate said of other snapshots: it names what moved."""
    folder = storage.join(work, GATES)
    for name in storage.list_files(folder):
        if not date or name != f"{date}.json" or not verdict(read(work, date)):
            storage.remove(storage.join(folder, name))


def others(work: str, names: Collection[str]) -> list[str]:
    """Datasets below a work folder that no stage of a reprocess writes, and that may hold its rows.

    Models that were trained apart stay, as those in use do; so do samples, which are an input, and
    days, which `forget` cleans where --days names them. What a link leads to lies elsewhere.

    Args:
      work: the work folder.
      names: the datasets of its stages.

    Returns:
      Their folders, sorted; also of those of which only runs that died are left.
    """
    found = sorted(set(_roots(work)) - {storage.join(work, name) for name in names})
    return [root for root in found if _is_ours(work, root) and not _stays(root)]


def _roots(work: str) -> Iterator[str]:
    """The folders that have a manifest or runs, each once for each file that says so."""
    for file in storage.list_files(work):
        parts = file.split("/")
        for place, (folder, below) in enumerate(itertools.pairwise(parts)):
            if place and folder in _OF_RUNS and _RUN_ID.fullmatch(below):
                yield storage.join(work, *parts[:place])
                break
        else:
            if len(parts) > 1 and parts[-1] == manifest.FILE_NAME:
                yield storage.join(work, *parts[:-1])


def _is_ours(work: str, root: str) -> bool:
    """Whether a folder lies in the work folder itself, and not where a link leads to."""
    if work.startswith(storage.GCS_PREFIX):
        return True
    below = os.path.relpath(root, work)
    return os.path.realpath(root) == os.path.join(os.path.realpath(work), below)


def _stays(root: str) -> bool:
    """Whether a dataset, or a folder that is none of ours, is left alone.

    A manifest that cannot be read may be another program's, or a later version's: a run's own copy
    says what made it, or else nobody knows.
    """
    runs = run_folders.runs(root)
    stages = {stage for path in (root, *(run.path for run in runs)) if (stage := _stage_of(path))}
    if not stages:
        return storage.size(storage.join(root, manifest.FILE_NAME)) is not None
    return any(stage in _GIVEN or stage.startswith("train_") for stage in stages)


def _stage_of(path: str) -> str:
    """What wrote a dataset or a run; "" where no manifest says it."""
    try:
        found = manifest.read(path)
    except PhraseLensError:
        return ""
    return found.stage if found else ""
