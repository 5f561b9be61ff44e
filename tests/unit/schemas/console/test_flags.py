import contextlib
import dataclasses
import functools
import importlib
import os
import re
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.frame import parsing
from beam_jobs.mining.flags import Config as MiningConfig
from beam_jobs.models import classify_images
from schemas.base.errors import AccountingError, DeadShareError, Exit, PhraseLensError, known
from schemas.console import flags as flags_lib
from schemas.console.flags import flag
from schemas.console.parser import Parser, parser_for
from schemas.runs import command_line
from tests.support.datasets import work_folder


@dataclasses.dataclass(frozen=True)
class Config:
    log: tuple[str, ...] = flag("Log.", role="input")
    output: str = flag("Dataset.", role="output")
    shards: int = flag("Shards.", default=4, minimum=1)
    share: float = flag("Share, 50% at most.", default=0.5, minimum=0, maximum=0.5)
    weights: str | None = flag("Weights.", default=None)
    size: str = flag("Size.", default="small", choices=("small", "large"))
    fast: bool = flag("Fast.", default=False, role="runtime")
    rates: tuple[str, ...] = flag("Rates.", default=(), numbers=float, above=0, below=1)
    forget: str = flag("List.", default="", role="input")
    summary: str = flag("File.", default="", role="output")


def parse(*argv):
    return command_line.parse(Config, "job", "What it does.", argv)


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
    ("argv", "message"),
    [
        (("--output", "out"), "--log: expected a value. See --help."),
        (("--shards=2",), "--log --output: expected values."),
        ((*REQUIRED, "--shards"), "--shards: expected one argument."),
        ((*REQUIRED, "--shards", "x"), "--shards=x: expected a whole number, at least 1."),
        ((*REQUIRED, "--shards=1.5"), "--shards=1.5: expected a whole number"),
        ((*REQUIRED, "--shards=1e400"), "--shards=1e400: expected a whole number"),
        ((*REQUIRED, f"--shards={2**63}"), "expected a whole number, at least 1."),
        ((*REQUIRED, "--shards", "-3"), "--shards=-3: expected a whole number, at least 1."),
        ((*REQUIRED, "--shards=0"), "--shards=0: expected a whole number, at least 1."),
        ((*REQUIRED, "--share=.6"), "--share=.6: expected a number, at least 0 and at most 0.5."),
        ((*REQUIRED, "--share=-0.01"), "--share=-0.01: expected a number"),
        ((*REQUIRED, "--share=nan"), "--share=nan: expected a number"),
        ((*REQUIRED, "--share=inf"), "--share=inf: expected a number"),
        ((*REQUIRED, "--share=1e400"), "--share=1e400: expected a number"),
        ((*REQUIRED, "--share=0,5"), "--share=0,5: expected a number"),
        ((*REQUIRED, "--share=5%"), "--share=5%: expected a number"),
        ((*REQUIRED, "--rates=.1,1"), "--rates=1: expected a number, above 0 and below 1."),
        ((*REQUIRED, "--rates=x"), "--rates=x: expected a number"),
        ((*REQUIRED, "--size", "huge"), "--size=huge: expected one of small, large."),
        ((*REQUIRED, "--size=larg"), "Did you mean large?"),
        ((*REQUIRED, "--fast", "perhaps"), "--fast=perhaps: expected true or false."),
    ],
)
def test_values_that_are_none_are_refused(argv, message):
    with pytest.raises(PhraseLensError) as refused:
        parse(*argv)
    assert message in str(refused.value)


@given(st.floats() | st.integers(-(2**70), 2**70))
def test_a_number_is_taken_where_it_is_within_its_bounds(number):
    text = str(number)
    try:
        taken = parse(*REQUIRED, f"--share={text}").share
    except PhraseLensError:
        assert not 0 <= float(text) <= 0.5
    else:
        assert taken == float(text)
        assert 0 <= taken <= 0.5


def test_only_settings_decide_rows():
    settings = flags_lib.settings(parse(*REQUIRED, "--fast"))
    expected = {"shards": 4, "share": 0.5, "weights": None, "size": "small", "rates": ()}
    assert settings == expected


MINE = ("--log", "a", "--images", "b", "--output", "c")


def _parse(argv):
    return parsing.parse("mine_pairs", MiningConfig, "", argv)


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
    assert known(error) == (str(DEAD), Exit.BAD_INPUT)


