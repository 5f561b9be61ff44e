"""Flags made from a frozen dataclass, so that a setting is written down once.

@dataclasses.dataclass(frozen=True)
class Config:
    log: str = flag("Click log.", role="input")
    num_shards: int = flag("Shards of every table.", default=4)
"""

import dataclasses
import math
import shlex
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from schemas.base.errors import PhraseLensError
from schemas.console import quiet

_REQUIRED = object()
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


def reader(field: dataclasses.Field, kind: type) -> Callable[[str], Any]:
    """Text on a command line → value of a flag. Raises PhraseLensError."""
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
