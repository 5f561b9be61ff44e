"""What a command line may not hold, and what its help shows."""

import dataclasses
import re

import pytest

from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.console.parser import Parser, parser_of
from schemas.runs import command_line


@dataclasses.dataclass(frozen=True)
class Config:
    log: tuple[str, ...] = flag("Log.", role="input")
    output: str = flag("Dataset.", role="output")
    shards: int = flag("Shards.", default=4, minimum=1)
    share: float = flag("Share, 50% at most.", default=0.5, minimum=0, maximum=0.5)
    size: str = flag("Size.", default="small", choices=("small", "large"), essential=True)
    fast: bool = flag("Fast.", default=False, role="runtime")
    forget: str = flag("List.", default="", role="input", essential=False)
    summary: str = flag("File.", default="", role="output")


def parse(*argv):
    return command_line.parse(Config, "job", "What ./run.sh job does.", argv)


REQUIRED = ("--log", "a,b", "--output", "out")


@pytest.mark.parametrize(
    ("typed", "remedy"), [("--shard", "--shards"), ("--outptu=x", "--output"), ("--qqq", "--help")]
)
def test_unknown_flags_name_the_nearest(typed, remedy):
    with pytest.raises(PhraseLensError, match=f"{typed}.*{remedy}"):
        parse(*REQUIRED, typed)


def test_all_flags_that_are_unknown_or_missing_are_named_at_once():
    with pytest.raises(PhraseLensError) as refused:
        parse("--lgo", "a", "--shard=3", "--qqq")
    message = str(refused.value)
    for words in ("--lgo", "--shard=3", "--qqq", "--log for --lgo, --shards for --shard"):
        assert words in message
    assert message.endswith("Missing too: --output.")


def test_files_that_the_shell_made_of_a_pattern_are_no_flags():
    with pytest.raises(PhraseLensError, match=r"b\.csv c\.csv: expected one value.*Quote"):
        parse("--log", "a.csv", "b.csv", "c.csv", "--output=out")


def printed(capsys, flag):
    with pytest.raises(SystemExit) as stopped:
        parse(flag)
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_is_documentation(capsys):
    text = printed(capsys, "--help-all")
    assert "What ./run.sh job does." in text
    assert "Share, 50% at most. [0.5]" in text


def test_help_shows_what_is_required_inputs_outputs_and_what_is_said_to_be_essential(capsys):
    text = printed(capsys, "--help")
    assert text.startswith("usage: ./run.sh job --log A,B,… --output TEXT [FLAGS]\n")
    shown = set(re.findall(r"^  --(\w+)", text, re.MULTILINE))
    assert shown == {"log", "output", "size", "summary"}
    # shards, share, fast, forget, help_all, verbose and log_format
    assert text.endswith("\n7 more flags: ./run.sh job --help-all\n")


def test_a_parser_with_others_counts_its_own_flags_and_shows_all(capsys):
    def others():
        beam = Parser("", is_part=True)
        beam.add_argument("--runner", help="Runner.")
        beam.add_argument("--output", help="Another output.")
        return beam

    parser = Parser("job", "What it does.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--output", help="Dataset.")
    parser.others, parser.others_title = others, "flags of runners"
    short, whole = (parser.help_text(everything=flag) for flag in (False, True))
    assert short.startswith("usage: ./run.sh job IMAGE… [FLAGS]\n")
    assert short.endswith("\n3 more flags, and flags of runners: ./run.sh job --help-all\n")
    assert "--runner" not in short
    assert "flags of runners:\n  --runner RUNNER" in whole
    assert "Another output." not in whole


def test_a_command_is_asked_for_its_parser_and_does_nothing_else():
    done = []

    def run(argv):
        found = parse(*argv)
        done.append(found)
        return 0

    parser = parser_of(run, [])
    assert "--shards" in parser._option_string_actions
    assert done == []
    assert run(REQUIRED) == 0
    assert done == [Config(("a", "b"), "out")]
    with pytest.raises(TypeError, match="reads no flags"):
        parser_of(lambda argv: 0, [])
