"""The files behind a flag: globs and folders, local or in Cloud Storage."""

import os
from collections.abc import Sequence

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.filesystems import FileSystems

from schemas import fingerprint, storage
from schemas.errors import PhraseLensError


def match(flag: str, patterns: Sequence[str]) -> list[FileMetadata]:
    """Files that match any of the patterns, sorted by path; a folder stands for all below it.

    Raises:
      PhraseLensError: a pattern matches nothing.
    """
    found: dict[str, FileMetadata] = {}
    for pattern in patterns:
        if not any(character in pattern for character in "*?["):
            folder = storage.join(pattern, "**")
            pattern = folder if storage.is_folder(pattern) else pattern
        try:
            (result,) = FileSystems.match([pattern])
        except BeamIOError as error:
            raise PhraseLensError(
                f"--{flag} {pattern}", f"a place that can be listed ({error})", "Check the path."
            ) from error
        files = [
            file
            for file in result.metadata_list
            # What the console calls a folder is an object whose name ends with a slash.
            if not file.path.endswith("/") and not os.path.isdir(file.path)
        ]
        if not files:
            raise PhraseLensError(
                f"--{flag} {pattern}", "at least one file", "Check the path, and quote globs."
            )
        found |= {file.path: file for file in files}
    return [found[path] for path in sorted(found)]


def content_hash(files: Sequence[FileMetadata]) -> str:
    """Identity of raw input files: their paths, sizes and times of change."""
    return fingerprint.of_json(
        [[ascii(file.path), file.size_in_bytes, file.last_updated_in_seconds] for file in files]
    )
