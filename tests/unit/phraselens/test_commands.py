"""Every command that people can type is one that there is, and no stage is without one."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.runs import stages
from phraselens import cli, commands
from schemas.base.errors import PhraseLensError
from schemas.console import flags as flags_lib
from schemas.console import program

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = commands.commands()
# These have no flags of their own before the word that says which of them is meant.
WORD = {"promote": ["promote"], "rollback": ["rollback"], "hold": ["hold"]}


def module_of(name):
    return importlib.import_module(COMMANDS[name].module)


@pytest.fixture
def said(capsys):
    """A function that returns what a command prints of itself."""

    def run(name, flag):
        choice = [f"--job={COMMANDS[name].choices[0]}"] if COMMANDS[name].choices else []
        with pytest.raises(SystemExit) as stopped:
            module_of(name).run([*WORD.get(name, []), *choice, flag])
        assert stopped.value.code == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return run


def flags_in(text):
    """The flags that have a line of their own in a help text."""
    return set(re.findall(r"^  (?:-h, )?--(\w[\w-]*)", text, re.MULTILINE))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_what_is_needed_first_and_help_all_the_rest(name, said):
    short, whole = said(name, "--help"), said(name, "--help-all")
    # `submit` shows the help of the job.
    typed = COMMANDS[name].choices[0] if COMMANDS[name].choices else name
    assert short.startswith(f"usage: ./run.sh {typed}")
    count, last = re.search(r"\n(\d+) more flags.*: ./run.sh (.*) --help-all\n$", short).groups()
    assert last == typed
    assert flags_in(short) < flags_in(whole)
    left = {flag for flag in flags_in(whole) if flag not in flags_in(short)}
    is_job = " runners " in short
    assert ("temp_location" in flags_in(whole)) == is_job
    assert len(left) > 100 if is_job else len(left) == int(count)
    assert "--help-all" in whole
    config = getattr(module_of(name), "Config", None)
    for field in dataclasses.fields(config) if config else ():
        assert field.name in flags_in(whole)
        assert (field.name in flags_in(short)) == flags_lib.is_essential(field)
        if field.default is dataclasses.MISSING:
            assert f"--{field.name} " in short.partition("[FLAGS]")[0]


def test_every_stage_is_a_command_and_every_beam_job_can_be_submitted():
    every = (stages.SAMPLES, stages.MINE_LOG, stages.FORGET, *stages.STAGES)
    for step in every:
        words = step.name.replace("train_", "train ", 1).split(" ")
        command, flags = commands.find([*words, "--a=b"])
        assert (command.module, flags) == (step.module, ["--a=b"])
    for name in (step.name for step in every if step.is_beam_job):
        command, flags = commands.find(["submit", name, "--a=b"])
        assert command.module == "beam_jobs.dataflow.submit"
        assert flags == [f"--job={name}", "--a=b"]


def test_commands_that_share_a_module_say_which_they_are():
    assert commands.find(["rollback", "--workdir=w"])[1] == ["rollback", "--workdir=w"]
    assert commands.find(["quickstart", "--until=report"])[1][-1] == "--until=report"


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_any_other_word_is_refused(words):
    first = [name.split(" ")[0] for name in COMMANDS]
    if words[0] in first:
        return
    with pytest.raises(PhraseLensError, match=": expected a command"):
        commands.find(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embed_image"], "embed_image: expected a command. Did you mean embed_images?"),
        (["train"], "train: expected one of: text_generator"),
        (["train", "fuson"], "Did you mean fusion?"),
        (["submit", "export_model"], "submit export_model: expected one of: mine_log"),
        (["--output=x"], "--output=x: expected a command"),
    ],
)
def test_words_that_are_no_command_are_told_the_nearest(words, said):
    with pytest.raises(PhraseLensError, match=re.escape(said)):
        commands.find(words)


def test_the_help_has_a_line_of_at_most_100_letters_for_each_command():
    lines = commands.help_text().splitlines()
    assert max(map(len, lines)) <= 100
    for name in COMMANDS:
        assert any(line.startswith(f"  {name} ") for line in lines), name


@pytest.mark.parametrize("words", [[], ["--help"], ["train", "-h"], ["submit", "--help"]])
def test_help_needs_nothing_but_python(words):
    """-S: no package that is installed can be imported, and -s none of the user's."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from phraselens import cli"
    code += f"; print(cli.answer({words!r}))"
    given = {name: value for name, value in os.environ.items() if name != program.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-ISs", "-c", code], capture_output=True, text=True, env=given
    )
    assert done.returncode == 0, done.stderr
    assert "usage: phraselens" in done.stdout


def test_help_names_the_program_that_was_started(monkeypatch):
    monkeypatch.setenv(program.VARIABLE, "./run.sh")
    assert "usage: ./run.sh COMMAND" in cli.usage()
