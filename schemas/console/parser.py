"""The parser of a command line, whose flags are the fields of a config; and its help."""

import argparse
import contextvars
import dataclasses
import difflib
import re
import textwrap
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from schemas.base.errors import PhraseLensError
from schemas.console import log_lines, program, quiet
from schemas.console.flags import is_essential, reader, value_type

_MISSING = object()
_TITLES = {
    "input": "inputs",
    "setting": "settings",
    "output": "output and runtime",
    "runtime": "output and runtime",
}


_is_asked: contextvars.ContextVar[bool] = contextvars.ContextVar("is_asked", default=False)


class _Asked(BaseException):
    """Carries a parser out of the command that made it."""

    def __init__(self, parser: "Parser"):
        super().__init__()
        self.parser = parser


def parser_of(run: Callable[[list[str]], int], argv: Sequence[str]) -> "Parser":
    """The parser that a command makes for its flags; it does nothing else.

    Args:
      run: the command, which reads its flags before it works.
      argv: what says which command it is, where several share a module.
    """
    token = _is_asked.set(True)
    try:
        run([*argv])
    except _Asked as answer:
        return answer.parser
    finally:
        _is_asked.reset(token)
    raise TypeError(f"{run.__module__} reads no flags")


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
            if action.option_strings and (action.required or action.default is _MISSING):
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
        if _is_asked.get():
            raise _Asked(self)
        needed = [a for a in self._actions if a.required and a.option_strings]
        defaults = [action.default for action in needed]
        for action in needed:
            action.required, action.default = False, _MISSING
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
        missing = [f"--{name}" for name, value in vars(args).items() if value is _MISSING]
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
        options["type"] = reader(field, kind)
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
