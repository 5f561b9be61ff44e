"""What Dataflow refuses: said before a job is sent there."""

import dataclasses
import difflib
import re
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    WorkerOptions,
)

from beam_jobs.dataflow.flags import (
    FLAG_NAMES,
    ONE_PROCESS,
    READ_BY_LAUNCHER,
    DataflowOptions,
    is_dataflow,
)
from schemas.base import storage
from schemas.base.errors import Exit, PhraseLensError, status_of_service
from schemas.console import program
from schemas.console.parser import Parser

GPUS = (
    "nvidia-l4",
    "nvidia-tesla-t4",
    "nvidia-tesla-p4",
    "nvidia-tesla-p100",
    "nvidia-tesla-v100",
    "nvidia-tesla-a100",
    "nvidia-a100-80gb",
    "nvidia-h100-80gb",
    "nvidia-h100-mega-80gb",
)


def mistyped(words: Sequence[str], parser: Parser) -> list[str]:
    """Flags of a command line that only Dataflow has, but that look like a job's own.

    Args:
      words: what the job's parser did not take; they go to another runner than Dataflow's.
      parser: the job's.
    """
    own = [flag for flag in parser._option_string_actions if flag.startswith("--")]
    given = [word.partition("=")[0] for word in words]
    found = [flag for flag in given if flag[2:] in FLAG_NAMES]
    return [flag for flag in found if difflib.get_close_matches(flag, own, 1, 0.85)]


def prepare(options: PipelineOptions, runs_networks: bool) -> None:
    """Checks the flags that have to do with Dataflow, and sets what follows from them.

    Args:
      options: the job's pipeline options.
      runs_networks: whether the job has steps that run networks.

    Raises:
      PhraseLensError: a flag is missing or cannot work.
    """
    flags = options.view_as(DataflowOptions)
    if not is_dataflow(options):
        for name in ("image", "gpu", "inference_ram"):
            if getattr(flags, name):
                raise PhraseLensError(
                    f"--{name}",
                    "--runner=DataflowRunner beside it",
                    f"Use {program.command('submit')}.",
                )
        return
    _check_places(options)
    _check_image(options)
    _check_gpu(options, runs_networks)
    setup = options.view_as(SetupOptions)
    if setup.save_main_session:
        raise PhraseLensError(
            "--save_main_session",
            "no pickled main session",
            "Leave it out: every function of a job is imported from its module.",
        )
    setup.save_main_session = False  # Beam's own default for Dataflow is True.
    if not (flags.image or options.view_as(WorkerOptions).sdk_container_image or setup.setup_file):
        raise PhraseLensError(
            "--image", "an image, or --setup_file=./setup.py", "Workers need this project's code."
        )
    if flags.image:
        options.view_as(WorkerOptions).sdk_container_image = flags.image
        setup.sdk_location = "container"
    if flags.gpu:
        options.view_as(DebugOptions).add_experiment(ONE_PROCESS)


