"""The report in a real browser: it shows everything, loads nothing and runs only its own script."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from model_code.report import pages as report
from schemas.datasets import dataset
from tests.support.datasets import report_work

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
COMMAND = (
    f"{CHROMIUM} --headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--virtual-time-budget=5000 --dump-dom"
)
# Sorts the class table by recall, both ways, and notes what it sees.
PROBE = """<script>
addEventListener("load", () => {
  const table = document.querySelector("#class-table"), head = table.tHead.rows[0].cells[3];
  const recalls = () => [...table.tBodies[0].rows].map(row => Number(row.cells[3].dataset.value));
  head.click(); const down = recalls();
  head.click(); const up = recalls();
  const broken = [...document.images].filter(image => !image.naturalWidth).length;
  document.body.setAttribute("data-probe", JSON.stringify({down, up, broken}));
});
</script></body>"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium to test the report in a browser"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    root = report_work.write(str(tmp_path_factory.mktemp("work")))
    assert report.run(["--work", root, "--output", f"{root}/report"]) == 0
    return Path(dataset.Dataset(f"{root}/report").folder("report"), "report.html")


def browse(page: Path, tmp_path: Path) -> tuple[str, set[str]]:
    """Opens a page; returns the document it became, and the network addresses it asked for."""
    log = tmp_path / "net.json"
    flags = [f"--user-data-dir={tmp_path}/profile", f"--log-net-log={log}", page.as_uri()]
    done = subprocess.run(
        [*COMMAND.split(), *flags], capture_output=True, text=True, timeout=120, check=True
    )
    # Chromium looks for news of its own at Google's addresses, whatever the page.
    asked = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text()))
    return done.stdout, {
        url for url in asked if not re.search(r"\.(google|gvt1|googleapis)\.", url)
    }


def probe(page: Path, text: str, tmp_path: Path) -> dict | None:
    """Adds the probe to a page; returns what it saw, or None when it was not allowed to run."""
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace("</body>", PROBE), encoding="utf-8")
    found = re.search(r'<body data-probe="([^"]*)"', browse(probed, tmp_path)[0])
    return json.loads(found[1].replace("&quot;", '"')) if found else None


def without_policy(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    free, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert count == 1
    return free


def test_everything_is_shown_and_no_planted_script_runs(page, tmp_path):
    dom, _ = browse(page, tmp_path)
    assert "<title>PhraseLens report</title>" in dom, "the planted script changed it"
    assert dom.count("<script") == 1
    assert dom.count('<figure class="case"') >= 8
    table = dom.partition('id="ablation-table"')[2].partition("</table>")[0]
    assert table.count("<tr") == 6
    assert dom.count("<svg") == 4
    assert "赤い四角" in dom


def test_page_asks_for_nothing_even_without_its_policy(page, tmp_path):
    free = tmp_path / "free.html"
    free.write_text(without_policy(page), encoding="utf-8")
    assert browse(free, tmp_path)[1] == set()
    planted = tmp_path / "planted.html"
    planted.write_text(f"<body>{report_work.HOSTILE}", encoding="utf-8")
    dom, asked = browse(planted, tmp_path)
    assert asked == {"http://evil.example/x.png"}, "this is how a request would be seen"
    assert "<title>owned</title>" in dom


def test_images_are_drawn_and_headings_sort(page, tmp_path):
    seen = probe(page, without_policy(page), tmp_path)
    assert seen["broken"] == 0
    assert seen["down"] == sorted(seen["down"], reverse=True)
    assert seen["up"] == sorted(seen["down"])


def test_policy_stops_every_script_but_the_pages_own(page, tmp_path):
    assert probe(page, page.read_text(encoding="utf-8"), tmp_path) is None
