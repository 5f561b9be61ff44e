import ast
import importlib.util
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.runs import all_stages, overrides, reprocess, settings_file, stage_flags
from beam_jobs.runs import stages as stages_lib
from model_code.models.fusion.family import FUSION
from schemas.base import code_fingerprint
from schemas.base.errors import PhraseLensError
from schemas.datasets import dataset
from tests.support.datasets import report_work, work_folder

STAGES = {step.name: step for step in (stages_lib.SAMPLES, *stages_lib.STAGES)}
OWN = ("--log=log", "--images=images", "--labels=labels", "--workdir=w")


def fields_of(module: str, name: str = "Config") -> set[str]:
    """The fields of a module's class, which are its flags, without importing it."""
    with open(importlib.util.find_spec(module).origin) as f:
        nodes = ast.parse(f.read()).body
    imported = {
        alias.name: node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if name in imported:
        return fields_of(imported[name], name)
    (config,) = [n for n in nodes if isinstance(n, ast.ClassDef) and n.name == name]
    fields = {node.target.id for node in config.body if isinstance(node, ast.AnnAssign)}
    for base in config.bases:
        if isinstance(base, ast.Attribute):  # of another job, such as mine_log.LogConfig
            fields |= fields_of(f"{imported[base.value.id]}.{base.value.id}", base.attr)
        else:
            fields |= fields_of(imported.get(base.id, module), base.id)
    return fields


@pytest.mark.parametrize("samples", [True, False])
@pytest.mark.parametrize("name", STAGES)
def test_every_flag_that_is_passed_exists(name, samples):
    step = STAGES[name]
    own = {"log": "l", "images": "i", "labels": "l", "columns": "query=q"}
    own |= {"image_columns": "key=k", "label_columns": "key=k"}
    config = all_stages.Config(
        workdir="w", preset="quickstart", samples=samples, **({} if samples else own)
    )
    assert set(overrides.flags_of(step, config)) <= fields_of(step.module)


def test_days_are_made_to_forget_before_anything_is_read_of_them():
    flags = {"days": "days", "images": "i", "labels": "l", "forget": "list.csv"}
    config = all_stages.Config(workdir="w", **flags)
    all_stages.check(config)
    steps = all_stages.stages_of(config)
    assert [step.name for step in steps] == ["forget", *[s.name for s in stages_lib.STAGES]]
    assert overrides.flags_of(steps[0], config) == {"list": "list.csv", "days": "days"}
    mined = overrides.flags_of(steps[1], config)
    assert (mined["days"], mined["forget"]) == ("days", "list.csv")
    assert "log" not in mined
    assert set(overrides.flags_of(steps[0], config)) <= fields_of("beam_jobs.mining.forget")


def test_every_stage_reads_what_an_earlier_one_wrote():
    written = set()
    for step in STAGES.values():
        assert set(step.inputs.values()) <= written
        written.add(step.output)


words = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
values = st.from_regex(r"[a-zA-Z0-9_=,/*-]{1,12}", fullmatch=True).filter(
    lambda v: not v.endswith(",")
)


@given(st.dictionaries(st.tuples(st.sampled_from(sorted(STAGES)), words), values))
def test_overrides_are_read_back(settings):
    text = ",".join(f"{stage}.{name}={value}" for (stage, name), value in settings.items())
    found = overrides.parse_overrides(text, list(STAGES))
    assert {(s, n): v for s, flags in found.items() for n, v in flags.items()} == settings


@pytest.mark.parametrize("text", ["epochs=3", "train_fusoin.epochs=3", "train_fusion.epochs"])
def test_override_that_cannot_be_read_is_named(text):
    with pytest.raises(PhraseLensError, match=text):
        overrides.parse_overrides(text, list(STAGES))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train_fusoin.epochs=3", "Did you mean train_fusion?"),
        ("train_fusion.epochz=3", "Did you mean --epochs?"),
        ("train_fusion.epochs=many", "--epochs=many: expected a whole number"),
        ("train_fusion.epochs=", "--epochs=: expected a whole number"),
        ("train_text_embedder.width=2.5", "--width=2.5: expected a whole number"),
        ("train_text_embedder.learning_rate=fast", "expected a number"),
        ("train_fusion.pool=perhaps", "--pool=perhaps: expected true or false"),
        ("train_text_generator.candidates=best", "one of log_uniform, frequency, mixed"),
        ("train_text_generator.head_hidden=wide", "--head_hidden=wide: expected a whole number"),
        ("train_text_generator.devices=some", "--devices=some: expected whole numbers or all"),
        ("train_pixel_embedder.backbone=resnet5", "one of resnet101, resnet50, mobilenet"),
        ("train_pixel_embedder.weights=missing.h5", "missing.h5: expected the file"),
        ("train_fusion.layers=64-wide", "--layers=64-wide: expected widths"),
        ("train_fusion.layers=0", "--layers=0: expected widths"),
        (
            "train_fusion.dropouts=0.1,much",
            "--dropouts=much: expected a number, at least 0",
        ),
        ("train_fusion.dropouts=1", "--dropouts=1: expected a number, at least 0 and below 1"),
        ("train_fusion.learning_rates=nan", "--learning_rates=nan: expected a number, above 0"),
        ("train_fusion.weight_decays=", "--weight_decays=: expected one to try"),
        ("make_samples.images=3", "make_samples: --images=3: expected a whole number, at least"),
        ("report.gallery=all", "report: --gallery=all: expected a whole number"),
        ("mine_pairs.max_users=3", "Did you mean --min_users?"),
        ("prepare_pairs.backbone=resnet5", "one of resnet101, resnet50, mobilenet"),
        (
            "embed_images.num_phrases=0",
            "--num_phrases=0: expected a whole number, at least 1",
        ),
        ("embed_images.diversity=some", "one of none, merge, mmr"),
        ("embed_images.gpu=t4", "--gpu: expected --runner=DataflowRunner"),
        ("prepare_examples.task=several", "one of auto, single, multi"),
        ("classify_images.batch_size=0", "--batch_size=0: expected a whole number, at least 1"),
        ("train_fusion.output=elsewhere", "expected a setting of the stage"),
        ("mine_pairs.dry_run=true", "expected a setting of the stage"),
        ("train_fusion.epochs=3,embed_images.top=9", "embed_images: --top=9"),
    ],
)
def test_a_setting_that_a_stage_would_refuse_is_refused_at_once(text, says, capsys):
    assert all_stages.run([*OWN, f"--set={text}"]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert len(printed.err.splitlines()) == 1
    assert "stage 1" not in printed.out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("--num_workers=many", "--num_workers=many: expected a whole number"),
        ("--nmu_workers=3", "Did you mean --num_workers?"),
        ("--runner=NoSuch", "--runner=NoSuch: expected a runner that Beam has"),
        ("--runner=DataflowRunner", "Add --project=my-project"),
    ],
)
def test_pipeline_options_that_beam_would_refuse_are_refused_at_once(text, says, capsys):
    assert all_stages.run([*OWN, f"--beam={text}"]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert len(printed.err.splitlines()) == 1


def test_reprocess_refuses_the_same_settings(capsys):
    flags = [*OWN, "--date=2026-01-31"]
    assert reprocess.run([*flags, "--set=train_fusion.epochz=3"]) == 2
    assert "Did you mean --epochs?" in capsys.readouterr().err
    assert reprocess.run([*flags, "--beam=--nmu_workers=3"]) == 2
    assert "Did you mean --num_workers?" in capsys.readouterr().err


@pytest.mark.parametrize("preset", settings_file.presets())
def test_every_stage_takes_the_settings_of_every_preset(preset):
    config = all_stages.Config(workdir="w", preset=preset, samples=True)
    for step in STAGES.values():
        stage_flags.check(step.name, step.module, overrides.command_of(step, config)[3:])


def test_a_stage_to_stop_after_that_is_none_is_named_with_the_nearest(capsys):
    assert all_stages.run([*OWN, "--until=train_fusio"]) == 2
    assert "Did you mean train_fusion?" in capsys.readouterr().err


def test_set_beats_the_preset_and_beam_flags_reach_beam_jobs_only(capsys):
    flags = [
        "--preset=quickstart",
        "--set=train_text_generator.epochs=2",
        "--beam=--runner=DirectRunner --direct_num_workers=2",
    ]
    assert all_stages.run([*OWN, *flags, "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(stages_lib.STAGES)
    for line in lines:
        beam = "--runner=DirectRunner --direct_num_workers=2"
        assert (beam in line) == ("-m beam_jobs." in line)
        assert ("--epochs=2" in line) == ("text_generator.train" in line.split()[2])
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
    assert all_stages.run(argv) == 2
    assert says in capsys.readouterr().err


def test_samples_are_found_through_their_manifest(tmp_path):
    root = report_work.write(str(tmp_path))
    run_id = dataset.Dataset(f"{root}/fusion").manifest.run_id
    found = overrides.sample_inputs(f"{root}/fusion")
    assert found["images"] == f"{root}/fusion/runs/{run_id}/images/*.parquet"


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Two stages: `first` notes that it ran, `second` exits with the status in `status`."""
    note = f"open({str(tmp_path / 'ran')!r}, 'a').write"
    (tmp_path / "first.py").write_text(f"{note}('first ')")
    (tmp_path / "second.py").write_text(
        f"import sys; {note}('second '); sys.exit(int(open({str(tmp_path / 'status')!r}).read()))"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{work_folder.ROOT}")
    return [
        stages_lib.Stage(name=n, module=n, does=f"does {n}", output=n)
        for n in ("first", "second", "first")
    ]


def test_stages_run_in_order_and_say_so(stages, tmp_path, capfd):
    (tmp_path / "status").write_text("0")
    assert all_stages.run_stages(all_stages.Config(workdir="w"), stages) == 0
    assert (tmp_path / "ran").read_text() == "first second first "
    out = capfd.readouterr().out
    assert [f"stage {n} of 3: " in out for n in (1, 2, 3)] == [True] * 3


def test_first_failure_stops_and_names_the_command(stages, tmp_path, capfd):
    (tmp_path / "status").write_text("7")
    assert all_stages.run_stages(all_stages.Config(workdir="w"), stages) == 7
    assert (tmp_path / "ran").read_text() == "first second "
    err = capfd.readouterr().err
    assert "second failed" in err
    assert f"{sys.executable} -m second --output=w/second" in err
    assert "give the same command again" in err


def test_results_show_the_table_the_report_and_the_next_command(tmp_path):
    root = report_work.write(str(tmp_path))
    from model_code.report import data as report_data
    from model_code.report import pages as report

    assert report.run(["--work", root, "--output", f"{root}/report"]) == 0
    test = report_data.read_evaluation(dataset.Dataset(f"{root}/fusion"))["test"]
    text = all_stages.results(all_stages.Config(workdir=root, samples=True))
    for name, title in FUSION.systems.items():
        (line,) = [line for line in text.splitlines() if line.startswith(title)]
        shown = [float(value) for value in line.split()[1:]]
        assert shown == [pytest.approx(test[name][m], abs=5e-4) for m in ("top1", "top5", "map")]
    assert f"report: {dataset.Dataset(f'{root}/report').folder('report')}/report.html" in text
    assert "./run.sh all --log" in text


def test_driver_starts_without_beam_and_tensorflow():
    heavy = {"apache_beam", "tensorflow"}
    code = f"import sys, beam_jobs.runs.all_stages\nprint({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Of Beam's runners, Docker's build, argparse and run.sh.
OTHERS = {
    "help",
    "runner",
    "project",
    "job_name",
    "setup_file",
    "save_main_session",
    "build",
    "job",
}
OTHERS |= {"sdk_container_image", "flexrs_goal", "dataflow_service_options"}


def test_errors_name_flags_that_exist():
    flags, told = set(OTHERS), []
    for package in sorted(code_fingerprint.PACKAGES):
        for path in (work_folder.ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    flags |= {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "PhraseLensError":
                    constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                    told += [(path, text) for text in constants if isinstance(text, str)]
    assert len(told) > 300
    for path, text in told:
        for name in re.findall(r"--([a-z]\w*)", text):
            assert name in flags, f"{path}: {text}"
        for stage, name in re.findall(r"\b(\w+)\.([a-z_]+)\b", text):
            assert stage not in STAGES or name in fields_of(STAGES[stage].module), f"{path}: {text}"
