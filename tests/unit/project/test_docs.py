"""Pages lead where they say: their links, their anchors, the files that they name, the index."""

import re

import pytest

from tests.support.datasets.work_folder import ROOT

DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
FOLDERS = ("use", "how_it_works", "operate", "measured")
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
# Written from the cases of tests/inputs, which decide how long its cells are.
PROSE = [page for page in PAGES if page.name != "inputs.md"]
LONGEST = 600  # characters of a paragraph: six lines
OURS = "beam_jobs|transforms|model_code|schemas|samples|phraselens|deploy|benchmarks|tests|examples"


def by_path(path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text: str) -> list[str]:
    """Where a page leads, images too; what is code leads nowhere."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(text)))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead(page) -> list[str]:
    """The links of a page that lead to no file, or to no heading of it."""
    found = []
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            found.append(link)
    return found


def test_links_that_lead_nowhere_are_found(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# One title: `and` a half\n```\n# no title\n```\n")
    good = "[a](other.md) [b](other.md#one-title-and-a-half) [c](https://example.org) `[d](e)`"
    bad = "![f](gone.png) [g](other.md#no-title) [h](#here)"
    page.write_text(f"{good} {bad}\n```\n[i](gone.md)\n```\n")
    assert dead(page) == ["gone.png", "other.md#no-title", "#here"]


@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_every_link_leads_to_something(page):
    assert dead(page) == []


@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_files_that_a_page_names_are_there(page):
    """Also folders and patterns; what a reader is to write has a name in capitals."""
    for name in re.findall(rf"`((?:{OURS})/[\w/.*-]+)`", prose(page.read_text())):
        if not re.search(r"[A-Z]{3}", name):
            assert list(ROOT.glob(name.rstrip("/"))), name


def test_the_index_names_every_page_once():
    named = [link for link in links(INDEX.read_text()) if link.startswith(FOLDERS)]
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}
    assert set(named) == pages
    lines = re.findall(r"^- \[\S+\]\((\S+)\): \w", INDEX.read_text(), re.MULTILINE)
    assert sorted(lines) == sorted(pages), "a line for each, which says what it holds"


def test_pages_stand_in_four_folders():
    assert {path.name for path in DOCS.iterdir() if path.is_dir()} == set(FOLDERS)
    assert [path.name for path in DOCS.glob("*.md")] == ["README.md"]


@pytest.mark.parametrize("page", PROSE, ids=by_path)
def test_a_paragraph_holds_one_idea(page):
    parts = re.split(r"\n\s*\n|\n *(?=- |\d+\. |\|)", prose(page.read_text()))
    assert [part for part in parts if len(part) > LONGEST and "|" not in part[:2]] == []


@pytest.mark.parametrize("page", sorted((DOCS / "measured").glob("*.md")), ids=by_path)
def test_figures_say_where_they_come_from(page):
    """The command, the date, the commit, the machine, and whether the command wrote the page."""
    text = page.read_text()
    told = dict(re.findall(r"^\| (\w+) \| (\S.*) \|$", text, re.MULTILINE))
    assert told["command"].startswith("`./run.sh ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", told["date"])
    assert re.match(r"[0-9a-f]{7,}", told["commit"])
    assert re.match(r"\d+ cores", told["machine"])
    assert re.search(r"^Written by (the command; \[|hand)", text, re.MULTILINE)
