"""Commits a run: its manifest becomes the last one of its dataset, unless a rival's has."""

from collections.abc import Iterator

from schemas.base import storage
from schemas.base.atomic import replace, version
from schemas.base.errors import (
    RivalCommitError,
    UnavailableError,
)
from schemas.datasets.manifest import (
    _LOG,
    FILE_NAME,
    RUNS,
    Manifest,
    Shard,
    read,
    run_folder,
    shards_of,
)


def token(dataset: str) -> str:
    """A value that changes with every commit, to be passed to `commit`; "" for no commit yet."""
    return version(storage.join(dataset, FILE_NAME))


def commit(dataset: str, manifest: Manifest, seen: str) -> bool:
    """Makes `manifest` the current one, in one atomic step, after checking its files.

    Args:
      dataset: the dataset's folder.
      manifest: what to commit.
      seen: `token(dataset)` as it was when the run started.

    Returns:
      True, or False when a rival has committed the same work already.

    Raises:
      RivalCommitError: a rival has committed other work since `seen`.
      UnavailableError: a shard is missing or has another size.
    """
    if cut := next(cut_shards(dataset, manifest), None):
        shard, found = cut
        raise UnavailableError(
            storage.join(dataset, shard.path),
            f"{shard.bytes} bytes, found {'no file' if found is None else found}",
            "Check the disk or bucket and run the stage again.",
        )
    data = manifest.to_json().encode()
    if token(dataset) != seen:
        return lose(dataset, manifest.fingerprint)
    storage.write_bytes(storage.join(run_folder(dataset, manifest.run_id), FILE_NAME), data)
    return replace(storage.join(dataset, FILE_NAME), data, seen) or lose(
        dataset, manifest.fingerprint
    )


def is_whole(dataset: str, manifest: Manifest) -> bool:
    """Whether each file that a manifest names is there, with its size."""
    return next(cut_shards(dataset, manifest), None) is None


def cut_shards(dataset: str, manifest: Manifest) -> Iterator[tuple[Shard, int | None]]:
    """Shards of another size than the manifest says, and that size; None where there is no file."""
    folder = f"{RUNS}/{manifest.run_id}"
    listed = storage.list_sizes(storage.join(dataset, folder))
    sizes = {f"{folder}/{name}": size for name, size, _ in listed}
    for shard in shards_of(manifest):
        found = sizes.get(shard.path)
        if found != shard.bytes:
            yield shard, found


def lose(dataset: str, fingerprint: str) -> bool:
    """What a run comes to that finds another commit than the one it saw at its start.

    Returns:
      False: a rival did the same work, of this fingerprint.

    Raises:
      RivalCommitError: it was other work.
    """
    rival = read(dataset)
    if rival is not None and rival.is_of(fingerprint):
        _LOG.warning("%s: another run has committed the same work before this one", dataset)
        return False
    raise RivalCommitError(
        storage.join(dataset, FILE_NAME),
        "no other commit while this run worked",
        f"Run {rival.run_id if rival else '?'} won; run this stage again if its result is wanted.",
    )