def test_other_errors_are_not_known():
    assert known(ValueError("x: expected y. z")) is None
    assert known(RuntimeError("ValueError: AccountingErrors: x")) is None
    assert known(AccountingError("a", "b", "c")) == ("a: expected b. c", Exit.BUG)


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
    found = known(error)
    assert found is not None
    text, status = found
    assert "expected" in text
    assert "same command again" in text
    assert status == Exit.UNAVAILABLE


ROOT = work_folder.ROOT
FOLDERS = ("beam_jobs", "model_code", "schemas", "samples", "benchmarks", "deploy")


def configs() -> dict[str, type]:
    """Every dataclass of flags of the commands and benchmarks, by its module and name."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "= flag(" not in path.read_text(encoding="utf-8"):
                continue
            name_of = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            module = importlib.import_module(name_of)
            found |= {
                f"{name_of}.{name}": value
                for name, value in vars(module).items()
                if dataclasses.is_dataclass(value)
                and isinstance(value, type)
                and any("role" in field.metadata for field in dataclasses.fields(value))
            }
    return found


CONFIGS = configs()


def fields_of(role: str = ""):
    """Pairs of a config's name and one of its fields, of all configs."""
    return [
        (name, field)
        for name, of in CONFIGS.items()
        for field in dataclasses.fields(of)
        if role in ("", field.metadata["role"])
    ]


def test_there_are_configs_of_all_commands():
    assert len(CONFIGS) > 30
    assert {f"{folder}." for folder in FOLDERS} == {re.sub(r"\..*", ".", n) for n in CONFIGS}


def test_every_number_has_bounds_and_a_default_within_them():
    numbers = 0
    for name, field in fields_of():
        kind = flags_lib.value_type(typing.get_type_hints(CONFIGS[name])[field.name])
        kind = field.metadata["numbers"] or kind
        if kind not in (int, float):
            assert field.metadata["bounds"] == flags_lib.Bounds(), f"{name}.{field.name}"
            continue
        numbers += 1
        bounds = field.metadata["bounds"]
        assert bounds.minimum is not None or bounds.above is not None, f"{name}.{field.name}"
        values = field.default if isinstance(field.default, tuple) else (field.default,)
        for value in values:
            if value not in (dataclasses.MISSING, None):
                assert bounds.hold(float(value)), f"{name}.{field.name}"
    assert numbers > 150


def test_what_is_a_share_or_a_dropout_is_at_most_1():
    shares = [
        (name, field)
        for name, field in fields_of()
        if re.search(r"_share$|_fraction$|dropout", field.name)
    ]
    assert len(shares) > 15
    for name, field in shares:
        bounds = field.metadata["bounds"]
        assert bounds.minimum == 0, f"{name}.{field.name}"
        assert 1 in (bounds.maximum, bounds.below), f"{name}.{field.name}"


@functools.cache
def parser_of(name: str) -> Parser:
    return parser_for(CONFIGS[name], name, "")


def with_path(name: str, field: dataclasses.Field, path: str):
    """The path that a config holds when a flag has this value, and all that must have one has."""
    needed = [f for f in dataclasses.fields(CONFIGS[name]) if f.default is dataclasses.MISSING]
    values = {f.name: (f.metadata["choices"] or ("1",))[0] for f in needed} | {field.name: path}
    args = parser_of(name).read([f"--{flag_name}={value}" for flag_name, value in values.items()])
    found = getattr(command_line.from_args(CONFIGS[name], args), field.name)
    return found[0] if isinstance(found, tuple) and len(found) == 1 else found


BLANKS = ("", " ", "\t", "\u00a0")
ROOTS = ("/", "//", "/.", "/tmp/..", "file:///", "file:/")


@pytest.mark.parametrize("value", [*BLANKS, *ROOTS])
def test_every_output_refuses_an_empty_path_and_the_root(value):
    found = fields_of("output")
    assert len(found) > 25
    for name, field in found:
        with pytest.raises(PhraseLensError) as refused:
            with_path(name, field, value)
        assert str(refused.value).startswith(f"--{field.name} "), name


def test_every_place_that_is_written_is_an_output():
    """A flag with such a name decides where something is written."""
    for name, field in fields_of():
        if field.name in ("output", "workdir", "summary"):
            assert field.metadata["role"] == "output", name