def _check_places(options: PipelineOptions) -> None:
    cloud = options.view_as(GoogleCloudOptions)
    if not cloud.temp_location:
        cloud.temp_location = cloud.staging_location
    examples = {
        "project": "my-project",
        "region": "us-central1",
        "temp_location": "gs://BUCKET/tmp",
    }
    for name, example in examples.items():
        if not getattr(cloud, name):
            raise PhraseLensError(f"--{name}", "a value", f"Add --{name}={example}.")
    for name in ("temp_location", "staging_location"):
        value = getattr(cloud, name)
        if value and not re.fullmatch(r"gs://[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9](/.*)?", value):
            raise PhraseLensError(
                f"--{name}={value}", "a folder of a bucket, gs://BUCKET/…", "Workers see no other."
            )
    if not re.fullmatch(r"[a-z][-a-z0-9:.]+[a-z0-9]", cloud.project):
        raise PhraseLensError(
            f"--project={cloud.project}", "a project's id", "Its name and its number are no ids."
        )
    if cloud.job_name and not re.fullmatch(r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?", cloud.job_name):
        raise PhraseLensError(
            f"--job_name={cloud.job_name}",
            "small letters, digits and hyphens, with a letter first",
            "Choose another name.",
        )


def check_image(image: str) -> None:
    """Raises PhraseLensError where an image's name does not say which version of it is meant."""
    if not re.fullmatch(r"[a-z0-9][-a-z0-9._:/]*(:[\w][\w.-]*|@sha256:[0-9a-f]{64})", image):
        raise PhraseLensError(
            f"--image={image}",
            "NAME:TAG or NAME@sha256:DIGEST",
            "Name the version, so that every worker of every run gets the same.",
        )


def _check_image(options: PipelineOptions) -> None:
    image = options.view_as(DataflowOptions).image
    if not image:
        return
    check_image(image)
    other = options.view_as(WorkerOptions).sdk_container_image
    if other and other != image:
        raise PhraseLensError(
            f"--image={image}", f"no --sdk_container_image={other} beside it", "Give one of them."
        )


def _check_gpu(options: PipelineOptions, runs_networks: bool) -> None:
    flags = options.view_as(DataflowOptions)
    for name in ("gpu", "inference_ram"):
        if getattr(flags, name) and not runs_networks:
            raise PhraseLensError(
                f"--{name}={getattr(flags, name)}",
                "a job that runs networks: embed_phrases, embed_images or classify_images",
                "Leave it out: this job would pay for it and not use it.",
            )
    if flags.inference_ram and not re.fullmatch(r"\d+(\.\d+)?[GM]i?B", flags.inference_ram):
        raise PhraseLensError(
            f"--inference_ram={flags.inference_ram}", "a size as 32GB", "Correct it."
        )
    if not flags.gpu:
        return
    if flags.gpu not in GPUS:
        near = difflib.get_close_matches(flags.gpu, GPUS, 1, 0.3)
        remedy = f"Did you mean {near[0]}?" if near else "Choose one of them."
        raise PhraseLensError(f"--gpu={flags.gpu}", f"one of {', '.join(GPUS)}", remedy)
    if flags.gpu_count not in (1, 2, 4, 8, 16):
        raise PhraseLensError(
            f"--gpu_count={flags.gpu_count}", "1, 2, 4, 8 or 16", "No machine has another number."
        )
    if not (flags.image or options.view_as(WorkerOptions).sdk_container_image):
        raise PhraseLensError(
            f"--gpu={flags.gpu}",
            "--image beside it",
            "Beam's own image has no CUDA: build deploy/Dockerfile with --build-arg VARIANT=gpu.",
        )
    cloud = options.view_as(GoogleCloudOptions)
    if cloud.flexrs_goal:
        raise PhraseLensError(
            f"--gpu={flags.gpu}", "no --flexrs_goal beside it", "FlexRS knows no resource hints."
        )
    if any("worker_accelerator" in option for option in cloud.dataflow_service_options or []):
        raise PhraseLensError(
            f"--gpu={flags.gpu}",
            "no --dataflow_service_options=worker_accelerator beside it",
            "That would give every worker a GPU; leave it out.",
        )


def local_paths(config: Any, options: PipelineOptions) -> list[str]:
    """The flags whose local paths workers of Dataflow cannot see.

    An input may lie in the workers' image, where it has been baked in under an absolute path.
    """
    image = options.view_as(WorkerOptions).sdk_container_image
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in READ_BY_LAUNCHER or (
            field.metadata["role"] != "input" and field.name != "output"
        ):
            continue
        for path in (value,) if isinstance(value, str) else value:
            baked = image and field.name != "output" and path.startswith("/")
            if path and not path.startswith(storage.GCS_PREFIX) and not baked:
                found.append(f"--{field.name}={path}")
    return found


def check_paths(config: Any, options: PipelineOptions) -> None:
    """Raises PhraseLensError where a job would read or write files that workers cannot see."""
    if found := local_paths(config, options):
        raise PhraseLensError(
            " ".join(found),
            "paths under gs://",
            "Workers of Dataflow see no file of this machine: copy them to a bucket.",
        )


def refusal(error: BaseException) -> tuple[str, Exit] | None:
    """What Google's services or Beam's checks say about a job that they do not take, or None.

    Returns:
      What to tell people, and the exit status: only what the service itself lacked may pass.
    """
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    if isinstance(error, GoogleAuthError):
        return f"{error} Log in: gcloud auth application-default login", Exit.BAD_INPUT
    if isinstance(error, GoogleAPICallError):
        return f"Google Cloud: {error}", status_of_service(error)
    if isinstance(error, ValueError) and "Pipeline has validations errors" in str(error):
        return str(error), Exit.BAD_INPUT
    return None
