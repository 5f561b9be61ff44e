"""What one shard's work left behind, so that a stage that died resumes after it."""

import dataclasses
import json
from typing import ClassVar

from schemas.base import storage


@dataclasses.dataclass(frozen=True)
class Record:
    """Written beside a shard, after it.

    Attributes:
      shards: the shards as JSON objects, each with its table's name.
      counts: the counters of the rows that went into them.
    """

    SUFFIX: ClassVar[str] = ".done.json"

    shards: list[dict]
    counts: dict[str, int]

    def write(self, path: str) -> None:
        storage.write_bytes(path, json.dumps(dataclasses.asdict(self)).encode())

    @classmethod
    def read(cls, path: str) -> "Record | None":
        """The record, or None when the work was not finished."""
        try:
            return cls(**json.loads(storage.read_bytes(path)))
        except (FileNotFoundError, ValueError, TypeError):  # or it is cut, after a loss of power
            return None
