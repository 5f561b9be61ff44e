"""Values that workers make of files, because they must not lie in the graph of a job.

A graph is stored where its job runs, printed and shown. What few may see would lie in it for as
long as somebody keeps it: the key of the hashes of people, the images and people of a deletion
list. A graph holds the places of such files, and a checksum of each; its workers read them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from schemas.base import storage
from schemas.base.errors import PhraseLensError

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class FromFiles(Generic[Value]):
    """A value that is made of files where it is called for, once a process.

    Attributes:
      make: (*args) → the value; a function of a module. It reads the files.
      args: what it is given; nothing secret, since it lies in the graph.
      checksums: (path, SHA-256) of each of the files, as the graph was drawn.
    """

    make: Callable[..., Value]
    args: tuple[Any, ...]
    checksums: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, make: Callable[..., Value], *args: Any, files: tuple[str, ...]) -> "FromFiles":
        """Of the files as they are now; "" is no file."""
        return cls(make, args, tuple((path, storage.sha256(path)) for path in files if path))

    def __call__(self) -> Value:
        """Makes the value.

        Raises:
          PhraseLensError: a file has changed since the graph was drawn.
        """
        return _made(self)


@functools.lru_cache(maxsize=16)
def _made(value: FromFiles) -> Any:
    for path, checksum in value.checksums:
        if storage.sha256(path) != checksum:
            raise PhraseLensError(
                path, "the file as it was when the job started", "Give the same command again."
            )
    return value.make(*value.args)
