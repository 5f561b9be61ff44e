"""Files on a local disk or in Cloud Storage, through one small set of functions.

Paths are plain local paths or `gs://bucket/key`. `STORAGE_EMULATOR_HOST` points
`gs://` at an emulator, the variable that google-cloud-storage reads too.
"""

import atexit
import contextlib
import functools
import hashlib
import itertools
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs as pafs

from schemas.base.errors import UnavailableError

GCS_PREFIX = "gs://"
# In the name of a file that is being written; a process that was killed leaves one behind.
PARTIAL = ".partial-"
LIST_ATTEMPTS = 100
BATCH_DELETES = 100  # as many as the service takes in one request


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """Returns the Arrow file system that holds `path`, and the path inside it."""
    if not path.startswith(GCS_PREFIX):
        return pafs.LocalFileSystem(), os.path.abspath(path)
    client = _client(os.environ.get("STORAGE_EMULATOR_HOST", ""), os.getpid())
    return client, path[len(GCS_PREFIX) :].rstrip("/")


@functools.lru_cache(maxsize=8)
def _client(emulator: str, process: int) -> pafs.GcsFileSystem:
    """One client a process: each has connections and a token of its own to get."""
    if not emulator:
        return pafs.GcsFileSystem()
    scheme, _, endpoint = emulator.rpartition("://")
    return pafs.GcsFileSystem(anonymous=True, scheme=scheme or "http", endpoint_override=endpoint)


def join(base: str, *parts: str) -> str:
    return "/".join([base.rstrip("/"), *parts])


def exists(path: str) -> bool:
    fs, inner = filesystem(path)
    return fs.get_file_info(inner).type != pafs.FileType.NotFound


def size(path: str) -> int | None:
    """Bytes of a file, or None when there is no such file."""
    fs, inner = filesystem(path)
    info = fs.get_file_info(inner)
    return info.size if info.type == pafs.FileType.File else None


def is_folder(path: str) -> bool:
    """Whether `path` is a folder, or, in Cloud Storage, a prefix of objects."""
    if path.startswith(GCS_PREFIX):
        return next(list_objects(join(path, "")), None) is not None
    return os.path.isdir(path)


def list_files(path: str) -> list[str]:
    """Paths, relative to `path`, of all files below it, sorted; [] if it is missing."""
    return [name for name, _, _ in list_sizes(path)]


def list_sizes(path: str) -> list[tuple[str, int, float]]:
    """As `list_files`, with bytes and the time of change, seconds since 1970."""
    fs, inner = filesystem(path)
    selector = pafs.FileSelector(inner, recursive=True, allow_not_found=True)
    for attempt in range(LIST_ATTEMPTS):
        try:
            found = fs.get_file_info(selector)
            break
        except FileNotFoundError:  # a folder below it was deleted while Arrow came to it
            if attempt + 1 == LIST_ATTEMPTS:
                raise
    files = [f for f in found if f.type == pafs.FileType.File]
    return sorted((os.path.relpath(f.path, inner), f.size, (f.mtime_ns or 0) / 1e9) for f in files)


def list_folders(path: str) -> list[str]:
    """Names of the folders, or common prefixes of objects, right below `path`, sorted."""
    if not path.startswith(GCS_PREFIX):
        return sorted(f.name for f in os.scandir(path) if f.is_dir()) if os.path.isdir(path) else []
    # Arrow sees no folder without an object of its own.
    bucket, _, inner = path[len(GCS_PREFIX) :].partition("/")
    prefix = join(inner, "") if inner else ""
    found = google_client().list_blobs(bucket, prefix=prefix, delimiter="/")
    list(found)  # prefixes come with the objects
    return sorted(name.removeprefix(prefix).rstrip("/") for name in found.prefixes)


def list_objects(start: str, exact: bool = False) -> Iterator[tuple[str, int, float]]:
    """Objects in Cloud Storage: path, bytes, and time of change in seconds since 1970.

    Args:
      start: gs://BUCKET/KEY, with which their paths begin.
      exact: only the one whose path this is.
    """
    bucket, _, key = start[len(GCS_PREFIX) :].partition("/")
    if exact:
        found = google_client().bucket(bucket).get_blob(key) if key else None
        blobs = [found] if found else []
    else:
        blobs = google_client().list_blobs(bucket, prefix=key)
    for blob in blobs:
        yield f"{GCS_PREFIX}{bucket}/{blob.name}", blob.size, blob.updated.timestamp()


def google_client():
    """A `google.cloud.storage.Client`, which can do what Arrow cannot."""
    return _google_client(os.environ.get("STORAGE_EMULATOR_HOST", ""), os.getpid())


@functools.lru_cache(maxsize=8)
def _google_client(emulator: str, process: int):
    """One client a process, as of `_client`."""
    import google.cloud.storage as gcs
    from google.auth.credentials import AnonymousCredentials

    if emulator:
        return gcs.Client(project="emulated", credentials=AnonymousCredentials())
    return gcs.Client()


def google_blob(path: str):
    """An object below gs:// as a `google.cloud.storage.Blob`, whether it is there or not."""
    bucket, _, key = path.removeprefix(GCS_PREFIX).partition("/")
    return google_client().bucket(bucket).blob(key)


def open_input(path: str) -> pa.NativeFile:
    """A seekable reader. Raises FileNotFoundError."""
    fs, inner = filesystem(path)
    return fs.open_input_file(inner)


def read_bytes(path: str) -> bytes:
    with open_input(path) as f:
        return f.read()


def read_range(path: str, start: int, size: int) -> bytes:
    """Some bytes of a file, fewer at its end; of an object no others are sent, in one request.

    Arrow asks for all that follow, and for the object's size before. Raises FileNotFoundError.
    """
    if not size:
        return b""
    if not path.startswith(GCS_PREFIX):
        with open(path, "rb") as file:
            return os.pread(file.fileno(), size, start)
    from google.api_core.exceptions import NotFound

    try:
        return google_blob(path).download_as_bytes(
            start=start, end=start + size - 1, raw_download=True
        )
    except NotFound as error:
        raise FileNotFoundError(path) from error


@contextlib.contextmanager
def open_output(path: str) -> Iterator[pa.NativeFile]:
    """A writer whose file appears whole or not at all.

    Each attempt writes under a name of its own beside the place, and moves what it wrote there when
    all is written: one that fails leaves alone what another has put there. In Cloud Storage to move
    is to have the service copy the object, in one step, and to delete the first.

    Raises:
      UnavailableError: the disk or bucket refuses it.
    """
    try:
        with _open_output(path) as f:
            yield f
    except OSError as error:
        raise UnavailableError(
            path,
            f"a file that can be written ({error})",
            "Mend that, then give the same command again: it goes on where it stopped.",
        ) from error


@contextlib.contextmanager
def _open_output(path: str) -> Iterator[pa.NativeFile]:
    fs, inner = filesystem(path)
    partial = f"{inner}{PARTIAL}{uuid.uuid4().hex}"
    is_local = isinstance(fs, pafs.LocalFileSystem)
    if is_local:
        os.makedirs(os.path.dirname(inner), exist_ok=True)
    try:
        # Arrow by itself would compress what has a name such as log.csv.gz.
        with fs.open_output_stream(partial, compression=None) as f:
            yield f
        if is_local:
            os.replace(partial, inner)
        else:
            _copy_object(GCS_PREFIX + partial, path)
    finally:
        # What cannot be deleted is in nobody's way: no manifest names it.
        with contextlib.suppress(OSError):
            fs.delete_file(partial)


def _copy_object(source: str, target: str) -> None:
    """Has Cloud Storage copy an object, which replaces another in one step.

    Arrow would list the folder for each of its files, to see that there is one.

    Raises:
      OSError: it refuses.
    """
    from google.api_core.exceptions import GoogleAPIError
    from google.cloud.storage.retry import DEFAULT_RETRY

    token = None
    try:
        while True:  # A large object may take several requests.
            token, *_ = google_blob(target).rewrite(
                google_blob(source), token=token, retry=DEFAULT_RETRY
            )
            if token is None:
                return
    except GoogleAPIError as error:
        raise OSError(str(error)) from error


def write_bytes(path: str, data: bytes) -> None:
    with open_output(path) as f:
        f.write(data)


def sha256(path: str) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open_input(path) as f:
        while chunk := f.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def remove(path: str) -> None:
    """Deletes a file if it is there."""
    fs, inner = filesystem(path)
    with contextlib.suppress(FileNotFoundError):
        fs.delete_file(inner)


def remove_tree(path: str) -> None:
    """Deletes a folder, or what lies below a prefix in Cloud Storage, if it is there."""
    if not path.startswith(GCS_PREFIX):
        shutil.rmtree(os.path.abspath(path), ignore_errors=True)
        return
    start, client = join(path, ""), google_client()
    found = list_objects(start)
    while names := [name for name, *_ in itertools.islice(found, BATCH_DELETES)]:
        # What is refused here is among those that are left.
        with client.batch(raise_exception=False):
            for name in names:
                google_blob(name).delete()
    fs, _ = filesystem(path)
    for name, *_ in list_objects(start):
        with contextlib.suppress(FileNotFoundError):
            fs.delete_file(name[len(GCS_PREFIX) :])


def upload_dir(local: str, path: str) -> list[str]:
    """Copies every file below a local folder under `path`; returns their relative names."""
    names = list_files(local)
    for name in names:
        with open_output(join(path, name)) as f, open(os.path.join(local, name), "rb") as source:
            shutil.copyfileobj(source, f, 1 << 22)
    return names


@functools.cache
def plain_folder(path: str) -> str:
    """A local folder under a name that is no pattern, for TensorFlow.

    It looks for checkpoints, also those of SavedModels, by their path as a pattern, and finds none
    below a folder such as `run [2]`. There it gets a link, which goes when the process ends.
    """
    if not re.search(r"[*?\[\]{}\\]", path):
        return path
    folder = tempfile.mkdtemp(prefix="phraselens-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.symlink(os.path.abspath(path), f"{folder}/link")
    return f"{folder}/link"


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A local folder with the files below `path`: the folder itself when it is local.

    TensorFlow and Faiss open local files only (tf.io.gfile ignores emulators).
    """
    if not path.startswith(GCS_PREFIX):
        yield plain_folder(path)
        return
    with tempfile.TemporaryDirectory(prefix="phraselens-") as folder:
        # What a rival writes at this moment may be gone when its turn has come.
        for name in (name for name in list_files(path) if PARTIAL not in name):
            target = os.path.join(folder, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as f, open_input(join(path, name)) as source:
                shutil.copyfileobj(source, f, 1 << 22)
        yield folder
