"""The files behind a flag: paths, folders and patterns, local or in Cloud Storage.

A path that exists is taken as it is written, whatever its characters would mean in a pattern; so
is the part of a pattern that is a folder.
"""

import os
import re
from collections.abc import Iterator, Sequence

from apache_beam.io.filesystem import FileMetadata, FileSystem

from schemas.base import fingerprint, places, storage
from schemas.base.errors import PhraseLensError


def match(flag: str, patterns: Sequence[str]) -> list[FileMetadata]:
    """Files that match any of the patterns, sorted by path; a folder stands for all below it.

    Raises:
      PhraseLensError: a pattern matches nothing.
    """
    found: dict[str, FileMetadata] = {}
    for pattern in patterns:
        try:
            files = files_of(pattern)
        except Exception as error:  # each client of a bucket has kinds of its own
            raise PhraseLensError(
                f"--{flag} {pattern}", f"a place that can be listed ({error})", "Check the path."
            ) from error
        if not files:
            raise PhraseLensError(
                f"--{flag} {pattern}", "at least one file", "Check the path, and quote globs."
            )
        found |= {file.path: file for file in files}
    return [found[path] for path in sorted(found)]


def files_of(path: str) -> list[FileMetadata]:
    """The file at a path, all below it where it is a folder, or else those that match it.

    In a pattern `*` and `?` stand for characters of a name, `**` for folders too, and brackets
    for one of some characters, unless files have names with just these brackets.
    """
    if not path.endswith("/") and (file := _file(path)):
        return [file]
    if path and (below := list(_below(path.rstrip("/") + "/"))):
        return below
    if not places.is_pattern(path):
        return []
    folder = fixed_folder(path)
    rest = path[len(folder) :]
    plain = rest[: re.search(r"[*?\[]|$", rest).start()]  # type: ignore[union-attr]
    files = list(_below(folder + plain))
    for pattern in dict.fromkeys((rest.replace("[", "[[]"), rest)):
        regex = re.compile(FileSystem.translate_pattern(pattern))
        if found := [file for file in files if regex.match(file.path[len(folder) :])]:
            return found
    return []


def fixed_folder(path: str) -> str:
    """The part of a pattern, up to a slash, that holds no wildcard or is a folder as it stands."""
    *folders, _ = path.split("/")
    fixed = 1 if path.startswith("/") else 3 if path.startswith(storage.GCS_PREFIX) else 0
    for length in range(fixed + 1, len(folders) + 1):
        folder = "/".join(folders[:length])
        if places.is_pattern(folders[length - 1]) and not storage.is_folder(folder):
            break
        fixed = length
    return "".join(f"{name}/" for name in folders[:fixed])


def base_of(path: str) -> str:
    """The folder that a person named with a pattern; for a plain path what it is a link to."""
    if places.is_pattern(path) and not places.exists(path):
        return fixed_folder(path).rstrip("/") or ("/" if path.startswith("/") else ".")
    return path if path.startswith(storage.GCS_PREFIX) else os.path.realpath(path)


def _file(path: str) -> FileMetadata | None:
    if path.startswith(storage.GCS_PREFIX):
        return next((FileMetadata(*row) for row in storage.list_objects(path, exact=True)), None)
    return _metadata(path) if os.path.exists(path) and not os.path.isdir(path) else None


def _below(start: str) -> Iterator[FileMetadata]:
    """Files whose paths begin so, or of a disk at least all that do."""
    if start.startswith(storage.GCS_PREFIX):
        # What the console calls a folder is an object whose name ends with a slash.
        yield from (
            FileMetadata(*row) for row in storage.list_objects(start) if not row[0].endswith("/")
        )
    elif os.path.isdir(folder := start[: start.rfind("/") + 1] or "."):
        yield from _walk("" if folder == "." else folder)


def _walk(folder: str, above: tuple[str, ...] = ()) -> Iterator[FileMetadata]:
    """Files at any depth below a folder of a disk; links are followed, but in no circle.

    Args:
      folder: with a slash at its end, or "" for the one where we are.
      above: the folders that it is in, as they truly are.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder or ".") as entries:
        found = sorted((entry.name, entry.is_dir()) for entry in entries)
    for name, is_folder in found:
        if is_folder:
            yield from _walk(f"{folder}{name}/", (*above, real))
        else:
            yield _metadata(f"{folder}{name}")


def _metadata(path: str) -> FileMetadata:
    """Of a file; of a link to nothing that of the link, so that who reads it says so."""
    found = os.stat(path) if os.path.exists(path) else os.lstat(path)
    return FileMetadata(path, found.st_size, found.st_mtime)


def content_hash(files: Sequence[FileMetadata]) -> str:
    """Identity of raw input files: their paths, sizes and times of change."""
    return fingerprint.of_json(
        [[ascii(file.path), file.size_in_bytes, file.last_updated_in_seconds] for file in files]
    )
