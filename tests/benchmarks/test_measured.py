"""A benchmark's figures are printed, and --write makes a page of them that names no machine."""

import dataclasses
import platform
import re
import socket
from pathlib import Path

import pytest

from benchmarks import measured
from schemas.console.flags import flag

TOY = str(measured.ROOT / "benchmarks" / "runs" / "toy.py")
DOC = """How heavy toys are.

  ./run.sh bench toy
"""


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = flag("Folder.", role="output")
    toys: int = flag("How many.", default=2, minimum=1)


def work(config: Config) -> str:
    print("weighing")
    return measured.table(
        ("toy", "grams"), [(f"{toy}", f"{7 * toy}") for toy in range(config.toys)]
    )


TABLE = "| toy | grams |\n| --- | ---: |\n| 0 | 0 |\n| 1 | 7 |"


@pytest.fixture
def pages(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "docs" / "measured"
    folder.mkdir(parents=True)
    monkeypatch.setattr(measured, "PAGES", folder)
    return folder


def run(*flags: str) -> int:
    return measured.main(Config, TOY, DOC, list(flags), work)


def test_figures_are_printed_and_written_where_that_is_asked_for_alone(pages, tmp_path, capsys):
    assert run(f"--workdir={tmp_path}/w") == 0
    assert TABLE in capsys.readouterr().out
    assert list(pages.iterdir()) == []


def test_a_page_says_what_was_measured_how_when_of_what_and_where(pages, tmp_path, capsys):
    assert run(f"--workdir={tmp_path}/w", "--write=toy") == 0
    printed = capsys.readouterr().out
    assert TABLE in printed
    assert "wrote docs/measured/toy.md" in printed
    page = (pages / "toy.md").read_text()
    assert page.startswith("# How heavy toys are\n")
    assert page.endswith(f"\n\n{TABLE}\n")
    assert "weighing" not in page, "what is printed on the way is no figure"
    told = dict(re.findall(r"^\| (\w+) \| (.+) \|$", page, re.MULTILINE))
    assert told["command"] == "`./run.sh bench toy --workdir=w --write=toy`"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", told["date"])
    assert re.match(r"[0-9a-f]{10}\b|unknown", told["commit"])
    machine = r"\d+ cores, \d+ GiB of memory, \S.*, load of \d+\.\d at the start"
    assert re.fullmatch(machine, told["machine"])
    for name in (str(tmp_path), str(measured.ROOT), socket.gethostname(), platform.node()):
        assert name not in page


def test_a_page_is_made_anew_and_others_stay(pages, tmp_path):
    (pages / "other.md").write_text("other")
    assert run(f"--workdir={tmp_path}", "--write=toy") == 0
    assert run(f"--workdir={tmp_path}", "--write=toy", "--toys=1") == 0
    assert "| 1 | 7 |" not in (pages / "toy.md").read_text()
    assert (pages / "other.md").read_text() == "other"


def test_a_page_is_named_and_no_path(pages, tmp_path, capsys):
    assert run(f"--workdir={tmp_path}", "--write=../toy") == 2
    assert "--write ../toy: expected a name of a-z and _" in capsys.readouterr().err
    assert list(pages.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("--data=/a/b/data", "--data=data"),
        ("/a/b.h5", "b.h5"),
        ("~/x/y", "y"),
        ("--images=/a/b/*.jpg,/c/d/*.png", "'--images=*.jpg,*.png'"),
        ("--share=1/2", "--share=1/2"),
        ("work/embed", "work/embed"),
    ],
)
def test_of_paths_of_this_machine_the_last_part_is_shown(word, shown):
    assert measured.command("toy", [word]) == f"./run.sh bench toy {shown}"
