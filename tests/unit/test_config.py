import dataclasses

import pytest

from beam_jobs import job, mine_pairs
from schemas import config
from schemas.config import flag
from schemas.errors import AccountingError, DeadShareError, PhraseLensError, message_of


@dataclasses.dataclass(frozen=True)
class Config:
    log: tuple[str, ...] = flag("Log.", role="input")
    output: str = flag("Dataset.", role="runtime")
    shards: int = flag("Shards.", default=4)
    share: float = flag("Share, 50% at most.", default=0.5)
    weights: str | None = flag("Weights.", default=None)
    size: str = flag("Size.", default="small", choices=("small", "large"))
    fast: bool = flag("Fast.", default=False, role="runtime")


def parse(*argv):
    return config.parse(Config, "job", "What it does.", argv)


REQUIRED = ("--log", "a,b", "--output", "out")


def test_flags_become_fields():
    assert parse(*REQUIRED) == Config(("a", "b"), "out")
    full = parse(*REQUIRED, "--shards=7", "--share", "0.1", "--weights", "w", "--size=large")
    assert full == Config(("a", "b"), "out", 7, 0.1, "w", "large")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ((), False),
        (("--fast",), True),
        (("--fast", "true"), True),
        (("--fast=no",), False),
        (("--fast", "0"), False),
    ],
)
def test_boolean_flags(argv, expected):
    assert parse(*REQUIRED, *argv).fast is expected


@pytest.mark.parametrize(
    "argv",
    [
        ("--output", "out"),
        (*REQUIRED, "--shards", "x"),
        (*REQUIRED, "--size", "huge"),
        (*REQUIRED, "--fast", "perhaps"),
    ],
)
def test_values_that_are_none_are_refused(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(*argv)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "remedy"), [("--shard", "--shards"), ("--outptu=x", "--output"), ("--qqq", "--help")]
)
def test_unknown_flags_name_the_nearest(typed, remedy):
    with pytest.raises(PhraseLensError, match=f"{typed}.*{remedy}"):
        parse(*REQUIRED, typed)


def test_help_is_documentation(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "What it does." in text
    assert "Share, 50% at most. [0.5]" in text


def test_only_settings_decide_rows():
    settings = config.settings(parse(*REQUIRED, "--fast"))
    assert settings == {"shards": 4, "share": 0.5, "weights": None, "size": "small"}


MINE = ("--log", "a", "--images", "b", "--output", "c")


def _parse(argv):
    return job.parse("mine_pairs", mine_pairs.Config, "", argv)


def test_jobs_take_beams_flags_too():
    found, options = _parse([*MINE, "--direct_num_workers=2"])
    assert found.log == ("a",)
    assert options.get_all_options()["direct_num_workers"] == 2
    assert options.get_all_options()["runner"] == "FnApiRunner"
    _, options = _parse([*MINE, "--runner", "PortableRunner", "--job_endpoint=localhost:1"])
    assert options.get_all_options()["runner"] == "PortableRunner"


@pytest.mark.parametrize(
    ("typed", "near"),
    [("--num_shrads=3", "--num_shards"), ("--direct_num_worker=2", "--direct_num_workers")],
)
def test_jobs_refuse_flags_that_nobody_knows(typed, near):
    with pytest.raises(PhraseLensError, match=f"Did you mean {near}?"):
        _parse([*MINE, typed])


DEAD = DeadShareError("7% of rows died", "at most 5%", "Look: here.")


def caused(by, through):
    try:
        try:
            raise by
        except Exception as error:
            raise RuntimeError("runner") from (error if through == "cause" else None)
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        DEAD,
        caused(DEAD, "cause"),
        caused(DEAD, "context"),
        RuntimeError(f"Traceback:\n  File x\nschemas.errors.DeadShareError: {DEAD}\n"),
        RuntimeError(f"x\nschemas.errors.DeadShareError: {DEAD} [while running 'A/B']\n\nmore"),
        RuntimeError(f"DeadShareError: {DEAD}"),
    ],
    ids=range(6),
)
def test_known_error_is_found_under_what_runners_wrap_it_in(error):
    assert message_of(error) == str(DEAD)


def test_other_errors_are_not_known():
    assert message_of(ValueError("x: expected y. z")) is None
    assert message_of(RuntimeError("ValueError: AccountingErrors: x")) is None
    assert message_of(AccountingError("a", "b", "c")) == "a: expected b. c"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/disk/file"),
        caused(PermissionError(13, "Permission denied", "/disk/file"), "cause"),
        RuntimeError("UNKNOWN: writing checkpoint: No space left on device"),
    ],
    ids=["disk", "wrapped", "TensorFlow"],
)
def test_what_a_disk_refuses_is_told(error):
    found = message_of(error)
    assert found is not None
    assert "expected" in found
    assert "same command again" in found
