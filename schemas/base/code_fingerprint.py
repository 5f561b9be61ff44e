"""Fingerprint of code: names what a stage's rows are made by, so that a change makes them anew.

A stage is skipped when its settings, its inputs and this fingerprint are those of a committed run.
It covers the modules that make the rows and all project modules that they import, and it leaves out
what decides no byte of them: comments, docstrings, help texts, and the modules of `FRAME`.
"""

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from schemas.base import fingerprint
from schemas.base.errors import PhraseLensError

IMPORTERS = ("import_module", "__import__")
PACKAGES = frozenset({"beam_jobs", "transforms", "model_code", "schemas", "samples"})
# What runs a stage and decides no byte of its rows: how flags are parsed (their values are settings
# of the run), how a graph is run and shown, what people are told meanwhile. Neither these nor what
# they alone import is part of a fingerprint.
FRAME = frozenset(
    {
        "beam_jobs.frame.ceiling_flags",
        "beam_jobs.frame.code_check",
        "beam_jobs.dataflow.checks",
        "beam_jobs.dataflow.flags",
        "beam_jobs.dataflow.hints",
        "beam_jobs.dataflow.plan",
        "beam_jobs.frame.execution",
        "beam_jobs.frame.job",
        "beam_jobs.frame.local_runner",
        "beam_jobs.frame.parsing",
        "beam_jobs.mining.check",
        "beam_jobs.frame.stateless",
        "beam_jobs.frame.worker_options",
        "schemas.runs.command",
        "schemas.console.progress",
        "schemas.base.code_fingerprint",
        "schemas.console.flags",
        "schemas.base.errors",
        "schemas.console.heartbeat",
        "schemas.console.launch",
        "schemas.console.parser",
        "schemas.console.log_lines",
        "schemas.console.program",
        "schemas.console.quiet",
        "schemas.runs.command_line",
        "schemas.runs.inputs",
        "schemas.runs.pointer",
        "schemas.runs.snapshots",
    }
)


def of_code(modules: Iterable[str]) -> str:
    """Hex SHA-256 over modules and all project modules that they import, nested or not.

    Args:
      modules: dotted names; their own top-level packages count as the project's, too.

    Raises:
      PhraseLensError: one of them has no source.
    """
    return fingerprint.of_json(sources_of(modules))


def sources_of(modules: Iterable[str]) -> dict[str, str]:
    """Name → hex SHA-256 of the syntax of each module that `of_code` covers."""
    given = list(modules)
    packages = PACKAGES | {name.split(".")[0] for name in given}
    for name in given:
        if _source(name) is None:
            raise PhraseLensError(f"module {name}", "one with a source", "Correct its name.")
    pending, found = given, {}
    while pending:
        name = pending.pop()
        if name in found or name in FRAME or name.split(".")[0] not in packages:
            continue
        if (source := _source(name)) is not None:
            found[name], imported = source
            # To import a module runs the packages that it lies in.
            pending += [*imported, *_parents(name)]
    return found


@functools.cache  # one process may run many stages
def _source(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Hex SHA-256 of a module's syntax, and what it imports; None where it has no source."""
    path = _path(name)
    if path is None:
        return None
    tree = _without_prose(ast.parse(path.read_text(encoding="utf-8")))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    syntax = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return syntax, tuple(_imported(tree, package))


def _path(name: str) -> Path | None:
    """The file of a module; None of what is a name in one.

    Found without importing anything, which `find_spec` does with all that a module lies in: with
    the module itself, where it is asked for a name in it.
    """
    top, *parts = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path, package = Path(spec.origin), top
    for part in parts:
        if path.name != "__init__.py":
            return None
        # A package that is loaded may have folders beside its own.
        folders = getattr(sys.modules.get(package), "__path__", [path.parent])
        places = [
            place
            for folder in map(Path, folders)
            for place in (folder / part / "__init__.py", folder / f"{part}.py")
            if place.exists()
        ]
        if not places:
            return None
        path, package = places[0], f"{package}.{part}"
    return path


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _without_prose(tree: ast.Module) -> ast.Module:
    """A module without docstrings, what is said of flags, and what only a type checker imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            is_prose = node.body and ast.get_docstring(node, clean=False) is not None
            node.body = node.body[1:] if is_prose else node.body
        elif isinstance(node, ast.Call) and _last_name(node.func) == "flag":
            node.args = node.args[1:]
            node.keywords = [word for word in node.keywords if word.arg != "essential"]
        elif isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            node.body = []
    return tree


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The modules that a module of `package` imports: in every form of the import statement, and
    by `import_module` where it is given a text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _last_name(node.func) in IMPORTERS:
            given = node.args[0] if node.args else None
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                yield importlib.util.resolve_name(given.value, package)


def _last_name(node: ast.expr) -> str:
    """`c` of `a.b.c`; "" of what is no name."""
    return getattr(node, "attr", getattr(node, "id", ""))
