"""Flags made from a frozen dataclass, so that a setting is written down once.

@dataclasses.dataclass(frozen=True)
class Config:
    log: str = flag("Click log.", role="input")
    num_shards: int = flag("Shards of every table.", default=4)
"""

import argparse
import dataclasses
import difflib
import shlex
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from schemas import heartbeat, quiet, snapshots
from schemas.errors import PhraseLensError

_REQUIRED = object()


def flag(
    help: str,
    *,
    default: Any = _REQUIRED,
    role: str = "setting",
    choices: Sequence[str] | None = None,
) -> Any:
    """A field of a config that is also a flag.

    Args:
      help: what the flag does, with units; its default is added by itself.
      default: the value without the flag; a flag without one is required.
      role: "setting" decides rows and is part of the stage's fingerprint; "input" is a path whose
        content is; "runtime" decides where or how fast, never which rows.
      choices: the values allowed.
    """
    metadata = {"help": help, "role": role, "choices": choices}
    if default is _REQUIRED:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings(config: Any) -> dict[str, Any]:
    """The values that decide rows, by name: what a stage's fingerprint is made of."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.metadata["role"] == "setting"
    }


def shown(config: Any) -> list[str]:
    """The flags of a config for people, in one line: those that are not as they are by default.

    With --verbose it is all of them. Where it writes, each command says by itself.
    """
    words = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        told = field.name in ("output", "dry_run")
        if not told and (quiet.verbose() or value != field.default):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            text = text.lower() if isinstance(value, bool) else text
            words.append(shlex.quote(f"--{field.name}={text}"))
    return [" ".join(words)] if words else []


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def _list(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def add_flags(parser: argparse.ArgumentParser, config: type) -> None:
    """Adds a flag for every field of the dataclass `config`."""
    titles = {"input": "inputs", "setting": "settings", "runtime": "output and runtime"}
    groups = {role: parser.add_argument_group(title) for role, title in titles.items()}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = hints[field.name]
        if isinstance(kind, types.UnionType):
            kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
        options: dict[str, Any] = {"help": field.metadata["help"].replace("%", "%%")}
        if field.default is dataclasses.MISSING:
            options["required"] = True
        else:
            options["default"] = field.default
            shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
            if shown not in ("", None):
                options["help"] += f" [{shown}]"
        if kind is bool:
            options |= {"type": _boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
        elif typing.get_origin(kind) is tuple:
            options |= {"type": _list, "metavar": "A,B,…"}
        else:
            options |= {"type": kind, "choices": field.metadata["choices"]}
            if not field.metadata["choices"]:
                options["metavar"] = {str: "TEXT", int: "INT", float: "NUM"}[kind]
        groups[field.metadata["role"]].add_argument(f"--{field.name}", **options)


def parser_for(config: type, prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser, config)
    quiet.add_flag(parser)
    return parser


def from_args(config: type, args: argparse.Namespace) -> Any:
    """The config of parsed flags; an input in the snapshot in use is resolved here, and once."""
    pointers = snapshots.Resolver()
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(config)}
    for field in dataclasses.fields(config):
        if field.metadata["role"] == "input" and isinstance(values[field.name], str):
            values[field.name] = pointers.resolve(values[field.name])
    return config(**values)


def unknown_flags(leftover: Sequence[str], known: Sequence[str]) -> PhraseLensError:
    """The error for flags that nobody knows, with the nearest one that somebody does."""
    name = leftover[0].split("=")[0]
    near = difflib.get_close_matches(name, known, 1)
    remedy = f"Did you mean {near[0]}?" if near else "See --help."
    return PhraseLensError(" ".join(leftover), "only known flags", remedy)


def parse(config: type, prog: str, description: str, argv: Sequence[str] | None) -> Any:
    """Parses a command line that has no flags but the config's.

    Raises:
      PhraseLensError: a flag is unknown.
    """
    parser = parser_for(config, prog, description)
    args, leftover = parser.parse_known_args(argv)
    if leftover:
        raise unknown_flags(leftover, list(parser._option_string_actions))
    return from_args(config, args)


def main(
    config: type,
    prog: str,
    doc: str | None,
    argv: Sequence[str] | None,
    work: Callable[[Any], None],
) -> int:
    """A command that has no dataset of its own: parses its flags and works.

    Returns:
      The exit status: 0, or 2 where a PhraseLensError says what is wrong.
    """
    try:
        parsed = parse(config, prog, doc or "", argv)
        with heartbeat.doing(prog.removeprefix("./run.sh ")):
            work(parsed)
    except PhraseLensError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
