"""What each reprocess says of itself, in `W/summaries/DATE.json`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from schemas import storage

FOLDER = "summaries"


def path_of(work: str, date: str) -> str:
    """Where the summary of a date lies."""
    return storage.join(work, FOLDER, f"{date}.json")


def write(path: str, summary: Mapping[str, Any]) -> None:
    """Writes one; see docs/schedule.md for its fields."""
    storage.write_bytes(path, json.dumps(summary, indent=1, ensure_ascii=False).encode())


def read_all(work: str) -> Iterator[dict[str, Any]]:
    """All of a work folder."""
    folder = storage.join(work, FOLDER)
    for name in storage.list_files(folder):
        if name.endswith(".json"):
            yield json.loads(storage.read_bytes(storage.join(folder, name)))


def last(work: str) -> dict[str, Any] | None:
    """That of the reprocess that ended last; None where there was none."""
    return max(read_all(work), key=lambda summary: summary["ended"], default=None)


def forget_errors(work: str) -> None:
    """Takes out what errors said: they may name what must be forgotten."""
    for summary in read_all(work):
        if summary["error"]:
            told = summary | {"error": "(deleted with what was forgotten later)"}
            write(path_of(work, summary["date"]), told)
