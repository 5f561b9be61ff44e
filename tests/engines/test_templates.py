"""Flex Templates against the jobs' flags, and the container against the lock files."""

import argparse
import dataclasses
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from google.cloud import dataflow_v1beta3

from beam_jobs.dataflow import checks as dataflow
from beam_jobs.dataflow import submit
from beam_jobs.dataflow.flags import Flags
from deploy import templates
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console.parser import add_flags, parser_for
from tests.support.processes import wheel
from tests.support.processes.locks import locked

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IMAGE = "images.example/phraselens:1"
OF_EVERY_COMMAND = ("help", "help_all", "verbose", "log_format")


def actions(job: str) -> dict[str, argparse.Action]:
    """The flags of a job's command line by name, as argparse has them."""
    parser = parser_for(submit.job_module(job).Config, "", "")
    if job in submit.ON_GPU:
        add_flags(parser, Flags)
    found = {a.dest: a for a in parser._actions if a.dest not in OF_EVERY_COMMAND}
    return {name: a for name, a in found.items() if name not in ("dry_run", "image")}


def shown(action: argparse.Action) -> str:
    """A flag's help without the default that is added to it."""
    return re.sub(r" \[[^]]*\]$", "", action.help.replace("%%", "%"))


@pytest.mark.parametrize("job", submit.JOBS)
def test_parameters_are_the_job_s_flags(job):
    which, *parameters = templates.metadata(job)["parameters"]
    assert which["name"] == "job"
    assert which["regexes"] == [f"^{job}$"]
    by_name = {parameter["name"]: parameter for parameter in parameters}
    flags = actions(job)
    assert set(by_name) == set(flags)
    for name, action in flags.items():
        parameter = by_name[name]
        assert parameter["isOptional"] == (not action.required), name
        assert parameter["helpText"] in (action.help.replace("%%", "%"), shown(action)), name
        enum = [option["value"] for option in parameter.get("enumOptions", ())]
        assert enum == list(action.choices or ()), name


@pytest.mark.parametrize("job", submit.JOBS)
def test_a_default_passes_its_regex_and_means_the_default(job):
    """What the console fills in is what the job takes without the flag."""
    flags = actions(job)
    for parameter in templates.metadata(job)["parameters"][1:]:
        if "defaultValue" in parameter:
            for regex in parameter.get("regexes", ()):
                assert re.fullmatch(regex, parameter["defaultValue"]), parameter
            action = flags[parameter["name"]]
            assert action.type(parameter["defaultValue"]) == action.default, parameter


@pytest.mark.parametrize("job", submit.JOBS)
def test_regexes_take_what_the_flag_takes(job):
    words = {"BOOLEAN": ("true", "maybe"), "NUMBER": ("12", "a dozen"), "ENUM": (None, "no such")}
    for parameter in templates.metadata(job)["parameters"]:
        if parameter["paramType"] in words:
            good, bad = words[parameter["paramType"]]
            good = good or parameter["enumOptions"][-1]["value"]
            (regex,) = parameter["regexes"]
            assert re.fullmatch(regex, good), parameter
            assert not re.fullmatch(regex, bad), parameter


@pytest.mark.parametrize("job", submit.JOBS)
def test_the_service_s_own_message_holds_the_template(job):
    """Every field and every kind of parameter is one that the Dataflow API knows."""
    spec = json.dumps(templates.container_spec(job, IMAGE))
    found = dataflow_v1beta3.ContainerSpec.from_json(spec, ignore_unknown_fields=False)
    assert found.image == found.default_environment.sdk_container_image == IMAGE
    assert found.sdk_info.language == dataflow_v1beta3.SDKInfo.Language.PYTHON
    assert len(found.metadata.parameters) == len(actions(job)) + 1


