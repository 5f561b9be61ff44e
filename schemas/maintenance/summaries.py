"""What each reprocess says of itself, in `W/summaries/DATE.json`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.base import storage

FOLDER = "summaries"
_FIELDS = {"date", "ended", "error"}


def path_of(work: str, date: str) -> str:
    """Where the summary of a date lies."""
    return storage.join(work, FOLDER, f"{date}.json")


def write(path: str, summary: Mapping[str, Any]) -> None:
    """Writes one; see docs/operate/schedule.md for its fields."""
    storage.write_bytes(path, json.dumps(summary, indent=1, ensure_ascii=False).encode())


def read_all(work: str) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """All of a work folder: path and summary, which is None where it cannot be read."""
    folder = storage.join(work, FOLDER)
    for name in storage.list_files(folder):
        path = storage.join(folder, name)
        try:
            found = json.loads(storage.read_bytes(path))
            yield path, found if isinstance(found, dict) and set(found) >= _FIELDS else None
        except ValueError:
            yield path, None


def last(work: str) -> dict[str, Any] | None:
    """That of the reprocess that ended last; None where there was none."""
    found = [summary for _, summary in read_all(work) if summary]
    return max(found, key=lambda summary: summary["ended"], default=None)


def forget_errors(work: str) -> None:
    """Takes out what errors said: they may name what must be forgotten."""
    for path, summary in read_all(work):
        if summary is None:
            storage.remove(path)
        elif summary["error"]:
            write(path, summary | {"error": "(deleted with what was forgotten later)"})
