"""Deletes what a work folder holds of images and people that must be forgotten.

New runs are made without them first; what is left then are older runs and snapshots, what runs
that died left, and datasets that people made of a snapshot and keep in the same folder, such as
predictions of images of their own.
"""

from collections.abc import Collection

from schemas import manifest, run_folders, storage, summaries
from schemas.errors import PhraseLensError
from schemas.manifest import Dataset
from schemas.snapshots import Pointer, change_pointer, dates, moment, read, read_pointer, remove

# What a person gave, or `forget` has cleaned itself.
_GIVEN = ("make_samples", "mine_log")


def forget(work: str, names: Collection[str], date: str = "") -> list[str]:
    """Deletes every run of datasets but the last one and a snapshot's, and all other snapshots.

    What must be forgotten stays in no old run, nor in what a run that died left, nor in a dataset
    that the new snapshot has not. Where a snapshot was in use, the new one is; or none, where there
    is no date.

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
    summaries.forget_errors(work)
    kept = read(work, date).datasets if date else {}
    for name in names:
        keep = [kept[name]] if name in kept else []
        run_folders.purge(storage.join(work, name), keep, keep_last=name in kept or not date)
    gone = others(work, names)
    for root in gone:
        # It may be damaged, and is no dataset any more from here on.
        storage.remove(storage.join(root, manifest.FILE_NAME))
        run_folders.purge(root, keep_last=False)
    return gone


def others(work: str, names: Collection[str]) -> list[str]:
    """Datasets below a work folder that no stage of a reprocess writes, and that hold its rows.

    Models that were trained apart stay, as those in use do; so do samples, which are an input, and
    days, which `forget` cleans.

    Args:
      work: the work folder.
      names: the datasets of its stages.

    Returns:
      Their folders, sorted.
    """
    ends = f"/{manifest.FILE_NAME}"
    found = []
    for file in storage.list_files(work):
        name = file.removesuffix(ends)
        parts = name.split("/")
        if not file.endswith(ends) or manifest.RUNS in parts or parts[0] in names:
            continue
        root = storage.join(work, name)
        stage = _stage_of(root)
        if stage not in _GIVEN and not stage.startswith("train_"):
            found.append(root)
    return found


def _stage_of(root: str) -> str:
    """What wrote a dataset; "" where its manifest is damaged."""
    try:
        return Dataset(root).manifest.stage
    except PhraseLensError:
        return ""
