"""Every line of a command has its time and level, whoever prints it; none is lost at its end."""

import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.console import log_lines
from schemas.console.log_lines import Levels, formatted
from tests.support.processes.launched import ROOT, start

NOON = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
LINE = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))


def module(tmp_path, text):
    """A command that a test has written; its name, and where it lies."""
    (tmp_path / "said.py").write_text(text)
    return {"module": "said", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}


@given(LINE)
def test_json_holds_any_line_as_it_is(line):
    told = formatted(line, "INFO", NOON, "all", "json")
    assert "\n" not in told
    assert json.loads(told) == {
        "time": "2026-01-31T12:00:00.000Z",
        "level": "INFO",
        "command": "all",
        "message": line,
    }


def test_levels_are_what_lines_say_and_tracebacks_are_errors():
    lines = {
        "mine_pairs: committed w in 2 s": "INFO",
        "warning: a small day": "WARNING",
        "WARNING: apache_beam: a library's": "WARNING",
        "warnings are no level": "INFO",
        "error: log.csv: expected a column": "ERROR",
        "Traceback (most recent call last):": "ERROR",
        '  File "x.py", line 1, in <module>': "ERROR",
        "ValueError: it went wrong": "ERROR",
        "next: ./run.sh gate": "INFO",
    }
    levels = Levels()
    assert [levels.of(line) for line in lines] == list(lines.values())


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_command_that_fails_says_so_in_json(tmp_path, by):
    flags = ["--log_format=json"] if by == "flag" else []
    environment = {"PHRASELENS_LOG_FORMAT": "json"} if by == "environment" else {}
    process = start("schemas.maintenance.status", tmp_path / "nowhere", *flags, **environment)
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    (line,) = map(json.loads, err.splitlines())
    assert (line["level"], line["command"]) == ("ERROR", "schemas.maintenance.status")
    assert line["message"].startswith(f"error: {tmp_path}/nowhere: expected")


SAYS = """
import os, subprocess, sys
print("of Python")
os.write(1, b"of C, and no UTF-8: \\xff")
print()
subprocess.run([sys.executable, "-c", "print('of a part')"])
print("a warning", file=sys.stderr)
raise KeyError("a bug")
"""


def test_all_that_a_command_and_its_parts_print_is_written_in_order(tmp_path):
    process = start(**module(tmp_path, SAYS), PHRASELENS_LOG_FORMAT="text")
    out, err = process.communicate()
    assert process.returncode == 1
    said = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|ERROR) (.*)")
    lines = [said.fullmatch(line).groups() for line in out.splitlines()]
    expected = ["of Python", "of C, and no UTF-8: \\xff", "of a part"]
    assert lines == [("INFO", line) for line in expected]
    levels, texts = zip(*(said.fullmatch(line).groups() for line in err.splitlines()), strict=True)
    assert (texts[0], texts[-1]) == ("a warning", "KeyError: 'a bug'")
    assert levels == ("INFO", *["ERROR"] * (len(levels) - 1))


WAITS = "import time\nprint('began')\ntime.sleep(60)\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_last_line_of_an_interrupted_command_is_written(tmp_path, number):
    process = start(**module(tmp_path, WAITS), PHRASELENS_LOG_FORMAT="json")
    assert json.loads(process.stdout.readline())["message"] == "began"
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 128 + number
    assert "give the same command again" in json.loads(err)["message"]


def test_a_line_has_the_time_at_which_it_was_printed(tmp_path):
    process = start(**module(tmp_path, WAITS), PHRASELENS_LOG_FORMAT="json")
    told = json.loads(process.stdout.readline())
    process.kill()
    process.communicate()
    printed = datetime.datetime.fromisoformat(told["time"]).timestamp()
    assert time.time() - 30 < printed <= time.time()


def test_a_format_that_there_is_not_is_refused():
    process = start("schemas.maintenance.status", "w", "--log_format=xml")
    _, err = process.communicate()
    assert process.returncode == 2
    assert err == (
        "error: --log_format=xml: expected one of plain, text, json. See ./run.sh --help.\n"
    )


def test_plain_lines_are_as_they_were_printed(tmp_path):
    process = start(**module(tmp_path, "print('as it is')\n"), PHRASELENS_LOG_FORMAT="plain")
    assert process.communicate() == ("as it is\n", "")
    assert log_lines.asked(["--log_format", "json", "--x=1"]) == "json"


PRINTS = """
import sys, time
for n in range(200_000):
    print(n)
    print("progress", n, file=sys.stderr)
open(sys.argv[1], "w").close()
"""


def shell(command, tmp_path, text):
    """Runs a command line of a shell with a command of ours, {said}, in it."""
    (tmp_path / "said.py").write_text(text)
    said = f"{sys.executable} -m schemas.console.launch said {tmp_path}/done"
    return subprocess.run(
        ["bash", "-c", command.format(said=said)],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        env=os.environ
        | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "PHRASELENS_LOG_FORMAT": "text"},
    )


@pytest.mark.parametrize(
    "command",
    ["{said} 2> >(head -1) >{out}", "{said} 2>&- >{out}", "{said} >&- 2>&-", "{said} <&- >{out}"],
)
def test_the_work_goes_on_without_anybody_who_reads_progress(tmp_path, command):
    out = tmp_path / "out"
    done = shell(command.replace("{out}", str(out)), tmp_path, PRINTS)
    assert (done.returncode, (tmp_path / "done").exists()) == (0, True)
    if out.exists():
        assert " INFO 199999\n" in out.read_text()


DEAF = """
import os, sys, time
print("began", os.getpid(), flush=True)
while True:
    try:
        print("more", flush=True)
        time.sleep(0.01)
    except Exception:
        pass
"""


def test_a_command_whose_reader_left_can_be_ended(tmp_path):
    process = start(**module(tmp_path, DEAF), PHRASELENS_LOG_FORMAT="text")
    process.stdout.readline()
    process.stdout.close()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0


def test_what_a_command_leaves_behind_is_not_waited_for(tmp_path):
    text = "import subprocess\nprint('of us')\nsubprocess.Popen(['sleep', '30'])\n"
    started = time.monotonic()
    process = start(**module(tmp_path, text), PHRASELENS_LOG_FORMAT="text")
    assert process.stdout.readline().endswith(" INFO of us\n")
    assert process.wait(20) == 0
    assert time.monotonic() - started < 8
