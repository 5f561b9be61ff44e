"""Settings of a run in a TOML file: a table for each stage, with the names of its flags.

  [run]                           # flags of the command itself
  workdir = "work/mine"
  images = ["photos/**", "scans/**"]

  [train_fusion]
  epochs = 50
  learning_rates = [0.001, 0.01]
  pool = true

A value becomes the text that people would have typed, so that a stage cannot tell how it was given.
"""

import dataclasses
import importlib.resources
import json
import re
import tomllib
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from beam_jobs.runs import stage_flags
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console.flags import value_type

RUN = "run"  # the table of the command's own flags
# What a file says in its tables, and where it lies.
_NOT_IN_A_FILE = ("config", "set")
_PRESETS = importlib.resources.files("configs")


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of a file.

    Attributes:
      path: of the file.
      name: a stage, or `run`.
      values: flag → value, as TOML has it: text, numbers, booleans, and lists of them.
    """

    path: str
    name: str
    values: Mapping[str, Any]

    def flags(self) -> dict[str, str]:
        """Flag → its value as on a command line."""
        return {name: _text(value) for name, value in self.values.items()}

    def item(self, name: str) -> str:
        """A flag of the table, for errors."""
        return f"{self.path}: [{self.name}] {name} = {_toml(self.values[name])}"

    def check(self, config: type) -> None:
        """Refuses values of another type than the flag's, and flags that no file may hold.

        Flags that there are not are left to the parser, which may know others than the config's.

        Args:
          config: the dataclass of the flags.

        Raises:
          PhraseLensError: names file, table, flag and remedy.
        """
        fields = {field.name: field for field in dataclasses.fields(config)}
        hints = typing.get_type_hints(config)
        for name, value in self.values.items():
            if self.name == RUN and name in _NOT_IN_A_FILE:
                expected, remedy = "no other settings", "Write the tables of the stages here."
                raise PhraseLensError(self.item(name), expected, remedy)
            if self.name != RUN and name in stage_flags.OF_THE_RUN:
                remedy = "Leave it out: workdir says where all stages write, dry_run runs none."
                raise PhraseLensError(self.item(name), "a setting of the stage", remedy)
            if name in fields:
                self._check_type(fields[name], value_type(hints[name]), value)

    def _check_type(self, field: dataclasses.Field, kind: type, value: Any) -> None:
        number = field.metadata["numbers"] or kind
        is_input = field.metadata["role"] == "input"
        if kind is tuple or (is_input and isinstance(value, list)):
            expected, example = _ITEMS.get(number, _ITEMS[str])
            of_type = _IS[number] if number in (int, float) else _is_word
            if isinstance(value, list) and all(map(of_type, value)):
                if is_input or not any("," in _text(part) for part in value):
                    return
                expected += " without commas"
        else:
            expected, example = _EXPECTED[kind]
            if _IS[kind](value):
                return
        if isinstance(value, list | dict) or kind is not str:
            remedy = f"Such as: {field.name} = {example}"
        else:
            remedy = f"Put it in quotes: {field.name} = {_toml(str(_text(value)))}"
        raise PhraseLensError(self.item(field.name), expected, remedy)

    def own(self, error: PhraseLensError, given: Collection[str]) -> PhraseLensError:
        """An error about a flag of the table, as one that names the file; any other as it is.

        Args:
          error: the error.
          given: flags that the command line gives, and not the file.
        """
        found = re.match(r"(?:\w+: )?--(\w+)", error.item)
        if found is None or found[1] not in self.values or found[1] in given:
            return error
        remedy = error.remedy.replace("Did you mean --", "Did you mean ")
        return PhraseLensError(self.item(found[1]), error.expected, remedy)


class _Float(float):
    """A number with a point, and how it was written: 1e-3 on a command line stays 1e-3, too."""

    text: str

    def __new__(cls, text: str):
        number = super().__new__(cls, text)
        number.text = text.replace("_", "")
        return number


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_word(value: Any) -> bool:
    return _is_text(value) or _is_int(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_int(value)


_IS = {
    str: _is_text,
    int: _is_int,
    float: _is_number,
    bool: lambda value: isinstance(value, bool),
}
# Type of a flag → what it takes, and an example.
_EXPECTED = {
    str: ("text in quotes", '"text"'),
    int: ("a whole number", "10"),
    float: ("a number", "0.1"),
    bool: ("true or false, without quotes", "true"),
}
_ITEMS = {
    str: ("a list of texts", '["one", "two"]'),
    int: ("a list of whole numbers", "[10, 20]"),
    float: ("a list of numbers", "[0.1, 0.2]"),
}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return value.text if isinstance(value, _Float) else str(value)


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{…}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _text(value)


def read(path: str, stages: Sequence[str]) -> dict[str, Table]:
    """The tables of a file by their names.

    Args:
      path: the file, local or gs://.
      stages: the stages there are.

    Raises:
      PhraseLensError: it is missing or no TOML, or holds something else than their tables.
    """
    if storage.size(path) is None:
        raise PhraseLensError(f"--config {path}", "a file of settings", "Correct it.")
    return _tables(path, storage.read_bytes(path), stages)


def _tables(path: str, data: bytes, stages: Sequence[str]) -> dict[str, Table]:
    try:
        found = tomllib.loads(data.decode(), parse_float=_Float)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PhraseLensError(
            path, f"TOML in UTF-8 ({error})", "Correct it; docs/use/settings.md has an example."
        ) from error
    for name, values in found.items():
        if not isinstance(values, dict):
            raise PhraseLensError(
                f"{path}: {name} = {_toml(values)}",
                "flags below the names of their stages, such as [train_fusion]",
                f"Put it below its stage's, or below [{RUN}] where it is the command's own.",
            )
        if name not in (RUN, *stages):
            raise PhraseLensError(
                f"{path}: [{name}]",
                f"{RUN} or one of the stages {', '.join(stages)}",
                stage_flags.nearest(name, [RUN, *stages]),
            )
    return {name: Table(path, name, values) for name, values in found.items()}


def presets() -> tuple[str, ...]:
    """The names of the files that come along, in `configs`."""
    names = [entry.name for entry in _PRESETS.iterdir() if entry.name.endswith(".toml")]
    return tuple(sorted(name.removesuffix(".toml") for name in names))


def preset(name: str, stages: Sequence[str]) -> dict[str, Table]:
    """The tables of a file that comes along."""
    file = f"{name}.toml"
    return _tables(f"configs/{file}", _PRESETS.joinpath(file).read_bytes(), stages)
