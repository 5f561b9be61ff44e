"""What is printed for people to type works as printed, however the program was started."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs.runs import all_stages, stages
from phraselens import commands
from samples import make_samples
from schemas.console import program
from schemas.console.parser import parser_of
from schemas.datasets.dataset import Dataset

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("phraselens", "beam_jobs", "transforms", "model_code", "schemas", "samples", "deploy")
SOURCES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
# What an Airflow of another machine starts, and where to get the files of a clone.
NO_HINTS = (Path("deploy/airflow/phraselens_commands.py"), Path("phraselens/cli.py"))


def known_flags(words):
    """The flags of a command by name, and those that it needs; also of its runner."""
    command, argv = commands.find(words)
    parser = parser_of(importlib.import_module(command.module).run, argv)
    others = parser.others()._actions if parser.others else []
    actions = [*parser._actions, *others]
    names = {word for action in actions for word in action.option_strings}
    needed = [action for action in parser._actions if action.required and action.option_strings]
    return names, {action.option_strings[0] for action in needed}


def calls():
    """Each call of program.command with a name that is written there."""
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            is_hint = isinstance(node, ast.Call) and ast.unparse(node.func) == "program.command"
            if is_hint and isinstance(node.args[0], ast.Constant):
                yield path, node


CALLS = [pytest.param(node, id=f"{path}:{node.lineno}") for path, node in calls()]


def test_there_are_hints_and_examples_all_over():
    assert len(CALLS) > 40
    assert min(len([*examples()]), len([*examples_of_pages()])) > 30


@pytest.mark.parametrize("call", CALLS)
def test_a_command_that_a_hint_names_exists_and_has_all_that_it_needs(call):
    typed = [word for word in call.args[0].value.split() if not word.isupper()]
    words = [word for word in typed if not word.startswith("-")]
    if not words:
        return  # of the program itself
    if words == ["submit"]:
        words = ["submit", "embed_images"]
    known, needed = known_flags(words)
    switches = set(typed) - set(words)
    given = switches | {f"--{word.arg}" for word in call.keywords if word.arg}
    assert given <= known
    is_whole = all(word.arg for word in call.keywords)  # and no flags from a mapping
    if given and is_whole:
        assert needed <= given


def docstrings(tree):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, kinds)]


def examples():
    """The command lines of all docstrings, each in one line."""
    for path, tree in SOURCES.items():
        for doc in docstrings(tree):
            for line in re.findall(r"^\s*\./run\.sh (.*)$", joined(doc), re.MULTILINE):
                yield pytest.param(line, id=f"{path}: {line}")


def examples_of_pages():
    """The command lines of README and docs: those to be copied, and those within sentences."""
    # What happens with inputs of people is written by a test of its own, wrong flags and all.
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        if page.stem == "inputs":
            continue
        text = joined(page.read_text(encoding="utf-8"))
        for block in re.findall(r"```sh\n(.*?)```|`(\./run\.sh [^`]*)`", text, re.DOTALL):
            for line in re.findall(r"\./run\.sh ([a-z].*)", "".join(block)):
                yield pytest.param(line, id=f"{page.relative_to(ROOT)}: {line}")


def joined(text):
    """A text whose lines that end in a backslash are one with the next."""
    return re.sub(r"\\\n\s*", "", text)


@pytest.mark.parametrize("line", [*examples(), *examples_of_pages()])
def test_an_example_of_a_help_text_or_a_page_is_a_command_with_its_flags(line):
    # Behind blanks it is said what the line does, or another program reads; quotes hold values.
    typed = re.split(r"\s{3,}|\s#| [|&]", line)[0]
    typed = re.sub(r"(['\"]).*?\1", "VALUE", typed)
    words = [word for word in typed.split() if word not in ("…", "\\")]
    if words[:2] == ["flink", "submit"]:
        words = words[2:]  # a job and its flags
    if not words or words[0] in program.OF_RUN_SH or words in (["submit"], ["train"]):
        return
    known, _ = known_flags(words[:2])
    flags = {re.split("[]=]", word.strip("["))[0] for word in words if re.match(r"\[?-", word)}
    assert flags <= known


def texts_in_code(tree):
    """The texts of a module but docstrings, in which a parser puts what people type."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, kinds) and node.body]
    docs = {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}
    constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docs]
    return [node.value for node in constants if isinstance(node.value, str)]


