"""What Dataflow's flags refuse, and what follows from them; no graph is drawn here."""

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    PipelineOptions,
    SetupOptions,
    WorkerOptions,
)
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.dataflow import checks as dataflow
from beam_jobs.dataflow import flags as flags_lib
from beam_jobs.dataflow import hints as hints_lib
from beam_jobs.dataflow import submit
from beam_jobs.frame import code_check
from beam_jobs.mining import mine_pairs
from beam_jobs.models import classify_images, embed_images
from schemas.base import code_fingerprint
from schemas.base.errors import Exit, PhraseLensError
from schemas.console.flags import flag

ROOT = Path(__file__).resolve().parents[2]
PLACES = {
    "runner": "DataflowRunner",
    "project": "my-project",
    "region": "us-central1",
    "temp_location": "gs://bucket/temp",
}
CODE = {"setup_file": "./setup.py"}
IMAGE = {"image": "images.example/phraselens:1"}


def options(**flags: Any) -> PipelineOptions:
    return PipelineOptions([f"--{name}={value}" for name, value in flags.items()])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"project": ""}, "--project: expected a value. Add --project=my-project"),
        ({"region": ""}, "--region: expected a value"),
        ({"temp_location": ""}, "--temp_location: expected a value"),
        ({"temp_location": "/tmp"}, "--temp_location=/tmp: expected a folder of a bucket"),
        ({"staging_location": "bucket/s"}, "--staging_location=bucket/s: expected a folder"),
        ({"project": "My Project"}, "--project=My Project: expected a project's id"),
        ({"job_name": "Embed_Images"}, "--job_name=Embed_Images: expected small letters"),
        ({"setup_file": ""}, "--image: expected an image, or --setup_file"),
        ({"image": "phraselens"}, "--image=phraselens: expected NAME:TAG"),
        (IMAGE | {"sdk_container_image": "other:1"}, "expected no --sdk_container_image=other:1"),
        ({"gpu": "nvidia-l4"}, "--gpu=nvidia-l4: expected --image beside it"),
        (IMAGE | {"gpu": "nvidia-l5"}, "Did you mean nvidia-l4?"),
        (IMAGE | {"gpu": "nvidia-l4", "gpu_count": 3}, "--gpu_count=3: expected 1, 2, 4, 8 or 16"),
        (IMAGE | {"gpu": "nvidia-l4", "flexrs_goal": "COST_OPTIMIZED"}, "no --flexrs_goal"),
        (
            IMAGE
            | {"gpu": "nvidia-l4", "dataflow_service_options": "worker_accelerator=type:nvidia-l4"},
            "would give every worker a GPU",
        ),
        ({"inference_ram": "a lot"}, "--inference_ram=a lot: expected a size as 32GB"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags, message):
    given_flags = {k: v for k, v in (PLACES | CODE | flags).items() if v}
    with pytest.raises(PhraseLensError) as error:
        dataflow.prepare(options(**given_flags), runs_networks=True)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["gpu", "inference_ram"])
def test_only_jobs_that_run_networks_take_a_gpu(name, capsys):
    value = {"gpu": "nvidia-l4", "inference_ram": "32GB"}[name]
    flags = [f"--{k}={v}" for k, v in (PLACES | IMAGE | {name: value}).items()]
    own = [f"--{n}=gs://bucket/{n}" for n in ("log", "images", "output")]
    assert mine_pairs.run([*own, *flags]) == 2
    assert "a job that runs networks: embed_phrases, embed_images" in capsys.readouterr().err


def test_the_jobs_that_take_a_gpu_are_those_that_run_networks():
    modules = {name: submit.job_module(name) for name in submit.JOBS if name != "forget"}
    assert {n for n, m in modules.items() if m.JOB.runs_networks} == set(submit.ON_GPU)


def test_elsewhere_than_on_dataflow_its_flags_are_refused():
    for flags in (IMAGE, {"gpu": "nvidia-l4"}, {"inference_ram": "8GB"}):
        with pytest.raises(PhraseLensError, match="--runner=DataflowRunner beside it"):
            dataflow.prepare(options(**flags), runs_networks=True)
    dataflow.prepare(options(), runs_networks=True)


def test_the_main_session_is_never_pickled():
    """With cloudpickle, Beam's default for the service is to pickle it."""
    found = options(**PLACES, **CODE)
    dataflow.prepare(found, runs_networks=False)
    assert found.view_as(SetupOptions).save_main_session is False
    found.view_as(SetupOptions).save_main_session = True
    with pytest.raises(PhraseLensError, match="--save_main_session"):
        dataflow.prepare(found, runs_networks=False)


def test_what_follows_from_an_image_and_a_gpu():
    found = options(**PLACES, **IMAGE, gpu="nvidia-tesla-t4", gpu_count=2)
    dataflow.prepare(found, runs_networks=True)
    assert found.view_as(WorkerOptions).sdk_container_image == IMAGE["image"]
    assert flags_lib.ONE_PROCESS in found.view_as(DebugOptions).experiments
    hints = hints_lib.inference_hints(Drawn(found), 0)
    assert hints == {"accelerator": "type:nvidia-tesla-t4;count:2;install-nvidia-driver"}


