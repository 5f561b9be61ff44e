"""Google Cloud on this machine: an emulator of Cloud Storage, a stand-in for Dataflow.

Processes that a test starts find them too, through the environment. Credentials of nobody are
found at once, where Beam would look for others for half a minute.
"""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

BUCKET = "gs://bucket"
PROJECT = "my-project"
REGION = "us-central1"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers in JSON and says nothing."""

    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


class _Dataflow(Handler):
    """Takes every job, keeps it, and says that it is done."""

    def do_POST(self):
        self.server.jobs.append((self.path.partition("?")[0], json.loads(self.body())))
        self.do_GET()

    def do_GET(self):
        job = {"id": "1", "name": "job", "currentState": "JOB_STATE_DONE", "location": REGION}
        job |= {"projectId": PROJECT, "createTime": "2026-01-01T00:00:00Z"}
        self.answer({} if "messages" in self.path else job)


@contextlib.contextmanager
def serve(handler: type[Handler]) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server on a free port of localhost, in threads of this process."""
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def dataflow() -> Iterator[http.server.ThreadingHTTPServer]:
    """A stand-in for the Dataflow service; `jobs` is [(path, job)] as they arrived."""
    with serve(_Dataflow) as server:
        server.jobs = []
        yield server


# Credentials of nobody, with a token that never needs to be renewed.
ACCOUNT = {
    "type": "authorized_user",
    "client_id": "tests",
    "client_secret": "none",
    "refresh_token": "none",
    "token": "token",
    "expiry": "2999-01-01T00:00:00Z",
}


@contextlib.contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """Default credentials, for this process and those that it starts; their file is in `folder`."""
    path = folder / "account.json"
    path.write_text(json.dumps(ACCOUNT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        patch.setenv("GOOGLE_CLOUD_PROJECT", PROJECT)
        # What Beam has found before, in this process, belongs to a test that is over.
        patch.setattr("apache_beam.internal.gcp.auth._Credentials._credentials_init", False)
        yield


@pytest.fixture(scope="module")
def credentials(tmp_path_factory) -> Iterator[None]:
    """See `nobody`."""
    with nobody(tmp_path_factory.mktemp("credentials")):
        yield


@contextlib.contextmanager
def emulated() -> Iterator[str]:
    """An empty bucket, which google-cloud-storage, Arrow and Beam all find under gs://."""
    import google.cloud.storage
    from google.auth.credentials import AnonymousCredentials

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # A process of its own: Arrow holds the interpreter's lock while it waits for an answer.
    command = [sys.executable, "-m", "tests.support.processes.emulator", "start"]
    command += ["--host=localhost", f"--port={port}", "--in-memory"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=Path(__file__).parents[3], **quiet)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
            break
        time.sleep(0.1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
            client = google.cloud.storage.Client(PROJECT, AnonymousCredentials())
            client.create_bucket("bucket")
            yield BUCKET
    finally:
        server.terminate()
        server.wait()


def requests() -> dict[str, int]:
    """What the emulator has been asked for since its start, by kind: see emulator.py."""
    with urllib.request.urlopen(f"{os.environ['STORAGE_EMULATOR_HOST']}/requests") as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def bucket(credentials) -> Iterator[str]:
    """See `emulated`."""
    with emulated() as found:
        yield found
