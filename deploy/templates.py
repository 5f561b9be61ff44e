"""Writes the Flex Template of a Beam job: its image, and its flags as parameters.

A template is a JSON file in a bucket from which people, a scheduler or the console start the job
without this repository. Dataflow checks the parameters against it before anything starts.

  ./run.sh template embed_images --image REPOSITORY/phraselens:1 \\
      --output gs://BUCKET/templates/embed_images.json
  ./run.sh template all --image REPOSITORY/phraselens:1 --output gs://BUCKET/templates
  ./run.sh template embed_images                     the metadata alone, printed
"""

import dataclasses
import json
import re
import sys
import typing
from collections.abc import Sequence
from typing import Any

from beam_jobs.dataflow import checks as dataflow
from beam_jobs.dataflow import flags, submit
from schemas.base import places, storage
from schemas.base.errors import PhraseLensError, tell
from schemas.console.flags import value_type
from schemas.console.parser import Parser

# What a value must look like, by its type. Lists are values with commas between them.
NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
REGEXES = {bool: r"^(true|false)$", int: r"^[-+]?\d+$", float: NUMBER}
TYPES = {bool: "BOOLEAN", int: "NUMBER", float: "NUMBER", str: "TEXT", tuple: "TEXT"}
GROUPS = {
    "input": "Inputs",
    "setting": "Settings",
    "output": "Output and runtime",
    "runtime": "Output and runtime",
}
# Templates are submitted, not looked at; their image is the one that holds the code.
LEFT_OUT = ("dry_run", "image")


def parameter(field: dataclasses.Field, kind: type) -> dict[str, Any]:
    """A flag as a template's parameter."""
    has_default = field.default is not dataclasses.MISSING
    found: dict[str, Any] = {
        "name": field.name,
        "label": field.name.replace("_", " ").capitalize(),
        "helpText": field.metadata["help"],
        "isOptional": has_default,
        "paramType": TYPES[kind],
        "groupName": GROUPS[field.metadata["role"]],
    }
    if field.metadata["choices"]:
        choices = list(field.metadata["choices"])
        found |= {"paramType": "ENUM", "enumOptions": [{"value": c, "label": c} for c in choices]}
        found["regexes"] = [f"^({'|'.join(map(re.escape, choices))})$"]
    elif kind in REGEXES:
        found["regexes"] = [REGEXES[kind]]
    default: Any = field.default
    if has_default and default not in ("", (), None):
        default = ",".join(default) if kind is tuple else default
        found["defaultValue"] = str(default).lower() if kind is bool else str(default)
    return found


def metadata(job: str) -> dict[str, Any]:
    """A job's name, description and parameters, as Dataflow wants them.

    Raises:
      PhraseLensError: there is no such job.
    """
    module = submit.job_module(job)
    configs = [module.Config]
    if job in submit.ON_GPU:
        configs.append(flags.Flags)
    parameters = [
        parameter(field, value_type(typing.get_type_hints(config)[field.name]))
        for config in configs
        for field in dataclasses.fields(config)
        if field.name not in LEFT_OUT
    ]
    which = {
        "name": "job",
        "label": "Job",
        "helpText": f"Which job of the image runs: {job}.",
        "isOptional": False,
        "regexes": [f"^{job}$"],
        "paramType": "TEXT",
        "groupName": GROUPS["runtime"],
        "defaultValue": job,
    }
    return {
        "name": f"PhraseLens {job}",
        "description": (module.__doc__ or "").partition("\n")[0],
        "parameters": [which, *parameters],
    }


def container_spec(job: str, image: str) -> dict[str, Any]:
    """A job's template. Workers run the launcher's own image."""
    return {
        "image": image,
        "sdkInfo": {"language": "PYTHON"},
        "metadata": metadata(job),
        "defaultEnvironment": {"sdkContainerImage": image},
    }


def to_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write(job: str, image: str, output: str) -> list[str]:
    """Writes the template of a job, or of all into a folder; returns their paths."""
    dataflow.check_image(image)
    paths = {job: output}
    if job == "all":
        paths = {name: storage.join(output, f"{name}.json") for name in submit.JOBS}
    for name, path in paths.items():
        storage.write_bytes(path, to_json(container_spec(name, image)).encode())
    return list(paths.values())


def run(argv: Sequence[str] | None = None) -> int:
    parser = Parser("template", __doc__)
    parser.add_argument("job", metavar="JOB", help="a Beam job, or all")
    parser.add_argument("--image", help="image that deploy/Dockerfile made, with its tag")
    parser.add_argument("--output", help="file of the template (for all: folder); local or gs://")
    try:
        args = parser.read(argv)
        if bool(args.image) != (args.output is not None):
            raise PhraseLensError("--image, --output", "both or neither", "Add the other one.")
        if args.output is not None:
            output = places.output_of("output", args.output)
            for path in write(args.job, args.image, output):
                print(f"wrote {path}")
        else:
            for job in submit.JOBS if args.job == "all" else (args.job,):
                print(to_json(metadata(job)), end="")
    except PhraseLensError as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(run())
