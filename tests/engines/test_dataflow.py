"""Every Beam job sent to Dataflow, against local stand-ins for its service and Cloud Storage."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2

from beam_jobs.dataflow import flags as flags_lib
from beam_jobs.dataflow import plan as dataflow_plan
from beam_jobs.dataflow import submit
from beam_jobs.frame import execution
from beam_jobs.mining import log as log_lib
from beam_jobs.mining import mine_log
from beam_jobs.runs import overrides
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.datasets import manifest
from tests.support.datasets import work_folder
from tests.support.inputs.hidden_text import shown
from tests.support.processes.cloud import PROJECT, REGION

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operate" / "dataflow.md"
IMAGE = "images.example/phraselens-gpu:1"
ON_GPU = {
    "embed_phrases": ["EmbedClickedImages"],
    "embed_images": ["EmbedImages"],
    "classify_images": ["ClassifyImages"],
}
ALWAYS = {"pipeline.pb", "submission_environment_dependencies.txt"}
TABLE: dict[str, str] = {}
# What must be in no graph: a key, and what a deletion list names.
KEY = b"5ec3e7a91bd0c4f85ec3e7a91bd0c4f8"
GONE = (
    b"photo-to-forget-8841",
    b"somebody.to.forget@mail.example",
    b"words that they want forgotten",
)
SECRETS = (KEY, *GONE)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory) -> dict[str, str]:
    """Flags of files with secrets, on the disk of the launcher."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "person.key").write_bytes(KEY + b"\n")
    image, user, query = (text.decode() for text in GONE)
    rows = f"image,user,query\n{image},,\n,{user},\n,someone else,{query}\n"
    (folder / "list.csv").write_text(rows)
    flags = {"person_key": str(folder / "person.key"), "forget": str(folder / "list.csv")}
    return flags


@pytest.fixture(scope="module")
def work(bucket, tiny_run, secrets, tmp_path_factory) -> str:
    """The tiny run's work folder and a day of its log, in the bucket."""
    for name in work_folder.STAGES.values():
        if name.output not in ("fusion", "report", "predictions"):
            local = storage.join(tiny_run.config.workdir, name.output)
            storage.upload_dir(local, f"{bucket}/mine/{name.output}")
    log = overrides.sample_inputs(tiny_run.dataset("make_samples"))["log"]
    day = str(tmp_path_factory.mktemp("days") / "day")
    assert (
        submit.job_module("mine_log").run(
            [f"--log={log}", f"--output={day}", *(f"--{k}={v}" for k, v in secrets.items())]
        )
        == 0
    )
    storage.upload_dir(day, f"{bucket}/mine/days/2026-11-20")
    return f"{bucket}/mine"


@pytest.fixture(autouse=True)
def a_folder_for_tf_transform(monkeypatch, tmp_path):
    """tf.Transform writes while the graph is drawn, and knows the real Cloud Storage only."""
    monkeypatch.setattr(
        "tensorflow_transform.beam.Context.create_base_temp_dir", lambda: str(tmp_path)
    )


def flags_of(job: str, work: str, secrets: dict[str, str]) -> list[str]:
    """The job's own flags: inputs of the work folder, all files of secrets, another output."""
    config = work_folder.config(work)
    if job == "mine_log":
        flags = {"log": overrides.sample_inputs(f"{work}/samples")["log"]}
    elif job == "forget":
        key, listed = secrets.values()
        return [f"--list={listed}", f"--person_key={key}", f"--days={work}/days"]
    else:
        flags = overrides.flags_of(work_folder.STAGES[job], config)
    flags |= secrets if job in ("mine_log", "mine_pairs") else {}
    flags |= {"output": f"{work}/sent/{job}"}
    return [f"--{name}={value}" for name, value in flags.items()]


def cloud_flags(work: str, job: str, server=None) -> list[str]:
    flags = {
        "project": PROJECT,
        "region": REGION,
        "job_name": job.replace("_", "-"),
        "temp_location": f"{work}/temp",
        "staging_location": f"{work}/staging/{job}",
    }
    if server:
        flags["dataflow_endpoint"] = f"http://localhost:{server.server_port}"
    return [f"--{name}={value}" for name, value in flags.items()]


