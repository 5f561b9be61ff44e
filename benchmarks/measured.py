"""What a benchmark has measured, for people: printed, and with --write a page of docs/measured."""

import dataclasses
import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.runs import command_line

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "measured"

_PAGE = """\
# {title}

Written by the command; [{source}](../../{source}) says what is measured, and how.

| | |
|---|---|
| command | `{command}` |
| date | {date} |
| commit | {commit} |
| machine | {machine} |

{text}
"""


def main(
    config: type,
    module: str,
    doc: str | None,
    argv: Sequence[str] | None,
    work: Callable[[Any], str],
) -> int:
    """Runs a benchmark, whose flags are those of its config and `--write PAGE`.

    Args:
      config: a frozen dataclass of flags.
      module: the benchmark's file, as `__file__` says it.
      doc: the benchmark's docstring, whose first line becomes the page's title.
      argv: the command line; None takes that of the process.
      work: measures, and returns what people shall see, as Markdown. What it prints itself is
        progress, and gets on no page.

    Returns:
      The exit status; see `schemas.base.errors.Exit`.
    """
    name = Path(module).stem
    help = f"Page of docs/measured that this makes anew, such as {name}."
    write = ("write", str, flag(help, default="", role="runtime"))
    flags = dataclasses.make_dataclass(config.__name__, [write], bases=(config,), frozen=True)

    def measure(given: Any) -> None:
        if not re.fullmatch(r"[a-z_]*", given.write):
            raise PhraseLensError(f"--write {given.write}", "a name of a-z and _", f"As {name}.")
        here = machine()  # with the load that others put on it
        text = work(given).strip("\n")
        print(f"\n{text}")
        if given.write:
            title = (doc or name).strip().splitlines()[0].rstrip(".")
            words = sys.argv[1:] if argv is None else argv
            path = PAGES / f"{given.write}.md"
            path.write_text(page(title, Path(module), words, here, text), encoding="utf-8")
            print(f"\nwrote {path.relative_to(PAGES.parents[1])}")

    return command_line.main(flags, f"bench {name}", doc, argv, measure)


def table(names: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A table in Markdown: a name for each column, and cells as they are shown.

    Args:
      names: what stands above the columns.
      rows: cells, as many as there are names.
      texts: so many columns hold words and stand left; those after them hold figures.
    """
    lines = [names, ["---"] * texts + ["---:"] * (len(names) - texts), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(title: str, module: Path, words: Sequence[str], here: str, text: str) -> str:
    """A page: what was measured, by which command, when, of which commit and on what machine."""
    return _PAGE.format(
        title=title,
        source=module.resolve().relative_to(ROOT),
        command=command(module.stem, words),
        date=datetime.datetime.now(datetime.UTC).date(),
        commit=commit(),
        machine=here,
        text=text,
    )


def command(name: str, words: Sequence[str]) -> str:
    """The command as anybody can give it: of paths of this machine, the last part alone."""
    shown = [re.sub(r"(^|[=,])[/~][^,]*/", r"\1", word) for word in words]
    return shlex.join(["./run.sh", "bench", name, *shown])


def commit() -> str:
    """The commit that was measured; says so where files beside the docs differ from it."""
    found = _git("rev-parse", "--short=10", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return (found or "unknown: no repository") + (", with changes" if changed else "")


def _git(*words: str) -> str:
    """What git says of this repository; nothing where there is none."""
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, encoding="utf-8").stdout.strip()


def machine() -> str:
    """Cores, memory, model and load of this machine, and nothing that names it."""
    models = re.findall(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    model = models[0] if models else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = f"load of {os.getloadavg()[0]:.1f} at the start"
    return f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {model}, {load}"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