@dataclasses.dataclass
class Drawn:
    """All of a pipeline that hints depend on; a real one would be validated."""

    options: PipelineOptions


def min_ram(hints: dict[str, str]) -> int:
    """Bytes, as Beam itself reads the hint; 0 for no hint."""
    step = beam.Map(print).with_resource_hints(**hints)
    return int(step.get_resource_hints().get("beam:resources:min_ram_bytes:v1", b"0"))


@given(st.integers(0, 1 << 42), st.integers(0, 1 << 42))
def test_memory_grows_with_the_models_and_holds_them_twice(small, large):
    pipeline = Drawn(options(**PLACES, **CODE))
    found = [min_ram(hints_lib.memory_hint(pipeline, size)) for size in sorted((small, large))]
    assert found == sorted(found)
    for size, ram in zip(sorted((small, large)), found, strict=True):
        needed = hints_lib.WORKER_BYTES + 2 * size
        if ram == 0:
            assert needed <= hints_lib.SMALLEST_WORKER
        else:
            assert needed <= ram < needed + hints_lib.GIB


def test_memory_is_a_matter_of_dataflow_and_can_be_given():
    assert hints_lib.memory_hint(Drawn(options()), 1 << 40) == {}
    assert hints_lib.inference_hints(Drawn(options(gpu="nvidia-l4")), 1 << 40) == {}
    given_ram = options(**PLACES, **CODE, inference_ram="24GB")
    assert hints_lib.inference_hints(Drawn(given_ram), 1 << 40) == {"min_ram": "24GB"}


def test_workers_with_other_code_fail_the_job():
    module = "beam_jobs.mining.forget"
    code_check.check_code(module, code_fingerprint.of_code([module]))
    with pytest.raises(PhraseLensError, match="Build the workers' image anew"):
        code_check.check_code(module, code_fingerprint.of_code(["beam_jobs.mining.mine_pairs"]))


def test_local_paths_are_refused_unless_the_image_holds_them():
    config = classify_images.Config(
        model="/models/model", images=("gs://bucket/a/*.jpg", "b/*.jpg"), output="out"
    )
    without = dataflow.local_paths(config, options(**PLACES))
    assert without == ["--model=/models/model", "--images=b/*.jpg", "--output=out"]
    inside = dataflow.local_paths(config, options(sdk_container_image="i:1"))
    assert inside == ["--images=b/*.jpg", "--output=out"]


def test_what_only_the_launcher_reads_may_be_local():
    @dataclasses.dataclass(frozen=True)
    class Config:
        forget: str = flag("List.", role="input", default="deletions.csv")
        log: str = flag("Log.", role="input", default="log.csv")

    assert dataflow.local_paths(Config(), options()) == ["--log=log.csv"]


def test_help_names_dataflow_s_flags(capsys):
    with pytest.raises(SystemExit):
        embed_images.run(["--help-all"])
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in flags_lib.FLAG_NAMES)


def test_an_unknown_job_gets_the_nearest_name(capsys):
    assert submit.run(["--job=embed_image"]) == 2
    assert "Did you mean embed_images?" in capsys.readouterr().err


def test_what_google_says_is_an_error_and_no_traceback():
    from google.api_core.exceptions import Forbidden, ServiceUnavailable
    from google.auth.exceptions import DefaultCredentialsError

    text, status = dataflow.refusal(Forbidden("no"))
    assert "Google Cloud: 403 no" in text
    assert status == Exit.BAD_INPUT, "it does not pass"
    assert dataflow.refusal(ServiceUnavailable("busy"))[1] == Exit.UNAVAILABLE
    text, status = dataflow.refusal(DefaultCredentialsError("none"))
    assert "gcloud auth" in text
    assert status == Exit.BAD_INPUT
    assert dataflow.refusal(KeyError("ours")) is None


@pytest.mark.parametrize("flag", ["--image=i:1", "--sdk_container_image=i:1", "--setup_file=s.py"])
def test_code_is_sent_along_unless_it_is_said_where_workers_have_it(flag):
    (code,) = submit.code_flags(["--output=gs://bucket/image"])
    assert code == f"--setup_file={ROOT / 'setup.py'}"
    assert submit.code_flags([flag]) == submit.code_flags(flag.split("=")) == []


def test_an_installed_submit_has_no_code_to_send(monkeypatch, tmp_path):
    """As in the image, whose launcher starts Flex Templates."""
    monkeypatch.setattr(submit, "SETUP", tmp_path / "setup.py")
    assert submit.code_flags(["--output=gs://bucket/o"]) == []


def test_run_sh_adds_nothing_to_what_is_submitted(tmp_path):
    """Else the tests of submit would not say what is sent."""
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    (tmp_path / "bin" / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    sent = subprocess.run(
        [ROOT / "run.sh", "submit", "embed_images", "--image=i:1", "--output=a b"],
        env={"PATH": os.environ["PATH"], "PHRASELENS_VENV": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    expected = ["-m", "phraselens", "submit", "embed_images", "--image=i:1", "--output=a b"]
    assert sent.stdout.splitlines() == expected, sent.stderr
