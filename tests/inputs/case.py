"""Inputs that people have, and what happens with each: one list for the test and for the docs.

A module of this folder with a list CASES adds its own; nothing else has to be written.
"""

import contextlib
import dataclasses
import importlib
import io
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path

import tests.inputs


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of docs/use/inputs.md.

    Attributes:
      kind: the row's group, such as "times".
      example: the input in plain words, such as "`2023-11-14 22:13:20 UTC` (BigQuery)".
      happens: what people see, such as "read" or the first line of the error; what `run` returns.
      run: an empty folder → what happened. It makes the input there, hands it to the product's own
        code, and says in a line what came of it.
      slow: whether only `./run.sh test --all` runs it.
    """

    kind: str
    example: str
    happens: str
    run: Callable[[Path], str]
    slow: bool = False


def all_cases() -> list[Case]:
    """The cases of all modules of this folder, in the order of the modules' names."""
    names = sorted(module.name for module in pkgutil.iter_modules(tests.inputs.__path__))
    modules = [importlib.import_module(f"tests.inputs.{n}") for n in names if n != "__main__"]
    return [case for module in modules for case in getattr(module, "CASES", ())]


def command(
    run: Callable[[Sequence[str]], int], folder: Path, *argv: object
) -> tuple[int, str, str]:
    """Runs a command in this process.

    Args:
      run: its `run` function.
      folder: the case's folder, which is not named in what is returned.
      argv: its flags.

    Returns:
      Its exit status, and what it printed to standard output and standard error.
    """
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            status = run([str(value) for value in argv])
        except SystemExit as stop:  # argparse refuses a flag
            status = stop.code if isinstance(stop.code, int) else 1
    texts = (text.getvalue().replace(f"{folder}/", "") for text in (printed, errors))
    out, err = texts
    return status, out, err


def error_of(result: tuple[int, str, str]) -> str:
    """What a refused command said: "refused: " and the first line of its error.

    Raises:
      AssertionError: it was not refused, or a traceback told why.
    """
    status, _, errors = result
    assert status, "the command was not refused"
    assert "Traceback" not in errors, errors
    lines = [line for line in errors.splitlines() if "error: " in line]
    assert lines, errors
    return "refused: " + lines[0].partition("error: ")[2]