def arrived(server) -> tuple[dict, dataflow_plan.Plan]:
    """The one job that the service got, as it was posted and as a plan."""
    ((path, job),) = server.jobs
    assert path.endswith(f"/projects/{PROJECT}/locations/{REGION}/jobs")
    return job, read_job(job)


def read_job(job: dict) -> dataflow_plan.Plan:
    environment = job["environment"]
    staging = environment["sdkPipelineOptions"]["options"]["staging_location"]
    staged = {name: storage.size(f"{staging}/{name}") for name in storage.list_files(staging)}
    graph = beam_runner_api_pb2.Pipeline.FromString(storage.read_bytes(f"{staging}/pipeline.pb"))
    (pool,) = environment["workerPools"]
    assert {package["name"] for package in pool["packages"]} == set(staged) - {"pipeline.pb"}
    return dataflow_plan.plan_of(job["name"], environment, graph, staged)


@pytest.mark.parametrize("job", submit.JOBS)
def test_a_job_arrives(job, work, secrets, dataflow, capsys):
    gpu = ["--gpu=nvidia-l4"] if job in ON_GPU else []
    flags = [
        *flags_of(job, work, secrets),
        *cloud_flags(work, job, dataflow),
        f"--image={IMAGE}",
        *gpu,
    ]
    assert submit.run([f"--job={job}", *flags]) == 0
    posted, plan = arrived(dataflow)
    printed = "".join(capsys.readouterr())
    check_nothing_is_shown(job, work, posted, printed)

    assert posted["type"] in (1, "JOB_TYPE_BATCH")
    assert plan.name == job.replace("_", "-")
    # The image holds code and models: nothing is installed when a worker starts.
    assert set(plan.staged) == ALWAYS
    assert plan.options["save_main_session"] is False
    assert (plan.options["project"], plan.options["region"]) == (PROJECT, REGION)
    assert plan.options["sdk_container_image"] == IMAGE
    assert {environment.image for environment in plan.environments} == {IMAGE}

    assert plan.environments[0].hints == {}
    hints = {"accelerator": "type:nvidia-l4;count:1;install-nvidia-driver"} if gpu else None
    assert [environment.hints for environment in plan.environments[1:]] == [hints] * len(gpu)
    # One elementary step each, and not the shuffle before it.
    assert [step.split("/")[0] for step in plan.hinted] == ON_GPU.get(job, [])
    assert (flags_lib.ONE_PROCESS in plan.experiments) == bool(gpu)

    if job != "forget":
        assert plan.steps[0] == "CheckCode"
        assert plan.steps[-1] == "CommitManifest"
        # The graph commits when it has run; the launcher has written nothing by itself.
        assert "submitted" in printed
        assert manifest.read(f"{work}/sent/{job}") is None
    TABLE[job] = row(job, plan)


def check_nothing_is_shown(job: str, work: str, posted: dict, printed: str) -> None:
    """That no secret is in what a job leaves behind: its graph, the posted job, what it printed."""
    staging = posted["environment"]["sdkPipelineOptions"]["options"]["staging_location"]
    graph = storage.read_bytes(f"{staging}/pipeline.pb")
    # The search sees what is in the functions, and in what they hold.
    assert shown(graph, [f"{work}/days".encode() if job == "forget" else f"sent/{job}".encode()])
    everything = [graph, json.dumps(posted).encode(), printed.encode()]
    everything += [storage.read_bytes(f"{staging}/{name}") for name in ALWAYS]
    assert [shown(data, SECRETS) for data in everything] == [set()] * len(everything)
    # Workers find them beside what else only this attempt reads; the commit removes all of it.
    left = f"{work}/sent/{job}/spill"
    secret, others = [], []
    for name in storage.list_files(left):
        (secret if "/secrets/" in name else others).append(name)
    expected = ["forget/list.csv", "person_key/person.key"]
    expected = expected if job in ("mine_log", "mine_pairs") else []
    assert [name.partition("/secrets/")[2] for name in secret] == expected
    # Beside them lies what is to be read, as it would be in the graph.
    assert all("/tasks/" in name for name in others)
    assert [shown(storage.read_bytes(f"{left}/{n}"), SECRETS) for n in others] == [set()] * len(
        others
    )
    assert not [n for n in storage.list_files(f"{work}/temp") if "person" in n or "list" in n]


