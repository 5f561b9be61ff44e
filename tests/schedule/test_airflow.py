"""A real Airflow, in an environment of its own, loads the DAG in both variants and runs it.

The variant for one machine runs three dates on a tiny work folder: the models and data of the first
are promoted; the second has new images; on the third almost every label is the same, so that the
gate stops it.
"""

import contextlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from beam_jobs.runs import stages as stages_lib
from schemas.datasets.dataset import Dataset
from schemas.runs import pointer as pointer_lib
from schemas.runs import snapshots
from tests.support.datasets import work_folder

ROOT = work_folder.ROOT
DATES = ("2026-01-01", "2026-01-02", "2026-01-03")
NEW_IMAGES = 12
pytestmark = pytest.mark.slow


@contextlib.contextmanager
def service(answer):
    """A local HTTP service; yields its address and the list of (method, path, JSON) it got."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def _do(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            got.append((self.command, self.path.split("?")[0], json.loads(body or "null")))
            reply = json.dumps(answer(*got[-1])).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST = _do

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()


class Airflow:
    """Airflow's environment, with a home and an SQLite database of this test's own."""

    def __init__(self, home):
        venv = os.environ.get("PHRASELENS_AIRFLOW_VENV") or str(ROOT / ".venv-airflow")
        self.bin = Path(venv).resolve() / "bin"
        self.home = home
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "PYTHONSAFEPATH", "VIRTUAL_ENV")
        } | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "deploy" / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(
                {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True}}
            ),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            # run.sh runs the stages in the environment that runs this test.
            "PHRASELENS_VENV": sys.prefix,
        }

    def run(self, *command, **more):
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            env=self.environment | more,
            cwd=self.home,
            capture_output=True,
            text=True,
        )

    def probe(self, settings, *arguments):
        """What dag_probe.py says of the DAG with these settings."""
        script = str(Path(__file__).with_name("dag_probe.py"))
        done = self.run("python", script, *arguments, PHRASELENS_SETTINGS=str(settings))
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    done = subprocess.run([str(ROOT / "run.sh"), "setup", "--airflow"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return Airflow(tmp_path_factory.mktemp("airflow"))


@pytest.mark.parametrize(
    ("file", "kinds"),
    [
        ("phraselens.json", ["RunShOperator"] * 5),
        (
            "phraselens.composer.json",
            ["DataflowStartFlexTemplateOperator"] * 4 + ["CloudRunExecuteJobOperator"] * 4,
        ),
    ],
)
def test_both_variants_load_without_import_errors(airflow, file, kinds):
    found = airflow.probe(ROOT / "deploy" / "airflow" / file)
    assert found["errors"] == {}
    assert (found["dag"], found["catchup"], found["max_active_runs"]) == ("phraselens", True, 1)
    last, tasks = (
        [task for task in found["tasks"] if (task["task"] == "in_use") == is_last]
        for is_last in (True, False)
    )
    assert [task["kind"] for task in tasks] == kinds
    # What fails fails the date, although garbage is collected all the same.
    assert [(task["kind"], task["after"]) for task in last] == [("EmptyOperator", ["promote"])]
    rules = {task["task"]: task["when"] for task in found["tasks"]}
    assert rules == {name: "all_done" if name == "gc" else "all_success" for name in rules}
    # One after the other.
    assert [task["after"] for task in tasks] == [[], *([task["task"]] for task in tasks[:-1])]
    assert [task["retries"] for task in tasks] == [
        0 if task["task"] == "gate" else 2 for task in tasks
    ]
    assert all(task["backoff"] and task["alerts"] for task in tasks)
    # Midnight to midnight, each when it is over.
    assert [start for start, _ in found["dates"]] == list(DATES)
    assert found["dates"][0][1].startswith("2026-01-02 00:00:00")
    assert "{{" not in json.dumps(tasks)
    assert "2026-01-31" in json.dumps(tasks)


def test_settings_that_cannot_be_are_an_import_error(airflow, tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text('{"workdir": "w", "variant": "composer"}')
    (message,) = airflow.probe(settings)["errors"].values()
    assert "the composer variant needs them" in message


def test_flex_template_tasks_launch_and_wait(airflow):
    """The operator's own requests, at a stand-in for the Dataflow service."""

    def answer(method, path, body):
        name = body["launchParameter"]["jobName"] if body else "done"
        job = {"id": "job-1", "name": name, "type": "JOB_TYPE_BATCH"}
        state = {"currentState": "JOB_STATE_DONE", "projectId": "PROJECT", "location": "REGION"}
        return {"job": job | state} if method == "POST" else job | state

    settings = ROOT / "deploy" / "airflow" / "phraselens.composer.json"
    with service(answer) as (address, got):
        found = airflow.probe(settings, address)
    posts = [(path, body["launchParameter"]) for method, path, body in got if method == "POST"]
    expected = [task["body"]["launchParameter"] for task in found["tasks"] if "body" in task]
    assert len(posts) == len(expected) == 4
    for (path, launched), planned in zip(posts, expected, strict=True):
        assert path == "/v1b3/projects/PROJECT/locations/REGION/flexTemplates:launch"
        # Airflow adds some digits to the name, so that a retry is a job of its own.
        job = launched["parameters"]["job"].replace("_", "-")
        assert re.fullmatch(rf"phraselens-{job}-20260131-[0-9a-f]{{8}}", launched["jobName"])
        assert launched == planned | {"jobName": launched["jobName"]}
        assert launched["environment"]["maxWorkers"] == 20
        assert launched["containerSpecGcsPath"].endswith(f"/{launched['parameters']['job']}.json")
    assert [job["currentState"] for job in found["launched"]] == ["JOB_STATE_DONE"] * 4
    assert any(method == "GET" and path.endswith("/jobs/job-1") for method, path, _ in got)


