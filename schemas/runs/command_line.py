"""Parses the command line of a command, whose inputs may lie in a snapshot."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from schemas.base import places
from schemas.base.errors import PhraseLensError, tell
from schemas.console import heartbeat
from schemas.console.parser import parser_for
from schemas.runs import inputs


def from_args(config: type, args: argparse.Namespace) -> Any:
    """The config of parsed flags, whose paths are those that people mean.

    An input in the snapshot in use is resolved here, and once.

    Raises:
      PhraseLensError: a path is none that can be read or written, or a needed one is empty.
    """
    pointers = inputs.Resolver()
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        name, role = field.name, field.metadata["role"]
        value: Any = getattr(args, name, field.default)
        values[name] = value
        if role == "output" and hasattr(args, name):
            values[name] = places.output_of(name, value)
        if role != "input":
            continue
        paths = places.split(value) if isinstance(value, str) else value
        if not paths and (value or field.default is dataclasses.MISSING):
            raise PhraseLensError(f"--{name} {value or ''!r}", "a path", "See --help.")
        paths = tuple(places.place_of(name, path) for path in paths)
        values[name] = pointers.resolve(",".join(paths)) if isinstance(value, str) else paths
    return config(**values)


def parse(config: type, command: str, description: str | None, argv: Sequence[str] | None) -> Any:
    """Parses a command line that has no flags but the config's.

    Raises:
      PhraseLensError: a flag is unknown, missing, or has a value that it cannot have.
    """
    return from_args(config, parser_for(config, command, description).read(argv))


def main(
    config: type,
    command: str,
    doc: str | None,
    argv: Sequence[str] | None,
    work: Callable[[Any], None],
) -> int:
    """A command that has no dataset of its own: parses its flags and works.

    Args:
      config: the dataclass of its flags.
      command: what people type after the program's name.
      doc: the module's docstring, shown by `--help`.
      argv: flags, or None for those of the process.
      work: does the work.

    Returns:
      The exit status; see `schemas.base.errors.Exit`.
    """
    try:
        parsed = parse(config, command, doc, argv)
        with heartbeat.doing(command):
            work(parsed)
    except Exception as error:
        return tell(error)
    return 0