def test_mining_days_shows_no_secret(work, secrets, dataflow, capsys):
    """The other way to mine: days that were read before."""
    step, config = work_folder.STAGES["mine_pairs"], work_folder.config(work)
    images = overrides.flags_of(step, config)["images"]
    flags = {
        "days": f"{work}/days",
        "images": images,
        "output": f"{work}/sent/mine_pairs",
        **secrets,
    }
    words = [f"--{k}={v}" for k, v in flags.items()]
    storage.remove_tree(f"{work}/sent/mine_pairs")
    words += [*cloud_flags(work, "mine_pairs", dataflow), f"--image={IMAGE}"]
    assert submit.run(["--job=mine_pairs", *words]) == 0
    posted, _ = arrived(dataflow)
    check_nothing_is_shown("mine_pairs", work, posted, "".join(capsys.readouterr()))


def test_what_was_mined_shows_no_secret(work):
    """The manifest says which key it was, and not what is in it."""
    day = f"{work}/days/2026-11-20"
    assert "person_key" in manifest.read(day).inputs
    for name in storage.list_files(day):
        assert shown(storage.read_bytes(f"{day}/{name}"), SECRETS) == set()


def test_workers_elsewhere_read_what_was_copied_for_them(bucket, secrets):
    options = PipelineOptions(["--runner=DataflowRunner"])
    config = mine_log.Config(output="gs://bucket/o", log=("a.csv",), **secrets)
    moved = execution.for_workers(config, options, f"{bucket}/spill")
    assert moved.person_key.startswith(bucket)
    assert moved.forget.startswith(bucket)
    for whose in (config, moved):
        rules = pickle.loads(pickle.dumps(log_lib.log_rules(whose, None)))()
        assert rules.person_key == KEY
        assert rules.forgotten == (GONE[0].decode(),)
        deletions = log_lib.day_rules(whose, None)().deletions
        assert len(deletions.users) == len(deletions.user_queries) == 1
    rules = log_lib.log_rules(moved, 1)  # which nobody has called for yet
    storage.write_bytes(moved.person_key, b"another key of somebody else")
    with pytest.raises(PhraseLensError, match="as it was when the job started"):
        rules()
    here = PipelineOptions(["--runner=FnApiRunner"])
    assert execution.for_workers(config, here, f"{bucket}/spill") == config


def test_a_key_that_is_given_instead_of_its_file_is_not_shown(tmp_path, capsys):
    flags = [f"--log={tmp_path}/log.csv", f"--output={tmp_path}/o", f"--person_key={KEY.decode()}"]
    (tmp_path / "log.csv").write_text("query,image\na,b\n")
    assert mine_log.run(flags) == 2
    printed = "".join(capsys.readouterr())
    assert "--person_key: expected the path of a file" in printed
    assert shown(printed.encode(), SECRETS) == set()


def row(job: str, plan: dataflow_plan.Plan) -> str:
    """A row of the table in docs/operate/dataflow.md."""
    steps = f"{len(plan.steps)}: {plan.steps[0]} … {plan.steps[-1]}"
    hints = "; ".join(f"{k}=`{v}`" for e in plan.environments[1:] for k, v in e.hints.items())
    environments = f"{len(plan.environments)}" + (f": CPU, {hints}" if hints else ": CPU")
    hinted = ", ".join(f"`{step}`" for step in plan.hinted) or "–"
    shown = [f"`{k}={v}`" for k, v in plan.options.items() if k in flags_lib.FLAG_NAMES]
    shown += [f"`{e}`" for e in plan.experiments if e == flags_lib.ONE_PROCESS]
    options = ", ".join(shown)
    staged = ", ".join(f"`{name}`" for name in plan.staged)
    return f"| {job} | {steps} | {environments} | {hinted} | {options} | {staged} |"


