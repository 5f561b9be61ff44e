"""A bucket in an emulator of Cloud Storage, for the tests of this folder."""

import contextlib
import socket
import subprocess
import sys
import time

import google.auth
import google.cloud.storage
import pytest
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError

BUCKET = "gs://bucket"


def no_credentials(*args, **options):
    raise DefaultCredentialsError("none: tests look for no credentials")


@pytest.fixture(scope="module")
def bucket():
    """An empty bucket, which google-cloud-storage, Arrow and Beam all find under gs://."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # A process of its own: Arrow holds the interpreter's lock while it waits for an answer.
    command = [sys.executable, "-c", "from gcp_storage_emulator.__main__ import main; main()"]
    command += ["start", "--host=localhost", f"--port={port}", "--in-memory"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
            break
        time.sleep(0.1)
    patch = pytest.MonkeyPatch()
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
    patch.setenv("GOOGLE_CLOUD_PROJECT", "emulated")
    # Beam asks for default credentials first, for 20 seconds; without any it goes on anonymously.
    patch.setattr("apache_beam.internal.gcp.auth._Credentials._credentials_init", True)
    patch.setattr("apache_beam.internal.gcp.auth._Credentials._credentials", None)
    patch.setattr(google.auth, "default", no_credentials)
    client = google.cloud.storage.Client(project="emulated", credentials=AnonymousCredentials())
    client.create_bucket("bucket")
    yield BUCKET
    patch.undo()
    server.terminate()
    server.wait()
