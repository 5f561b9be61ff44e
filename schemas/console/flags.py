"""Flags made from a frozen dataclass, so that a setting is written down once.

@dataclasses.dataclass(frozen=True)
class Config:
    log: str = flag("Click log.", role="input")
    num_shards: int = flag("Shards of every table.", default=4)
"""

import argparse
import dataclasses
import difflib
import math
import re
import shlex
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from schemas.base.errors import PhraseLensError
from schemas.console import log_lines, program, quiet

_REQUIRED = object()
_TITLES = {
    "input": "inputs",
    "setting": "settings",
    "output": "output and runtime",
    "runtime": "output and runtime",
}
_LARGEST = 2**63 - 1  # what tables, NumPy and TensorFlow hold


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Which numbers a flag takes; None where there is no such bound.

    Attributes:
      minimum, maximum: the least and the greatest.
      above, below: what it must be greater and less than.
    """

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        words = {
            "above": self.above,
            "at least": self.minimum,
            "below": self.below,
            "at most": self.maximum,
        }
        return " and ".join(f"{word} {n:,}" for word, n in words.items() if n is not None)


def flag(
    help: str,
    *,
    default: Any = _REQUIRED,
    role: str = "setting",
    choices: Sequence[str] | None = None,
    numbers: type | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    essential: bool | None = None,
) -> Any:
    """A field of a config that is also a flag.

    Args:
      help: what the flag does, with units; its default is added by itself.
      default: the value without the flag; a flag without one is required.
      role: "setting" decides rows and is part of the stage's fingerprint; "input" is a path whose
        content is, or some, with commas between them; "output" is a path that is written;
        "runtime" decides where or how fast, never which rows.
      choices: the values allowed.
      numbers: int or float where a flag of several words holds numbers.
      minimum, maximum, above, below: the numbers allowed, as of `Bounds`; every number has a least.
      essential: whether --help shows it, and not only --help-all; without a word it does where the
        flag is required, an input or an output.
    """
    bounds = Bounds(minimum, maximum, above, below)
    metadata = {
        "help": help,
        "role": role,
        "choices": choices,
        "numbers": numbers,
        "bounds": bounds,
        "essential": essential,
    }
    if default is _REQUIRED:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def is_essential(field: dataclasses.Field) -> bool:
    """Whether --help shows a flag."""
    said = field.metadata["essential"]
    is_needed = field.default is dataclasses.MISSING
    return said if said is not None else is_needed or field.metadata["role"] in ("input", "output")


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


def _boolean(name: str, text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise PhraseLensError(f"--{name}={text}", "true or false", f"Or just --{name}, for true.")


def _number(name: str, kind: type, bounds: Bounds, text: str) -> Any:
    """A number within its bounds; of whole ones none that 64 bits do not hold."""
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and bounds.hold(value) and abs(value) <= _LARGEST:
        return value
    expected = "a whole number" if kind is int else "a number"
    limits = f", {bounds}" if str(bounds) else ""
    raise PhraseLensError(f"--{name}={text}", f"{expected}{limits}", "Give another value.")


def _list(name: str, numbers: type | None, bounds: Bounds, text: str) -> tuple[str, ...]:
    parts = tuple(part for part in text.split(",") if part)
    if numbers:
        for part in parts:
            _number(name, numbers, bounds, part)
    return parts


def value_type(hint: Any) -> type:
    """The type of a flag's values: str, int, float, bool or tuple."""
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    return typing.get_origin(hint) or hint


def _reader(field: dataclasses.Field, kind: type) -> Callable[[str], Any]:
    """text → value of a flag. Raises PhraseLensError."""
    name, bounds = field.name, field.metadata["bounds"]
    if kind is bool:
        return lambda text: _boolean(name, text)
    if kind in (int, float):
        return lambda text: _number(name, kind, bounds, text)
    if kind is tuple:
        if field.metadata["role"] == "input":
            from schemas.base import places  # `doctor` runs before what it needs is installed

            return places.split
        return lambda text: _list(name, field.metadata["numbers"], bounds, text)
    return str