ELSEWHERE = {
    "https://example.org/log.csv": "download it",
    "HTTP://example.org/log.csv": "download it",
    "s3://bucket/log": "aws s3 cp",
    "hdfs://host/log": "hdfs dfs -get",
    "abfs://box@account.example/log": "copy it",
    "gcs://bucket/log": "Did you mean gs://bucket/log?",
    "gs:/bucket/log": "gs://BUCKET/",
    "gs:///log": "gs://BUCKET/",
    "gs://": "gs://BUCKET/",
    "file://host/log": "file:///host/log",
    r"C:\Users\me\log": "/mnt/c/Users/me/log",
    "d:/log": "/mnt/d/log",
    "file:///C:/log": "/mnt/c/log",
    r"\\server\share": "WSL",
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_every_path_refuses_places_that_cannot_be_read_with_the_remedy(place):
    found = [*fields_of("input"), *fields_of("output")]
    assert len(found) > 90
    for name, field in found:
        with pytest.raises(PhraseLensError) as refused:
            with_path(name, field, place)
        assert ELSEWHERE[place] in str(refused.value), f"{name}.{field.name}"


def test_every_path_takes_a_file_uri_and_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    spellings = (f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a b", "~/a b")
    for name, field in [*fields_of("input"), *fields_of("output")]:
        for text in (*spellings, f"FILE:{tmp_path}/a%20b"):
            assert with_path(name, field, text) == f"{tmp_path}/a b", name


def test_a_needed_input_that_is_empty_is_refused():
    for blank in BLANKS:
        with pytest.raises(PhraseLensError, match=r"--log '.*': expected a path"):
            parse("--log", blank, "--output", "out")
    with pytest.raises(PhraseLensError, match="--forget ' ': expected a path"):
        parse(*REQUIRED, "--forget= ")
    assert parse(*REQUIRED, "--forget=").forget == ""


NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda name: name.strip() == name and name not in (".", ".."))


@given(st.lists(NAMES, min_size=1, max_size=3))
def test_paths_that_exist_are_taken_as_they_are_written(tmp_path_factory, names):
    """Whatever is in them: commas, brackets, tildes, quotes, percent signs, schemes, drives."""
    with contextlib.chdir(tmp_path_factory.mktemp("names")):
        paths = [os.path.join(str(n), name) for n, name in enumerate(names)]
        for path in paths:
            os.mkdir(os.path.dirname(path))
            Path(path).touch()
        if not os.path.exists(names[0]):
            Path(names[0]).touch()
        assert parse("--log", ",".join(paths), "--output=out").log == tuple(paths)
        flags = ("log", "output", "forget")
        found = parse(*(f"--{flag}={names[0]}" for flag in flags))
        assert (found.log, found.output, found.forget) == ((names[0],), names[0], names[0])


def test_a_comma_separates_patterns_unless_a_folder_or_a_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c,d", "c"):
        Path(name).mkdir()
    Path("a/x,y.csv").touch()
    cases = {
        "a/*.csv,b/*.csv": ("a/*.csv", "b/*.csv"),
        "c,d/*.csv": ("c,d/*.csv",),
        "c,d/**,a/*": ("c,d/**", "a/*"),
        "a/x,*.csv": ("a/x,*.csv",),
        "*/x,y.csv": ("*/x,y.csv",),
        "c,a": ("c", "a"),
        "a, b ,,c": ("a", "b", "c"),
        "gs://one/a,gs://two/b": ("gs://one/a", "gs://two/b"),
        "GS://one/a": ("gs://one/a",),
        "file:///a/x,file:///b/y": ("/a/x", "/b/y"),
        "~nobody-of-this-name/x": ("~nobody-of-this-name/x",),
    }
    for text, expected in cases.items():
        assert parse("--log", text, "--output=out").log == expected, text


CLASSIFY = ("--model=m", "--output=c")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--image", "photos/*.jpg"), "--image: expected only known flags. Did you mean --images?"),
        (("--image=p.jpg", "--modle=m"), "--images for --image, --model for --modle"),
        (("--images=a.jpg", "b.jpg"), "b.jpg: expected one value for each flag. Quote patterns"),
        (
            ("--images=a.jpg", "--direct_num_workers=x"),
            "--direct_num_workers=x: expected a whole",
        ),
        (("--images=a.jpg", "--gpu=nvidia-l4"), "--gpu: expected --runner=DataflowRunner"),
        (("--batch_size=0", "--images=a.jpg"), "--batch_size=0: expected a whole number"),
    ],
)
def test_jobs_say_what_is_wrong_with_their_flags(argv, message):
    with pytest.raises(PhraseLensError) as refused:
        parsing.parse("classify_images", classify_images.Config, "", [*CLASSIFY, *argv], True)
    assert message in str(refused.value)