def test_templates_are_written_to_a_bucket(bucket, capsys):
    output = f"{bucket}/templates"
    assert templates.run(["all", f"--image={IMAGE}", f"--output={output}"]) == 0
    assert storage.list_files(output) == sorted(f"{job}.json" for job in submit.JOBS)
    written = json.loads(storage.read_bytes(f"{output}/mine_pairs.json"))
    assert written == templates.container_spec("mine_pairs", IMAGE)
    assert templates.run(["mine_pairs"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{") :]) == written["metadata"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["embed_image"], "Did you mean embed_images?"),
        (["embed_images", "--image=a:1"], "both or neither"),
        (["embed_images", "--image=latest", "--output=x.json"], "expected NAME:TAG"),
    ],
)
def test_wrong_flags_are_refused(flags, message, capsys):
    assert templates.run(flags) == 2
    assert message in capsys.readouterr().err


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words) of the Dockerfile, in order, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line.strip()]


def words_of(name: str) -> list[str]:
    return [words for instruction, words in instructions() if instruction == name]


def test_the_image_holds_the_locked_python_and_beam():
    bases = [words.split()[0] for words in words_of("FROM")]
    beam = locked("requirements.lock")["apache-beam"]
    assert f"apache/beam_python3.11_sdk:{beam}" in bases
    (python,) = [base for base in bases if base.startswith("python:")]
    assert re.match(r"python:3\.11\.\d+-slim-", python)
    assert 'requires-python = ">=3.11,<3.12"' in (ROOT / "pyproject.toml").read_text()
    assert any("python311-template-launcher" in base for base in bases)
    for variant in ("", "-gpu"):
        assert locked(f"requirements{variant}.lock")["apache-beam"] == beam


def test_every_base_is_a_stage_or_pinned():
    stages: set[str] = set()
    for words in words_of("FROM"):
        base, _, name = words.partition(" AS ")
        variants = ["cpu", "gpu"] if base == "${VARIANT}" else [base]
        for one in variants:
            version = one.rpartition(":")[2]
            assert one in stages or one == "scratch" or re.match(r"\d", version), base
        stages.add(name)
    assert {"cpu", "gpu", "base", "beam", "launcher", "models"} <= stages


def test_the_remedy_for_a_gpu_without_an_image_builds_one():
    flags = {"runner": "DataflowRunner", "project": "my-project", "region": "us-central1"}
    flags |= {"temp_location": "gs://bucket/temp", "setup_file": "./setup.py", "gpu": "nvidia-l4"}
    options = PipelineOptions([f"--{name}={value}" for name, value in flags.items()])
    with pytest.raises(PhraseLensError) as error:
        dataflow.prepare(options, runs_networks=True)
    ((argument, variant),) = re.findall(r"--build-arg (\w+)=(\w+)", str(error.value))
    assert f"{argument}=cpu" in words_of("ARG")
    assert {f"base AS {variant}", f"${{{argument}}}"} <= set(words_of("FROM"))


def test_packages_come_from_the_locks_and_from_nowhere_else():
    runs = words_of("RUN")
    (install,) = re.findall(r"pip install ([^&]*)", " && ".join(runs))
    assert {"--no-deps", "--no-build-isolation", "./code"} <= set(shlex.split(install))
    # run.sh installs a lock with its hashes; which one is there says which one that is.
    assert [run for run in runs if "run.sh" in run] == ["./run.sh setup", "./run.sh setup --gpu"]
    locks = [s for words in words_of("COPY") for s in copies(words)[0] if s.endswith(".lock")]
    build = "requirements-build.lock"
    assert locks == [build, "requirements.lock", build, "requirements-gpu.lock"]
    assert not any(re.search(r"\b(apt|apt-get|curl|wget)\b", run) for run in runs)


def copies(words: str) -> tuple[list[str], str]:
    """What of the repository a COPY copies, and to where."""
    *sources, target = [word for word in words.split() if not word.startswith("--")]
    return ([] if "--from=" in words else sources), target


def copied_sources() -> list[str]:
    """What of the repository is installed into the image's environment."""
    found = [copies(words) for words in words_of("COPY")]
    return [s for sources, target in found if target.startswith("code/") for s in sources]


def test_the_image_installs_what_the_wheel_is_made_of():
    assert sorted(copied_sources()) == sorted(wheel.SOURCES)


