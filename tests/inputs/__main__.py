"""Writes docs/use/inputs.md from the cases of this folder: `./run.sh test --inputs`."""

import itertools
from pathlib import Path

from tests.inputs.case import all_cases

PAGE = Path(__file__).resolve().parents[2] / "docs" / "use" / "inputs.md"
HEAD = """\
# Inputs that people have

What happens with each, as the tests see it. Each row is a test of tests/inputs, and this page is
made from them: `./run.sh test --inputs`.
"""


def text() -> str:
    """The whole page: a table for each kind."""
    parts = [HEAD]
    cases = sorted(all_cases(), key=lambda case: case.kind)
    for kind, group in itertools.groupby(cases, key=lambda case: case.kind):
        rows = [f"| {_cell(case.example)} | {_cell(case.happens)} |" for case in group]
        title = kind[0].upper() + kind[1:]
        header = [f"## {title}", "", "| example | what happens |", "|---|---|"]
        parts.append("\n".join([*header, *rows]))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(text())
    print(f"wrote {PAGE}")
