"""A job submitted to Dataflow, against local stand-ins for its service and for Cloud Storage."""

import http.server
import json
import threading
from pathlib import Path

import pytest

from beam_jobs import mine_pairs
from schemas import manifest, storage
from tests.image_files import encode, photo

ROOT = Path(__file__).resolve().parents[2]


class _Dataflow(http.server.BaseHTTPRequestHandler):
    """Takes every job, keeps it, and says that it is done."""

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.server.jobs.append((self.path.partition("?")[0], json.loads(self.rfile.read(length))))
        self.do_GET()

    def do_GET(self):
        job = {"id": "1", "name": "mine", "currentState": "JOB_STATE_DONE", "location": "r"}
        job |= {"projectId": "p", "createTime": "2026-01-01T00:00:00Z"}
        data = json.dumps({} if "messages" in self.path else job).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def dataflow():
    server = http.server.ThreadingHTTPServer(("localhost", 0), _Dataflow)
    server.jobs = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_job_arrives_with_its_graph_and_our_code(bucket, dataflow, capsys):
    storage.write_bytes(f"{bucket}/dataflow/images/a.jpg", encode(photo(1), "JPEG"))
    storage.write_bytes(f"{bucket}/dataflow/log.csv", b"query,image\nred,a\n")
    output = f"{bucket}/dataflow/mined"
    flags = {
        "log": f"{bucket}/dataflow/log.csv",
        "images": f"{bucket}/dataflow/images",
        "output": output,
        "runner": "DataflowRunner",
        "project": "p",
        "region": "r",
        "job_name": "mine",
        "temp_location": f"{bucket}/dataflow/temp",
        "staging_location": f"{bucket}/dataflow/staging",
        "setup_file": str(ROOT / "setup.py"),
        "sdk_location": "container",
        "dataflow_endpoint": f"http://localhost:{dataflow.server_port}",
    }
    assert mine_pairs.run([*(f"--{k}={v}" for k, v in flags.items()), "--no_auth"]) == 0
    assert "submitted" in capsys.readouterr().out
    ((path, job),) = dataflow.jobs
    assert path.endswith("/projects/p/locations/r/jobs")
    assert job["name"] == "mine"
    staged = storage.list_files(f"{bucket}/dataflow/staging")
    names = {name.rsplit("/")[-1] for name in staged}
    assert {"pipeline.pb", "workflow.tar.gz"} <= names
    assert "pickled_main_session" not in names
    graph = next(name for name in staged if name.endswith("pipeline.pb"))
    proto = storage.read_bytes(f"{bucket}/dataflow/staging/{graph}")
    for label in (b"ReadLog", b"ReadImages", b"JoinImages", b"CommitManifest"):
        assert label in proto
    # The graph commits when it has run; the launcher has written nothing by itself.
    assert manifest.read(output) is None
