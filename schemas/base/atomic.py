"""Files that several writers replace: the last one that saw the newest version wins."""

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator

from schemas.base import storage


def version(path: str) -> str:
    """A value that changes whenever `replace` replaces the file; "" where there is none."""
    if path.startswith(storage.GCS_PREFIX):
        blob = storage.google_blob(path)
        return str(blob.generation) if blob.exists() and not blob.reload() else ""
    try:
        return hashlib.sha256(storage.read_bytes(path)).hexdigest()
    except FileNotFoundError:
        return ""


def replace(path: str, data: bytes, seen: str) -> bool:
    """Replaces a small file in one atomic step, if nobody has since `seen`.

    Args:
      path: the file.
      data: what it shall hold.
      seen: `version(path)` when what it held was read.

    Returns:
      False when a rival was faster: nothing has changed then.
    """
    if path.startswith(storage.GCS_PREFIX):
        from google.api_core.exceptions import PreconditionFailed

        ours = storage.google_blob(path)
        ours.metadata = {"writer": uuid.uuid4().hex}
        try:
            ours.upload_from_string(data, if_generation_match=int(seen or 0))
        except PreconditionFailed:
            # The client tries an upload again whose answer was lost: the rival may be itself.
            last = ours.bucket.get_blob(ours.name)
            return last is not None and last.metadata == ours.metadata
        return True
    with _lock(os.path.dirname(path)):
        if version(path) != seen:
            return False
        partial = f"{path}{storage.PARTIAL}{uuid.uuid4().hex}"
        with open(partial, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    return True


@contextlib.contextmanager
def _lock(dataset: str) -> Iterator[None]:
    """Held by one process at a time; the system frees it when the process dies."""
    os.makedirs(dataset, exist_ok=True)
    with open(os.path.join(dataset, ".commit.lock"), "w", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield
