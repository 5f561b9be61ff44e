"""A package index on this machine that offers a newer release of everything, beside what is locked.

Its packages are empty, but need each other as the real ones do, with extras: what an installer
would resolve wrongly among those, it resolves wrongly among these.
"""

import base64
import gzip
import hashlib
import http.server
import importlib.metadata
import io
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

NEWER = "9999.0"
# What builds packages that come as source has to work, so these are as they are installed here.
BUILDERS = ("setuptools", "wheel", "packaging")
# Packages that come as source only.
SOURCES = ("google-apitools", "hnswlib", "pyspark")


def entries(lock: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name → version and the locked packages that want it, of a lock file's text."""
    found = {}
    for entry in re.split(r"\n(?=[a-z0-9])", lock):
        match = re.match(r"([a-z0-9-]+)==([^ ;\\]+)", entry)
        if match:
            via = re.search(r"# via (.*)", entry)
            parents = via[1].split(", ") if via else []
            found[match[1]] = (match[2], tuple(p for p in parents if not p.startswith("-")))
    return found


def _metadata(name: str, version: str, needs: Mapping[str, str]) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += ["Provides-Extra: extra"]
    lines += [f"Requires-Dist: {need}[extra]{wanted}" for need, wanted in needs.items()]
    return "\n".join(lines) + "\n"


def _wheel(name: str, version: str, files: Mapping[str, bytes]) -> bytes:
    record = f"{name.replace('-', '_')}-{version}.dist-info/RECORD"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path), data)  # without the time: the same bytes
        rows = [f"{path},{_digest(data)},{len(data)}" for path, data in files.items()]
        archive.writestr(zipfile.ZipInfo(record), "\n".join([*rows, f"{record},,"]) + "\n")
    return out.getvalue()


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def empty_wheel(
    name: str, version: str, needs: Mapping[str, str], build: int = 0
) -> tuple[str, bytes]:
    """File name and content of a wheel of nothing.

    Args:
      needs: package → range of its versions.
      build: tells wheels of one version apart, which need other things.
    """
    stem = f"{name.replace('-', '_')}-{version}"
    tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        f"{stem}.dist-info/METADATA": _metadata(name, version, needs).encode(),
        f"{stem}.dist-info/WHEEL": tag.encode(),
    }
    return f"{stem}-{build}-py3-none-any.whl", _wheel(name, version, files)


def source(name: str, version: str) -> tuple[str, bytes]:
    """File name and content of a source package without a line about what builds it."""
    setup = f"import setuptools\nsetuptools.setup(name={name!r}, version={version!r})\n"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, text in {"setup.py": setup, "PKG-INFO": _metadata(name, version, {})}.items():
            info = tarfile.TarInfo(f"{name}-{version}/{path}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return f"{name}-{version}.tar.gz", gzip.compress(out.getvalue(), mtime=0)


def installed_wheel(name: str) -> tuple[str, str, bytes]:
    """Version, file name and content of a wheel of a package as it is installed here."""
    package = importlib.metadata.distribution(name)
    files = {
        str(path): path.read_binary()
        for path in package.files or ()
        if ".." not in path.parts
        and path.suffix != ".pyc"
        and path.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    }
    stem = f"{name}-{package.version}"
    return package.version, f"{stem}-py3-none-any.whl", _wheel(name, package.version, files)


class Index:
    """The packages of some locks, each as locked and newer, as a folder and as lock files.

    Attributes:
      locks: the same lock files, with the hashes of these packages.
      files: package → file name → content.
    """

    def __init__(self, locks: Mapping[str, str]):
        self.files: dict[str, dict[str, bytes]] = {}
        self.locks = {
            name: self._add(entries(text), build)
            for build, (name, text) in enumerate(locks.items())
        }

    def _add(self, packages: Mapping[str, tuple[str, tuple[str, ...]]], build: int) -> str:
        lines = []
        for name, (version, _) in packages.items():
            needs = {n: f">={v}" for n, (v, parents) in packages.items() if name in parents}
            if name in BUILDERS:
                here, file, data = installed_wheel(name)
                # Another lock may hold another version; what it is called matters here, not what
                # it does, for only requirements-build.lock builds.
                if here != version:
                    file, data = empty_wheel(name, version, needs, build)
            elif name in SOURCES:
                file, data = source(name, version)
            else:
                file, data = empty_wheel(name, version, needs, build)
            newer, newer_data = empty_wheel(name, NEWER, {"no-such-package": ""})
            self.files.setdefault(name, {}).update({file: data, newer: newer_data})
            lines += [f"{name}=={version} \\", f"    --hash=sha256:{_sha256(data)}"]
        return "\n".join(lines) + "\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def handler(index: Index) -> type[http.server.BaseHTTPRequestHandler]:
    """Answers as package indexes do (PEP 503): a page of links a package, and the files."""

    class _Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _, name, file = self.path.split("?")[0].split("/", 2)
            files = index.files.get(name, {})
            if file:
                data, kind = files[file], "application/octet-stream"
            else:
                links = (
                    f'<a href="/{name}/{file}#sha256={_sha256(data)}">{file}</a>'
                    for file, data in files.items()
                )
                data, kind = f"<!DOCTYPE html><body>{''.join(links)}".encode(), "text/html"
            self.send_response(200 if files else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return _Handler


def write_root(index: Index, root: Path, tree: Path) -> None:
    """Lays a copy of run.sh beside locks of this index, as in a fresh clone of the repository."""
    for name, text in index.locks.items():
        (root / name).write_text(text)
    (root / "run.sh").write_bytes((tree / "run.sh").read_bytes())
    (root / "run.sh").chmod(0o755)
    for name in ("requirements.txt", "requirements-gpu.txt", "beam_jobs", "phraselens", "schemas"):
        (root / name).symlink_to(tree / name)
