import ast
import importlib.util
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs import pipeline
from schemas import fingerprint, manifest
from schemas.errors import PhraseLensError
from tests import report_work

STEPS = {step.name: step for step in (pipeline.SAMPLES, *pipeline.STEPS)}
OWN = ("--log=log", "--images=images", "--labels=labels", "--workdir=w")


def fields_of(module: str, name: str = "Config") -> set[str]:
    """The fields of a module's class, which are its flags, without importing it."""
    with open(importlib.util.find_spec(module).origin) as f:
        nodes = ast.parse(f.read()).body
    (config,) = [n for n in nodes if isinstance(n, ast.ClassDef) and n.name == name]
    fields = {node.target.id for node in config.body if isinstance(node, ast.AnnAssign)}
    imported = {
        alias.name: node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for base in config.bases:
        if isinstance(base, ast.Attribute):  # of another job, such as mine_log.LogConfig
            fields |= fields_of(f"{imported[base.value.id]}.{base.value.id}", base.attr)
        else:
            fields |= fields_of(imported.get(base.id, module), base.id)
    return fields


@pytest.mark.parametrize("samples", [True, False])
@pytest.mark.parametrize("name", STEPS)
def test_every_flag_that_is_passed_exists(name, samples):
    step = STEPS[name]
    own = {"log": "l", "images": "i", "labels": "l", "columns": "query=q"}
    own |= {"image_columns": "key=k", "label_columns": "key=k"}
    config = pipeline.Config(
        workdir="w", preset="quickstart", samples=samples, **({} if samples else own)
    )
    assert set(pipeline.flags_of(step, config)) <= fields_of(step.module)


def test_days_are_made_to_forget_before_anything_is_read_of_them():
    flags = {"days": "days", "images": "i", "labels": "l", "forget": "list.csv"}
    config = pipeline.Config(workdir="w", **flags)
    pipeline.check(config)
    steps = pipeline.steps_of(config)
    assert [step.name for step in steps] == ["forget", *[s.name for s in pipeline.STEPS]]
    assert pipeline.flags_of(steps[0], config) == {"list": "list.csv", "days": "days"}
    mined = pipeline.flags_of(steps[1], config)
    assert (mined["days"], mined["forget"]) == ("days", "list.csv")
    assert "log" not in mined
    assert set(pipeline.flags_of(steps[0], config)) <= fields_of("beam_jobs.forget")


def test_every_stage_reads_what_an_earlier_one_wrote():
    written = set()
    for step in STEPS.values():
        assert set(step.inputs.values()) <= written
        written.add(step.output)


words = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
values = st.from_regex(r"[a-zA-Z0-9_=,/*-]{1,12}", fullmatch=True).filter(
    lambda v: not v.endswith(",")
)


@given(st.dictionaries(st.tuples(st.sampled_from(sorted(STEPS)), words), values))
def test_overrides_are_read_back(settings):
    text = ",".join(f"{stage}.{name}={value}" for (stage, name), value in settings.items())
    found = pipeline.parse_overrides(text, list(STEPS))
    assert {(s, n): v for s, flags in found.items() for n, v in flags.items()} == settings


@pytest.mark.parametrize("text", ["epochs=3", "train_fusoin.epochs=3", "train_fusion.epochs"])
def test_override_that_cannot_be_read_is_named(text):
    with pytest.raises(PhraseLensError, match=text):
        pipeline.parse_overrides(text, list(STEPS))


def test_set_beats_the_preset_and_beam_flags_reach_beam_jobs_only(capsys):
    flags = [
        "--preset=quickstart",
        "--set=train_text_generator.epochs=2",
        "--beam=--runner=X --y=2",
    ]
    assert pipeline.run([*OWN, *flags, "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(pipeline.STEPS)
    for line in lines:
        assert ("--runner=X --y=2" in line) == ("-m beam_jobs." in line)
        assert ("--epochs=2" in line) == ("train_text_generator" in line.split()[2])
        assert "--epochs=15" not in line


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--workdir=w"], "--log --images --labels"),
        (["--workdir=w", "--log=l", "--images=i"], "--labels: expected"),
        (["--workdir=w", "--samples", "--log=l"], "--samples: expected"),
        ([*OWN, "--epochs=3"], "--epochs=3: expected only known flags"),
    ],
)
def test_wrong_flags_are_refused_before_any_work(argv, says, capsys):
    assert pipeline.run(argv) == 2
    assert says in capsys.readouterr().err


def test_samples_are_found_through_their_manifest(tmp_path):
    root = report_work.write(str(tmp_path))
    run_id = manifest.Dataset(f"{root}/fusion").manifest.run_id
    found = pipeline.sample_inputs(f"{root}/fusion")
    assert found["images"] == f"{root}/fusion/runs/{run_id}/images/*.parquet"


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Two stages: `first` notes that it ran, `second` exits with the status in `status`."""
    note = f"open({str(tmp_path / 'ran')!r}, 'a').write"
    (tmp_path / "first.py").write_text(f"{note}('first ')")
    (tmp_path / "second.py").write_text(
        f"import sys; {note}('second '); sys.exit(int(open({str(tmp_path / 'status')!r}).read()))"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{fingerprint.ROOT}")
    return [pipeline.Step(n, n, f"does {n}", n, {}) for n in ("first", "second", "first")]


def test_stages_run_in_order_and_say_so(stages, tmp_path, capfd):
    (tmp_path / "status").write_text("0")
    assert pipeline.run_steps(pipeline.Config(workdir="w"), stages) == 0
    assert (tmp_path / "ran").read_text() == "first second first "
    out = capfd.readouterr().out
    assert [f"stage {n} of 3: " in out for n in (1, 2, 3)] == [True] * 3


def test_first_failure_stops_and_names_the_command(stages, tmp_path, capfd):
    (tmp_path / "status").write_text("7")
    assert pipeline.run_steps(pipeline.Config(workdir="w"), stages) == 7
    assert (tmp_path / "ran").read_text() == "first second "
    err = capfd.readouterr().err
    assert "second failed" in err
    assert f"{sys.executable} -m second --output=w/second" in err
    assert "give the same command again" in err


def test_results_show_the_table_the_report_and_the_next_command(tmp_path):
    root = report_work.write(str(tmp_path))
    from model_code import report, report_data

    assert report.run(["--work", root, "--output", f"{root}/report"]) == 0
    test = report_data.read_evaluation(manifest.Dataset(f"{root}/fusion"))["test"]
    text = pipeline.results(pipeline.Config(workdir=root, samples=True))
    for name, title in report_data.ABLATIONS.items():
        (line,) = [line for line in text.splitlines() if line.startswith(title)]
        shown = [float(value) for value in line.split()[1:]]
        assert shown == [pytest.approx(test[name][m], abs=5e-4) for m in ("top1", "top5", "map")]
    assert f"report: {manifest.Dataset(f'{root}/report').folder('report')}/report.html" in text
    assert "./run.sh all --log" in text


def test_driver_starts_without_beam_and_tensorflow():
    code = "import sys, beam_jobs.pipeline; print({'apache_beam', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
