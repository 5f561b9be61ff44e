"""What a shell suggests where people press Tab, from nothing but the script."""

import dataclasses
import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from phraselens import commands, completion
from schemas.console import program

ROOT = Path(__file__).resolve().parents[3]
FOUND = completion.completed()


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Shell → the file of its script."""
    folder = tmp_path_factory.mktemp("completion")
    paths = {name: folder / f"completion.{name}" for name in completion.SHELLS}
    for name, path in paths.items():
        path.write_text(completion.SHELLS[name](FOUND), encoding="utf-8")
    return paths


def words_of_bash(line):
    """The words of a line as Bash tells them: an equals sign is one of its own."""
    return [part for word in line.split(" ") for part in re.split("(=)", word) if part or not word]


def ask_bash(script, *lines, cwd=ROOT):
    """What Bash suggests at the end of each line; with no program to start."""
    asked = [f"source {script}"]
    for line in lines:
        words = words_of_bash(line)
        asked.append(f"COMP_WORDS=({' '.join(map(shlex.quote, words))})")
        asked.append(f"COMP_CWORD={len(words) - 1} COMPREPLY=()")
        asked.append(f'_phraselens {words[0]}; echo "${{COMPREPLY[*]}}"')
    done = subprocess.run(
        [shutil.which("bash") or "bash", "--norc", "-c", "\n".join(asked)],
        env={"PATH": ""},
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [answer.split() for answer in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "suggested"),
    [
        ("phraselens qu", ["quickstart"]),
        ("phraselens tra", ["train"]),
        ("phraselens train ", ["text_generator", "text_embedder", "pixel_embedder", "fusion"]),
        ("phraselens train f", ["fusion"]),
        ("phraselens submit prepare_", ["prepare_pairs", "prepare_examples"]),
        ("phraselens train fusion --epo", ["--epochs"]),
        ("phraselens train fusion --epochs 3 --exa", ["--examples"]),
        ("phraselens train fusion --dry_run --exa", ["--examples"]),
        ("phraselens embed_images --diversity ", ["none", "merge", "mmr"]),
        ("phraselens embed_images --diversity=m", ["merge", "mmr"]),
        ("phraselens embed_images --diversity=", ["none", "merge", "mmr"]),
        ("phraselens embed_images --mined=", []),
        ("phraselens embed_images --mined ", []),
        ("phraselens embed_images --temp_loc", []),
        ("phraselens submit embed_images --temp_loc", ["--temp_location"]),
        ("phraselens submit embed_images --num_phr", ["--num_phrases"]),
        ("phraselens rollback --ho", ["--hold"]),
        ("phraselens verify ", []),
        ("phraselens verify work --re", ["--repair"]),
        ("phraselens flink ", ["up", "down", "status", "options", "submit"]),
        ("phraselens completion ", ["bash", "zsh", "fish"]),
        ("phraselens all --preset ", ["quickstart"]),
        ("phraselens test", []),
        ("./run.sh test", ["test"]),
        ("./run.sh train fusion --epo", ["--epochs"]),
        (f"{ROOT}/run.sh embed_images --diversity=m", ["merge", "mmr"]),
    ],
)
def test_bash_suggests_what_fits(scripts, line, suggested):
    assert ask_bash(scripts["bash"], line) == [suggested]


def test_bash_suggests_every_command_and_each_of_its_flags(scripts):
    firsts, *flags = ask_bash(
        scripts["bash"], "phraselens ", *(f"phraselens {words} --" for words in FOUND)
    )
    names = commands.commands()
    assert set(firsts) - {"--help", "--version"} == {name.split()[0] for name in names}
    for words, suggested in zip(FOUND, flags, strict=True):
        command, _ = commands.find(words.split())
        config = getattr(importlib.import_module(command.module), "Config", None)
        fields = {f"--{field.name}" for field in dataclasses.fields(config)} if config else set()
        assert fields <= set(suggested), words
        assert {"--help", "--help-all", "--verbose", "--log_format"} <= set(suggested), words


def test_another_project_s_run_sh_is_left_alone(scripts, tmp_path):
    assert ask_bash(scripts["bash"], "./run.sh ", cwd=tmp_path) == [[]]


def test_nothing_in_a_script_is_expanded(scripts):
    for of in FOUND.values():
        for word in (*of.words, *(w for flag in of.flags for w in (flag.name, *flag.choices))):
            assert re.fullmatch(r"[\w./:+-]+", word), word


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_script_holds_every_flag_and_what_it_takes(scripts, shell):
    text = scripts[shell].read_text()
    for words, of in FOUND.items():
        assert f"{words}" in text
        for flag in of.flags:
            assert (f" -l {flag.name[2:]} " if shell == "fish" else flag.name) in text
            if flag.choices:
                assert " ".join(flag.choices) in text
    for name in program.OF_RUN_SH:
        assert re.search(rf"\b{name}\b", text)


def lines_of(done):
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_suggests_what_fits(scripts, tmp_path):
    def ask(line):
        code = f"source {scripts['fish']}; complete -C {shlex.quote(line)}"
        command = ["fish", "--no-config", "-c", code]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return [answer.partition("\t")[0] for answer in lines_of(done)]

    assert ask("phraselens tra") == ["train"]
    assert ask("phraselens train f") == ["fusion"]
    assert ask("./run.sh train fusion --epo") == ["--epochs"]
    assert ask("phraselens embed_images --diversity=m") == ["--diversity=merge", "--diversity=mmr"]


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_suggests_what_fits(scripts):
    # What only zsh's own completion can be asked for stands in for itself.
    outside = 'compdef() {}; compset() {}; _files() {}; compadd() { shift; print -r -- "$@" }'

    def ask(*words):
        line = f"words=({' '.join(map(shlex.quote, words))}); CURRENT={len(words)}"
        code = f"{outside}\nsource {scripts['zsh']}\n{line}; _phraselens"
        command = ["zsh", "-f", "-c", code]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return " ".join(lines_of(done)).split()

    assert {"all", "train", "--version"} <= set(ask("phraselens", ""))
    assert "fusion" in ask("phraselens", "train", "")
    assert "--epochs" in ask("./run.sh", "train", "fusion", "--epo")
    assert ask("phraselens", "embed_images", "--diversity=m") == ["none", "merge", "mmr"]
    assert ask("phraselens", "embed_images", "--mined", "") == []