def test_the_page_holds_the_table_of_jobs():
    if set(TABLE) != set(submit.JOBS):
        pytest.skip("the tests above did not run")
    head = "| job | steps | environments | steps with hints | options | staged |"
    table = "\n".join([head, "|---" * 6 + "|", *(TABLE[job] for job in submit.JOBS)])
    print(table)
    page = PAGE.read_text()
    start, end = (page.index(f"<!-- {mark} of jobs -->") for mark in ("table", "end"))
    if os.environ.get("UPDATE_DOCS"):
        page = f"{page[:start]}<!-- table of jobs -->\n{table}\n{page[end:]}"
        PAGE.write_text(page)
    assert table in page, "UPDATE_DOCS=1 ./run.sh test tests/engines/test_dataflow.py writes it"


def test_without_an_image_workers_install_this_code(work, secrets, dataflow):
    """The source distribution that is staged holds every module and what they read beside them."""
    job = "embed_images"
    flags = [*flags_of(job, work, secrets), *cloud_flags(work, job, dataflow)]
    assert submit.run([f"--job={job}", *flags]) == 0
    posted, plan = arrived(dataflow)
    assert set(plan.staged) == {*ALWAYS, "workflow.tar.gz"}
    (environment,) = plan.environments
    assert "workflow.tar.gz" in environment.files
    assert environment.image.endswith("/beam_python3.11_sdk:2.77.0")
    staging = posted["environment"]["sdkPipelineOptions"]["options"]["staging_location"]
    data = storage.read_bytes(f"{staging}/workflow.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    packages = ("beam_jobs", "transforms", "model_code", "schemas", "samples")
    ours = [path for package in packages for path in (ROOT / package).iterdir() if path.is_file()]
    assert {str(path.relative_to(ROOT)) for path in ours} <= names
    assert {"setup.py", "pyproject.toml", "requirements.txt"} <= names


def test_a_dry_run_prints_the_job_that_would_arrive_and_sends_nothing(
    work, secrets, dataflow, capsys
):
    job = "embed_images"
    flags = [*flags_of(job, work, secrets), *cloud_flags(work, job, dataflow), f"--image={IMAGE}"]
    flags += ["--gpu=nvidia-l4", f"--job={job}"]
    before = storage.list_files(f"{work}/staging")
    assert submit.run([*flags, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert dataflow.jobs == []
    assert storage.list_files(f"{work}/staging") == before
    assert submit.run(flags) == 0
    _, plan = arrived(dataflow)
    for line in dataflow_plan.describe(plan).splitlines():
        if " bytes" not in line:  # where files are staged is part of the graph
            assert line in printed.splitlines()


def test_a_dry_run_needs_no_network(tmp_path, capsys, monkeypatch, tiny_run):
    """Of local data, which a submission would refuse, the plan is drawn without a connection."""

    def refuse(*args):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    config = work_folder.config(tiny_run.config.workdir)
    flags = overrides.flags_of(work_folder.STAGES["embed_images"], config)
    flags |= {"output": str(tmp_path / "features"), "temp_location": "gs://bucket/temp"}
    flags |= {"project": PROJECT, "region": REGION, "image": IMAGE, "gpu": "nvidia-l4"}
    words = [f"--{name}={value}" for name, value in flags.items()]
    assert submit.run(["--job=embed_images", *words, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "accelerator=type:nvidia-l4;count:1;install-nvidia-driver" in printed
    assert f"would be refused, workers see gs:// only: --output={tmp_path}" in printed
    assert submit.run(["--job=embed_images", *words]) == 2
    assert "error: --output=" in capsys.readouterr().err


def test_a_template_is_launched(work, secrets, dataflow):
    """What the launcher of a Flex Template does: it wants the job as a file, and starts it."""
    job = "embed_images"
    place = f"{work}/template_launches/1/job_object"
    flags = [*flags_of(job, work, secrets), *cloud_flags(work, job, dataflow)]
    flags += [f"--template_location={place}", f"--sdk_container_image={IMAGE}"]
    assert submit.run([f"--job={job}", "--gpu=nvidia-l4", *flags]) == 0
    assert dataflow.jobs == []
    plan = read_job(json.loads(storage.read_bytes(place)))
    assert {environment.image for environment in plan.environments} == {IMAGE}
    assert [step.split("/")[0] for step in plan.hinted] == ON_GPU[job]
