"""Whatever the locale says, text is UTF-8: in files, in file names, and in what is printed."""

import ast
import os
import re
import subprocess
import sys

import pytest

from schemas.base import code_fingerprint
from tests.support.datasets import work_folder

ROOT = work_folder.ROOT
VERIFY = "schemas.maintenance.verify"
FOLDERS = ("schemas", "transforms", "model_code", "beam_jobs", "samples", "deploy", "benchmarks")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
# Where calls that open text have their mode, and calls that always mean text their encoding.
MODE = {"open": 1, "io.open": 1, "os.fdopen": 1, "gzip.open": 1, "bz2.open": 1, "lzma.open": 1}
MODE |= {"tempfile.NamedTemporaryFile": 0, "tempfile.TemporaryFile": 0}
BINARY = ("gzip.open", "bz2.open", "lzma.open", *(name for name in MODE if "tempfile" in name))
TEXT = {"read_text": 0, "write_text": 1, "TextIOWrapper": 1}
PROCESSES = ("run", "Popen", "check_output", "check_call", "call")
AS_TEXT = {"text", "universal_newlines"}


def is_text(call: ast.Call, name: str, words: dict[str | None, ast.expr]) -> bool:
    """Whether a call opens, reads or writes text, by its name and arguments."""
    last = name.rpartition(".")[2]
    if last in TEXT:
        return len(call.args) <= TEXT[last]
    if AS_TEXT & words.keys() and last in PROCESSES:
        return True
    place = MODE.get(name, 0)  # Path.open has its mode first
    given = call.args[place] if len(call.args) > place else words.get("mode")
    mode = str(given.value) if isinstance(given, ast.Constant) else ""
    if name in BINARY:
        return "t" in mode or ("tempfile" in name and bool(mode) and "b" not in mode)
    if name in MODE:
        return "b" not in mode
    return last == "open" and name != "tarfile.open" and bool(re.fullmatch("[rwxa][t+]*", mode))


def without_encoding(source: str) -> list[int]:
    """Lines of calls that read or write text in the encoding of the locale."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            words = {word.arg: word.value for word in node.keywords}
            name = ast.unparse(node.func)
            if not {"encoding", None} & words.keys() and is_text(node, name, words):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("open(p)", [1]),
        ("open(p, 'w')", [1]),
        ("open(p, mode='a')", [1]),
        ("open(p, 'rb')", []),
        ("open(p, encoding='utf-8')", []),
        ("os.fdopen(0)", [1]),
        ("os.fdopen(0, 'rb')", []),
        ("(a / b).read_text()", [1]),
        ("p.read_text('utf-8')", []),
        ("p.write_text(x)", [1]),
        ("p.write_text(x, 'utf-8')", []),
        ("io.TextIOWrapper(f)", [1]),
        ("gzip.open(p)", []),
        ("gzip.open(p, 'rt')", [1]),
        ("tempfile.NamedTemporaryFile()", []),
        ("tempfile.NamedTemporaryFile('w')", [1]),
        ("subprocess.run(c, text=True)", [1]),
        ("subprocess.run(c)", []),
        ("tarfile.open(p, mode='w')", []),
        ("Image.open(f)", []),
        ("os.open(p, os.O_RDONLY)", []),
        ("path.open('w')", [1]),
        ("path.open('rb')", []),
    ],
)
def test_calls_in_the_encoding_of_the_locale_are_found(source, expected):
    assert without_encoding(source) == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_read_and_written_with_an_encoding(path):
    assert without_encoding(path.read_text(encoding="utf-8")) == []


# Latin-1 is nowhere installed for sure; the plain C locale is ASCII where nothing is coerced.
LOCALES = {
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "POSIX": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "one that is not installed": {"LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0"},
}


def python(code: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("locale", LOCALES)
def test_the_fingerprint_of_the_code_is_the_same_in_every_locale(locale):
    modules = ["beam_jobs.mining.mine_pairs", "model_code.report.pages"]
    code = f"from schemas.base import code_fingerprint; print(code_fingerprint.of_code({modules}))"
    assert python(code, LOCALES[locale]).strip() == code_fingerprint.of_code(modules)


@pytest.mark.parametrize("locale", LOCALES)
def test_run_sh_reads_prints_and_finds_names_in_utf_8(locale, tmp_path):
    """As `./run.sh verify` of a folder whose name is no ASCII, in an environment without packages.

    The environment of this test stands for the one that run.sh would make.
    """
    export = next(
        line
        for line in (ROOT / "run.sh").read_text(encoding="utf-8").splitlines()
        if line.startswith("export PYTHONUTF8")
    )
    (tmp_path / "Büch er→日本").mkdir()
    command = f'unset PYTHONUTF8; {export}; "$0" -m phraselens verify "$1"'
    done = subprocess.run(
        [
            "bash",
            "-c",
            command,
            sys.executable,
            str(tmp_path / "Büch er→日本"),
        ],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | LOCALES[locale],
    )
    assert done.returncode == 2
    assert "Büch er→日本: expected " in done.stderr.decode("utf-8")
