"""Asks a stage whether it takes its flags, long before its turn comes."""

import contextlib
import dataclasses
import difflib
import importlib
import io
import re
import typing
from collections.abc import Sequence
from typing import Any

from schemas.base.errors import PhraseLensError
from schemas.runs import command, command_line

# Of each stage the run decides where it writes, and whether it runs.
OF_THE_RUN = ("output", "dry_run")
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def check(stage: str, module: str, argv: Sequence[str]) -> None:
    """Parses a stage's command line as the stage will, and starts nothing.

    A trainer is imported in under a second; the first Beam job brings Beam along, which takes
    some seconds.

    Args:
      stage: its name, for the error.
      module: what `python -m` runs.
      argv: its flags.

    Raises:
      PhraseLensError: a flag is unknown, or a value is not of its type, its choices or its range.
    """
    found = importlib.import_module(module)
    # Its own parser prints its whole usage before it says what is wrong.
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            config = _parse(found, stage, argv)
        command.weights_input(getattr(config, "weights", ""))
    except SystemExit:
        raise _refused(stage, found.Config, argv, said.getvalue()) from None
    except PhraseLensError as error:
        raise PhraseLensError(f"{stage}: {error.item}", error.expected, error.remedy) from error


def _parse(module: Any, stage: str, argv: Sequence[str]) -> Any:
    if not module.__name__.startswith("beam_jobs."):
        return command_line.parse(module.Config, stage, "", argv)
    from beam_jobs.frame import parsing

    runs_networks = hasattr(module, "JOB") and module.JOB.runs_networks
    return parsing.parse(stage, module.Config, "", argv, runs_networks)[0]


def _refused(stage: str, config: type, argv: Sequence[str], said: str) -> PhraseLensError:
    """The error for what argparse said of a flag, in its last line."""
    message = said.strip().rpartition("\n")[2].partition("error: ")[2]
    found = re.match(r"argument --(\w+)[^:]*: (.*)", message)
    if not found:
        return PhraseLensError(stage, f"flags that it takes: {message}", "Correct them.")
    name, why = found.groups()
    given = [arg for arg in argv if arg.partition("=")[0] == f"--{name}"]
    kind = typing.get_type_hints(config).get(name, str)
    choices = [f.metadata["choices"] for f in dataclasses.fields(config) if f.name == name]
    if choices and choices[0]:
        expected = f"one of {', '.join(filter(None, choices[0]))}"
    else:
        expected = _KINDS.get(kind, f"another value ({why})")
    return PhraseLensError(f"{stage}: {(given or [f'--{name}'])[-1]}", expected, "Correct it.")


def nearest(name: str, known: Sequence[str]) -> str:
    """The remedy for a name that is not known."""
    near = difflib.get_close_matches(name, known, 1)
    return f"Did you mean {near[0]}?" if near else "Correct it."
