"""What a path on a command line means: a place on this machine, or in Cloud Storage.

What exists wins over what a path would mean otherwise: over commas that separate paths, over `~`,
and over the pattern that brackets make (transforms/files/matching.py).
"""

import glob
import os
import re
import urllib.parse

from schemas.base import storage
from schemas.base.errors import PhraseLensError

_PATTERN = re.compile(r"[*?\[]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://|(file|gs):/", re.IGNORECASE)
_WINDOWS = re.compile(r"([A-Za-z]):[\\/]|\\\\")
# A name of a file may hold so many commas.
_MOST_COMMAS = 16
# How what lies there comes to a place that can be read or written.
_ELSEWHERE = {
    "http": "download it with curl or wget",
    "https": "download it with curl or wget",
    "ftp": "download it with curl or wget",
    "s3": "copy it with `aws s3 cp`, or `gcloud storage cp` to gs://",
    "s3a": "copy it with `aws s3 cp`, or `gcloud storage cp` to gs://",
    "s3n": "copy it with `aws s3 cp`, or `gcloud storage cp` to gs://",
    "hdfs": "copy it with `hdfs dfs -get`, or `hadoop distcp` to gs://",
}


def is_pattern(path: str) -> bool:
    """Whether a path that does not exist would be a pattern of file names."""
    return bool(_PATTERN.search(path))


def exists(path: str) -> bool:
    """Whether a path, taken as it is written, is a file, a folder or a prefix of objects."""
    if path.startswith(storage.GCS_PREFIX):
        return storage.size(path) is not None or storage.is_folder(path)
    return os.path.lexists(path)


def split(text: str) -> tuple[str, ...]:
    """The paths of a list that commas separate; a comma within a path that exists does not."""
    parts, found = text.split(","), []
    while parts:
        longest = min(len(parts), _MOST_COMMAS + 1)
        taken = next((n for n in range(longest, 1, -1) if _is_one(parts[:n])), 1)
        path = ",".join(parts[:taken])
        found.append(path if os.path.lexists(path) else path.strip())
        parts = parts[taken:]
    return tuple(path for path in found if path)


def _is_one(parts: list[str]) -> bool:
    """Whether the parts, with the commas between them, are a path that exists or a pattern of it.

    Cloud Storage is asked only where the parts cannot each be a place of their own.
    """
    path = os.path.expanduser(",".join(parts))
    if any(_SCHEME.match(part.strip()) for part in parts[1:]):
        return False
    if not is_pattern(path):
        return exists(path)
    folder = re.split(_PATTERN, path, maxsplit=1)[0].rpartition("/")[0]
    if folder.count(",") == len(parts) - 1 and storage.is_folder(folder):
        return True
    return not path.startswith(storage.GCS_PREFIX) and (exists(path) or any(glob.iglob(path)))


def place_of(flag: str, text: str) -> str:
    """The path that a person means: local, or gs://BUCKET/….

    Args:
      flag: the flag's name, for errors.
      text: a path with or without `~`, a file:// URI, a path in Cloud Storage, or a pattern.

    Raises:
      PhraseLensError: it is a place that cannot be read or written from here.
    """
    if os.path.lexists(text):
        return text
    item = f"--{flag} {text}"
    windows = _WINDOWS.match(text)
    if windows:
        rest = text[windows.end() :].replace("\\", "/")
        under = f"/mnt/{windows[1].lower()}/{rest}" if windows[1] else "/mnt/…"
        raise PhraseLensError(
            item,
            "a path of this machine, or gs://…, and no path of Windows",
            f"In WSL drives are below /mnt: {under}",
        )
    found = _SCHEME.match(text)
    if not found:
        return os.path.expanduser(text)
    scheme = (found[1] or found[2]).lower()
    if scheme == "file":
        return _file(item, flag, text)
    if scheme == "gs":
        place = storage.GCS_PREFIX + text[found.end() :]
        if found[1] is None or not re.match(r"gs://[^/*?\[]+(/|$)", place):
            raise PhraseLensError(item, "gs://BUCKET/…", "Name the bucket after two slashes.")
        return place
    if scheme == "gcs":
        remedy = f"Did you mean {storage.GCS_PREFIX}{text[found.end() :]}?"
    else:
        remedy = "Bring it here first: " + _ELSEWHERE.get(scheme, "copy it") + "."
        if scheme in ("http", "https") and flag == "images":
            remedy += " Images by URL: name a table of the URLs and add --fetch_http."
    raise PhraseLensError(item, f"a local path or gs://…, not {scheme}://", remedy)


def _file(item: str, flag: str, text: str) -> str:
    """The path of a file: URI, whose percent signs may stand for characters."""
    rest = text.partition(":")[2]
    host, path = "", rest
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        path = slash + path
    if host not in ("", "localhost") or not path:
        raise PhraseLensError(
            item,
            "file:///PATH, with three slashes and no other machine",
            f"Did you mean file:///{rest.lstrip('/')}?",
        )
    decoded = path if os.path.lexists(path) else urllib.parse.unquote(path)
    if _WINDOWS.match(decoded[1:]):
        return place_of(flag, decoded[1:])
    return decoded


def output_of(flag: str, text: str) -> str:
    """As `place_of`, of a place that is written.

    Raises:
      PhraseLensError: also where it is blank, or the root of the file system.
    """
    if not text.strip():
        raise PhraseLensError(
            f"--{flag} {text!r}",
            "the path of what is written",
            "A path that is empty often comes from a variable of the shell that is not set.",
        )
    place = place_of(flag, text)
    if not place.startswith(storage.GCS_PREFIX) and os.path.realpath(place) == "/":
        raise PhraseLensError(
            f"--{flag} {text}", "a folder below the root of the file system", "Name one."
        )
    return place