def write_day(folder, sample, new_images, one_label):
    """Log, images and labels of a date: the samples', with some images mirrored as new ones."""
    tables = {name: sample.table(name) for name in ("click_log", "images", "labels")}
    images = tables["images"].slice(0, new_images).to_pylist()
    old_keys = pa.array([row["key"] for row in images], pa.string())
    mirrored = [{"key": f"new-{row['key']}", "image": mirror(row["image"])} for row in images]
    log = tables["click_log"].filter(pc.is_in(tables["click_log"]["image"], old_keys))
    renamed = pc.binary_join_element_wise("new-", log["image"], "")
    log = log.set_column(log.schema.get_field_index("image"), "image", renamed)
    tables["images"] = pa.concat_tables(
        [tables["images"], pa.Table.from_pylist(mirrored, tables["images"].schema)]
    )
    tables["click_log"] = pa.concat_tables([tables["click_log"], log])
    if one_label:
        labels = tables["labels"]
        kept = pa.array([row % 5 == 0 for row in range(len(labels))])
        shifted = pc.if_else(kept, labels["label"], labels["label"][0])
        tables["labels"] = labels.set_column(1, "label", shifted)
    folder.mkdir(parents=True)
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")


def mirror(data):
    buffer = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(data))).save(buffer, "PNG")
    return buffer.getvalue()


def write_settings(path, work, data, alert_url):
    stages = {n: flags for n, flags in work_folder.SETTINGS.items() if n != "make_samples"}
    # Of the 50 validation images of a tiny run, chance alone says which vectors are best.
    stages["embed_phrases"] = {"head_vectors": "weight"}
    fields = {
        "variant": "bash",
        "run_sh": str(ROOT / "run.sh"),
        "workdir": work,
        "reprocess": {
            flag: f"{data}/{{{{ ds }}}}/{table}.parquet"
            for flag, table in {"log": "click_log", "images": "images", "labels": "labels"}.items()
        }
        # Any flag may depend on the date.
        | {"retrain": f"{{{{ 'fusion' if ds == '{DATES[0]}' else 'none' }}}}"},
        "stages": stages,
        "keep": 2,
        "schedule": "0 0 * * *",
        "start_date": DATES[0],
        "retries": 0,
        "alert_url": alert_url,
    }
    path.write_text(json.dumps(fields))


@pytest.mark.timeout(3600)
def test_three_dates_on_one_machine(airflow, tiny_run, tmp_path):
    work = str(tmp_path / "work")
    shutil.copytree(tiny_run.config.workdir, work)
    sample = Dataset(f"{work}/{stages_lib.SAMPLES.output}")
    for date, new_images, one_label in zip(
        DATES, (0, NEW_IMAGES, NEW_IMAGES), (False, False, True), strict=True
    ):
        write_day(tmp_path / "data" / date, sample, new_images, one_label)
    assert airflow.run("airflow", "db", "migrate").returncode == 0

    with service(lambda *request: {}) as (address, alerts):
        write_settings(tmp_path / "settings.json", work, tmp_path / "data", address)
        runs = {
            date: airflow.run(
                *("airflow", "dags", "test", "phraselens", date),
                PHRASELENS_SETTINGS=str(tmp_path / "settings.json"),
            )
            for date in DATES
        }
    said = {date: done.stdout + done.stderr for date, done in runs.items()}
    assert runs[DATES[0]].returncode == 0, said[DATES[0]]
    assert runs[DATES[1]].returncode == 0, said[DATES[1]]
    assert runs[DATES[2]].returncode != 0, said[DATES[2]]

    gates = {d: json.loads(Path(work, "gates", f"{d}.json").read_bytes()) for d in DATES}
    assert [gates[date]["verdict"] for date in DATES] == ["pass", "pass", "refuse"]
    assert [gates[date]["against"] for date in DATES] == [None, DATES[0], DATES[1]]
    assert "labels.images" in gates[DATES[2]]["refused_by"]
    # The snapshot of the last date is there to be looked at; what is in use stays in use.
    assert snapshots.dates(work) == list(DATES)
    pointer = pointer_lib.read_pointer(work)
    assert (pointer.date, pointer.history) == (DATES[1], (DATES[0],))
    images = [
        snapshots.read(work, date).dataset("features").manifest.tables["features"].rows
        for date in DATES
    ]
    assert images[0] < images[1] == images[2]
    assert [body["text"] for _, _, body in alerts] == [
        f"PhraseLens: gate of {DATES[2]} failed; what is in use stays in use."
    ]
    states = airflow.run("airflow", "dags", "list-runs", "phraselens", "--output=json")
    by_date = {r["logical_date"][:10]: r["state"] for r in json.loads(states.stdout)}
    assert by_date == dict(zip(DATES, ("success", "success", "failed"), strict=True))
