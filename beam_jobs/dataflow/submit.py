"""Sends a Beam job to Dataflow: what `./run.sh submit` and the Flex Templates start.

The job is drawn here, from the same flags as on one machine, and commits its dataset there by
itself. Its workers have the code from --image; without one, this code is sent along. --dry_run
prints steps, environments with resource hints, options and staged files, and sends nothing.
docs/operate/dataflow.md says what it needs.

  ./run.sh submit embed_images … --project P --region R --temp_location gs://BUCKET/tmp \\
      --image REPOSITORY/phraselens-gpu:1 --gpu nvidia-l4 [--dry_run]
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from beam_jobs.runs import stages
from schemas.base.errors import PhraseLensError, tell
from schemas.console.parser import unknown_flags

# Each Beam job and its module.
JOBS = {name: stage.module for name, stage in stages.beam_jobs().items()}
ON_GPU = tuple(name for name, stage in stages.beam_jobs().items() if stage.networks)

# What says where workers have the code from.
CODE_FLAGS = ("--image", "--sdk_container_image", "--setup_file")
SETUP = Path(__file__).resolve().parents[2] / "setup.py"


def job_module(name: str) -> ModuleType:
    """The module of a Beam job.

    Raises:
      PhraseLensError: there is no such job.
    """
    if name not in JOBS:
        error = unknown_flags([name], [*JOBS])
        raise PhraseLensError(f"--job={name}", f"one of {', '.join(JOBS)}", error.remedy)
    return importlib.import_module(JOBS[name])


def code_flags(flags: Sequence[str]) -> list[str]:
    """The flag that sends this code along, or [] where `flags` say what workers have it from.

    Code that is installed, as in an image, has no setup.py and cannot be sent.
    """
    said = any(flag.partition("=")[0] in CODE_FLAGS for flag in flags)
    return [] if said or not SETUP.exists() else [f"--setup_file={SETUP}"]


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--job", default="")
    args, flags = parser.parse_known_args(argv)
    try:
        # Imported by its name, so that workers find its functions under it, not in __main__.
        module = job_module(args.job)
    except PhraseLensError as error:
        return tell(error)
    if not any(flag.startswith("--runner") for flag in flags):
        flags.append("--runner=DataflowRunner")
    return module.run([*flags, *code_flags(flags)])


if __name__ == "__main__":
    sys.exit(run())