class _Help(argparse.Action):
    """Prints the help, with every flag where it is --help-all, and ends."""

    def __call__(self, parser: Any, _: Any, __: Any, option: str | None = None) -> None:
        print(parser.help_text(everything=option == "--help-all"), end="")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """An argument parser that says in one line what is wrong, as a PhraseLensError.

    Args:
      command: what people type after the program's name.
      description: the help text, in which commands are written with `./run.sh`.
      is_part: whether it reads some of a command's flags, and another parser the rest.

    Attributes:
      further: names of the flags that --help leaves to --help-all.
      others: what makes the parser of flags that are taken too, such as Beam's; None without.
      others_title: how the help calls these.
    """

    def __init__(self, command: str, description: str | None = "", *, is_part: bool = False):
        super().__init__(
            program.command(command),
            description=program.in_text(description or ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.further = {"help_all", "verbose", "log_format"}
        self.others: Callable[[], argparse.ArgumentParser] | None = None
        self.others_title = ""
        if not is_part:
            self.add_argument(
                "-h", "--help", action=_Help, nargs=0, help="show what is needed first"
            )
            self.add_argument("--help-all", action=_Help, nargs=0, help="show all flags")
            quiet.add_flag(self)
            log_lines.add_flag(self)

    def help_text(self, everything: bool) -> str:
        """What --help prints, or --help-all where it is everything."""
        formatter = self._get_formatter()
        formatter.add_usage(self._usage().replace("%", "%%"), (), ())
        formatter.add_text(self.description)
        groups = [(group.title, group._group_actions) for group in self._action_groups]
        if everything and self.others:
            known = self._option_string_actions
            actions = [a for a in self.others()._actions if a.option_strings[0] not in known]
            groups.append((self.others_title, actions))
        for title, actions in groups:
            formatter.start_section(title)
            formatter.add_arguments(a for a in actions if everything or a.dest not in self.further)
            formatter.end_section()
        if not everything:
            left = sum(action.dest in self.further for action in self._actions)
            others = f", and {self.others_title}" if self.others else ""
            formatter.add_text(f"{left} more flags{others}: {self.prog} --help-all")
        return formatter.format_help()

    def _usage(self) -> str:
        """The command with what it needs."""
        words = [self.prog]
        for action in self._actions:
            # While a command line is read, none of them is: see `read_known`.
            if action.option_strings and (action.required or action.default is _REQUIRED):
                words.append(f"{action.option_strings[0]} {action.metavar or 'VALUE'}")
        words += [_positional(action) for action in self._actions if not action.option_strings]
        return textwrap.fill(
            " ".join([*words, "[FLAGS]"]), 92, subsequent_indent="  ", break_on_hyphens=False
        )

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"argument ([^:]+): invalid (\w+) value: '(.*)'$", message, re.DOTALL)
        if wrong:  # of a flag of Beam's, which argparse reads by itself
            kind = {"int": "a whole number", "float": "a number"}.get(wrong[2], wrong[2])
            raise PhraseLensError(f"{wrong[1]}={wrong[3]}", kind, "Give another value.")
        found = re.match(r"argument ([^:]+): (?:expected )?(.*)", message, re.DOTALL)
        missing = re.match(r"the following arguments are required: (.*)", message, re.DOTALL)
        if missing:
            raise PhraseLensError(missing[1], "a value", "Give it; see --help.")
        item, expected = (found[1], found[2]) if found else (self.prog, message)
        raise PhraseLensError(item, expected, "See --help.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            item = f"{action.option_strings[0]}=" if action.option_strings else ""
            near = difflib.get_close_matches(str(value), names, 1)
            remedy = f"Did you mean {near[0]}?" if near else "See --help."
            raise PhraseLensError(f"{item}{value}", f"one of {', '.join(names)}", remedy)

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The values of a command line.

        Raises:
          PhraseLensError: flags are unknown or missing, all of which it names, or a value is none.
        """
        args, leftover = self.read_known(argv)
        self.refuse(args, leftover)
        return args

    def read_known(self, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
        """As `parse_known_args`; a flag that is missing is so in the values too: see `refuse`."""
        needed = [a for a in self._actions if a.required and a.option_strings]
        defaults = [action.default for action in needed]
        for action in needed:
            action.required, action.default = False, _REQUIRED
        try:
            return self.parse_known_args(argv)
        finally:
            for action, default in zip(needed, defaults, strict=True):
                action.required, action.default = True, default

    def refuse(
        self, args: argparse.Namespace, unknown: Sequence[str], others: Sequence[str] = ()
    ) -> None:
        """Raises PhraseLensError where flags are unknown or missing.

        Args:
          args, unknown: what `read_known` returned.
          others: flags that are known elsewhere.
        """
        missing = [f"--{name}" for name, value in vars(args).items() if value is _REQUIRED]
        if unknown:
            raise unknown_flags(unknown, [*self._option_string_actions, *others], missing)
        if missing:
            raise PhraseLensError(
                " ".join(missing), "a value" if len(missing) == 1 else "values", "See --help."
            )


def _positional(action: argparse.Action) -> str:
    word = str(action.metavar or "|".join(map(str, action.choices or (action.dest,))))
    return f"{word}…" if action.nargs == "+" else word


def add_flags(parser: argparse.ArgumentParser, config: type) -> None:
    """Adds a flag for every field of the dataclass `config`."""
    titles = dict.fromkeys(_TITLES.values())
    groups = {title: parser.add_argument_group(title) for title in titles}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind = value_type(hints[field.name])
        options: dict[str, Any] = {"help": field.metadata["help"].replace("%", "%%")}
        if field.default is dataclasses.MISSING:
            options["required"] = True
        else:
            # Else an empty path that somebody gives could not be told from none.
            is_output = field.metadata["role"] == "output"
            options["default"] = argparse.SUPPRESS if is_output else field.default
            shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
            if shown not in ("", None):
                options["help"] += f" [{shown}]"
        options["type"] = _reader(field, kind)
        if kind is bool:
            options |= {"nargs": "?", "const": True, "metavar": "BOOL"}
        elif kind is tuple:
            options["metavar"] = "A,B,…"
        elif field.metadata["choices"]:
            options["choices"] = field.metadata["choices"]
        else:
            options["metavar"] = {str: "TEXT", int: "INT", float: "NUM"}[kind]
        groups[_TITLES[field.metadata["role"]]].add_argument(f"--{field.name}", **options)


def parser_for(config: type, command: str, description: str | None) -> Parser:
    """The parser of a command whose flags are the fields of the dataclass `config`."""
    parser = Parser(command, description)
    add_flags(parser, config)
    parser.further |= {f.name for f in dataclasses.fields(config) if not is_essential(f)}
    return parser


def unknown_flags(
    leftover: Sequence[str], known: Sequence[str], missing: Sequence[str] = ()
) -> PhraseLensError:
    """The error for words that nobody knows, with the nearest flags that somebody does.

    Args:
      leftover: what no parser took: flags, each perhaps with its value behind it, and words.
      known: the flags that there are.
      missing: flags that are needed and were not given.
    """
    names = [word.split("=")[0] for word in leftover if word.startswith("-")]
    if not names and any(flag.startswith("--") for flag in known):
        return PhraseLensError(
            " ".join(leftover),
            "one value for each flag",
            "Quote patterns, so that the shell leaves them as they are: --images 'images/*.jpg'",
        )
    meant, known = {}, [flag for flag in known if flag not in names]
    for name in names or leftover:
        if near := difflib.get_close_matches(name, known, 1):
            meant[name] = near[0]
    remedy = "See --help."
    if len(names) <= 1 and meant:
        remedy = f"Did you mean {next(iter(meant.values()))}?"
    elif meant:
        said = ", ".join(f"{near} for {name}" for name, near in meant.items())
        remedy = f"Did you mean {said}? See --help."
    if left := [name for name in missing if name not in meant.values()]:
        remedy += f" Missing too: {' '.join(left)}."
    return PhraseLensError(" ".join(leftover), "only known flags", remedy)