def test_no_text_in_code_names_the_program_by_itself():
    for path in SOURCES.keys() - set(NO_HINTS):
        for text in texts_in_code(SOURCES[path]):
            for word in re.findall(r"\./run\.sh (\w+)", text):
                assert word in program.OF_RUN_SH, f"{path}: {text}"


PROGRAMS = pytest.mark.parametrize("name", ["./run.sh", "phraselens"])


def started_as(monkeypatch, name):
    if name == "phraselens":
        monkeypatch.delenv(program.VARIABLE)
    else:
        monkeypatch.setenv(program.VARIABLE, name)


@PROGRAMS
def test_a_command_is_written_as_people_type_it(monkeypatch, name):
    started_as(monkeypatch, name)
    typed = program.command("verify --repair", "a b")
    assert typed == f"{name} verify --repair 'a b'"
    typed = program.command("train fusion", examples="w/examples", output="w/it's")
    assert typed == f"""{name} train fusion --examples w/examples --output 'w/it'"'"'s'"""
    assert program.command("setup --gpu") == "./run.sh setup --gpu"
    text = "Run ./run.sh gate, not ./run.sh setup --gpu and not ./run.sh test."
    assert program.in_text(text) == text.replace("./run.sh gate", f"{name} gate")


def test_a_dataset_stands_beside_another():
    assert program.beside("w/mine/mined", "features") == "w/mine/features"
    assert program.beside("mined/", "features") == "features"
    assert program.beside("gs://b/w/mined", "features") == "gs://b/w/features"
    assert program.beside("/mined", "features") == "/features"


@PROGRAMS
def test_help_names_the_program_that_was_started(monkeypatch, name, capsys):
    started_as(monkeypatch, name)
    other = {"./run.sh": "phraselens", "phraselens": "./run.sh"}[name]
    for words in commands.commands():
        command, argv = commands.find(words.split() + ["embed_images"] * (words == "submit"))
        with pytest.raises(SystemExit):
            importlib.import_module(command.module).run([*argv, "--help"])
        text = capsys.readouterr().out
        assert text.startswith(f"usage: {name} ")
        left = re.findall(rf"(?<!\.){re.escape(other)} (\w+)", text)
        assert set(left) <= set(program.OF_RUN_SH), words


@PROGRAMS
def test_an_error_names_the_program_that_was_started(tmp_path, name):
    given = {key: value for key, value in os.environ.items() if key != program.VARIABLE}
    variables = {program.VARIABLE: name} if name == "./run.sh" else {}
    done = subprocess.run(
        [sys.executable, "-m", "phraselens", "all", "--workdir=w"],
        cwd=tmp_path,
        env=given | variables | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert f"or use {name} quickstart." in done.stderr


@PROGRAMS
def test_a_stage_in_a_process_of_its_own_names_the_same(tmp_path, monkeypatch, capfd, name):
    started_as(monkeypatch, name)
    code = "from schemas.console import program; print(program.command('verify', 'w'))"
    (tmp_path / "stage_that_tells.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    stage = stages.Stage(name="tells", module="stage_that_tells", does="tells", output="told")
    assert all_stages.run_stages(all_stages.Config(workdir=str(tmp_path)), [stage]) == 0
    assert f"\n{name} verify w\n" in capfd.readouterr().out


def test_a_dataset_is_the_same_whoever_started_its_stage(tmp_path, monkeypatch):
    manifests = []
    for name in ("./run.sh", "phraselens"):
        started_as(monkeypatch, name)
        output = str(tmp_path / name.strip("./"))
        assert make_samples.run([f"--output={output}", "--images=500", "--image_size=16"]) == 0
        manifests.append(Dataset(output).manifest)
    assert manifests[0].run_id == manifests[1].run_id
    assert manifests[0].content_hash == manifests[1].content_hash