def test_everything_that_is_copied_is_there_and_reaches_the_builder():
    ignore = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().split("\n")
    kept = [line[1:] for line in ignore if line.startswith("!")]
    copied = [source for words in words_of("COPY") for source in copies(words)[0]]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source
    assert set(kept) == set(copied)
    packages = (ROOT / "pyproject.toml").read_text().partition("packages = [")[2].partition("]")[0]
    assert set(re.findall(r'"(\w+)"', packages)) <= set(copied)


def test_nothing_runs_as_root():
    """In each stage that is built upon, the last user is the one without rights."""
    user, users = "root", {}
    name = ""
    for instruction, words in instructions():
        if instruction == "FROM":
            base, _, name = words.partition(" AS ")
            user = users.get(base.replace("${VARIANT}", "cpu"), "root")
        elif instruction == "USER":
            user = words
        users[name] = user
    assert {users[name] for name in ("base", "cpu", "gpu", "")} == {"phraselens"}
    assert words_of("ENTRYPOINT") == ['["/opt/apache/beam/boot"]']


def test_the_launcher_starts_a_file_that_is_installed():
    (setting,) = [w for w in words_of("ENV") if w.startswith("FLEX_TEMPLATE_PYTHON_PY_FILE=")]
    module = setting.rpartition("site-packages/")[2]
    assert (ROOT / module).exists()
    assert module == "beam_jobs/dataflow/submit.py"


@pytest.fixture(params=["cpu", "gpu"])
def image(request, tmp_path) -> Path:
    """The folder of an image's files that run.sh needs, laid out by the Dockerfile.

    Its Python is this one with the image's code; it can make no environment.
    """
    (workdir,) = words_of("WORKDIR")

    def place(path: str) -> Path:
        return tmp_path / str(Path(workdir, path)).lstrip("/")

    packages = place("/opt/venv/lib/python3.11/site-packages")
    packages.mkdir(parents=True)
    place(workdir).mkdir(parents=True)
    stage = ""
    for instruction, words in instructions():
        if instruction == "FROM":
            stage = words.partition(" AS ")[2]
        if stage in {"cpu", "gpu"} - {request.param}:
            continue
        if instruction == "COPY":
            sources, target = copies(words)
            for source in sources:
                if not target.startswith("code/"):
                    shutil.copy(ROOT / source, place(target))
                elif (ROOT / source).is_dir():
                    (packages / source).symlink_to(ROOT / source)
        elif instruction == "RUN":
            # What a whole installation leaves, which tests/unit/project/test_install.py runs.
            for flag in re.findall(r"run\.sh setup( --gpu)?", words):
                kind = "-gpu" if flag else ""
                shutil.copy(place(f"requirements{kind}.lock"), place("/opt/venv"))
    python = f'PYTHONPATH=$PYTHONPATH:{packages} exec {sys.executable} "$@"'
    place("/opt/venv/bin").mkdir()
    for name, script in {"python": python, "python3.11": "exit 1"}.items():
        place(f"/opt/venv/bin/{name}").write_text(f"#!/bin/sh\n{script}\n")
        place(f"/opt/venv/bin/{name}").chmod(0o755)
    return tmp_path


def test_the_cloud_run_job_of_the_docs_starts_in_the_image_and_installs_nothing(image):
    page = (ROOT / "docs" / "operate" / "schedule.md").read_text()
    (command,) = re.findall(r"--command (/\S+)", page)
    (venv,) = re.findall(r"PHRASELENS_VENV=(\S+)", " ".join(words_of("ENV")))
    for name in ("reprocess", "gate", "promote", "gc"):
        done = subprocess.run(
            [image / command[1:], name, "--help"],
            env={"PATH": os.environ["PATH"], "PHRASELENS_VENV": str(image / venv[1:])},
            cwd=image,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: ./run.sh {name} "), done.stdout


def test_every_flag_is_described_for_the_console():
    for job in submit.JOBS:
        for field in dataclasses.fields(submit.job_module(job).Config):
            assert field.metadata["help"].endswith("."), (job, field.name)
