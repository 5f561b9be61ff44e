"""What the DAG runs are commands that exist, with flags that exist: no Airflow is needed to see."""

import dataclasses
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs.dataflow import flags as flags_lib
from beam_jobs.dataflow import submit
from beam_jobs.frame import parsing
from beam_jobs.mining import mine_log
from beam_jobs.models import classify_images
from beam_jobs.runs import all_stages, chosen
from model_code.gate import command as gate
from phraselens import commands
from schemas.maintenance import gc, promote
from schemas.runs import command_line, snapshots

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "airflow"
sys.path.insert(0, str(FOLDER))
import phraselens_commands  # noqa: E402
from phraselens_commands import Settings  # noqa: E402

CONFIGS = {
    "reprocess": chosen.Config,
    "gate": gate.Config,
    "promote": promote.Promote,
    "gc": gc.Config,
}
STAGES = ["mine_pairs", "embed_phrases", "embed_images"]
LAST = ["reprocess", "gate", "promote", "gc"]
NAMES = {"bash": ["mine_log", *LAST], "composer": ["mine_log", *STAGES, *LAST]}


def example(variant, bucket):
    """The settings beside the DAG, in a local folder instead of a bucket."""
    name = "phraselens.json" if variant == "bash" else f"phraselens.{variant}.json"
    text = (FOLDER / name).read_text().replace("gs://BUCKET", str(bucket))
    path = bucket / "settings.json"
    path.write_text(text)
    return phraselens_commands.read_settings(path)


def parse(command):
    """The config of a command, by the parser that the command itself uses."""
    argv = [argument.replace("{{ ds }}", "2026-01-31") for argument in command.arguments[1:]]
    if command.name in CONFIGS:
        return command_line.parse(CONFIGS[command.name], command.name, "", argv)
    module = importlib.import_module(submit.JOBS[command.name])
    return parsing.parse(command.name, module.Config, "", argv)[0]


@pytest.mark.parametrize("variant", phraselens_commands.VARIANTS)
def test_every_command_of_the_examples_parses(variant, tmp_path):
    settings = example(variant, tmp_path)
    commands = phraselens_commands.commands(settings)
    assert settings.variant == variant
    assert [command.name for command in commands] == NAMES[variant]
    for command in commands:
        parsed = parse(command)
        assert getattr(parsed, "workdir", settings.workdir) == settings.workdir
        if hasattr(parsed, "date"):
            snapshots.check_date(parsed.date)
    beam = {c.name for c in commands if c.on_dataflow}
    assert beam == ({"mine_log", *STAGES} if variant == "composer" else set())
    assert [c.name for c in commands if not c.retried] == ["gate"]


def flags_of_beam(where):
    """What --beam is in the settings for Composer or in the help of `./run.sh all`."""
    if where == "composer":
        return json.loads((FOLDER / "phraselens.composer.json").read_text())["reprocess"]["beam"]
    (found,) = re.findall(r'--beam "([^"]*)"', all_stages.__doc__)
    return found.replace("\\\n", "")


@pytest.mark.parametrize("where", ["composer", "all"])
def test_flags_of_beam_suffice_for_dataflow(where):
    """As classify_images gets them, the one Beam job that reprocess does by itself."""
    own = ["--model=gs://b/model", "--images=gs://b/*.jpg", "--output=gs://b/predictions"]
    beam = shlex.split(re.sub(r"[A-Z]{2,}", lambda name: name[0].lower(), flags_of_beam(where)))
    _, options = parsing.parse("classify_images", classify_images.Config, "", [*own, *beam], True)
    assert flags_lib.is_dataflow(options)


@pytest.mark.parametrize("name", NAMES["composer"])
def test_tasks_are_commands(name):
    assert commands.find([name])[0].name == name


def test_jobs_on_dataflow_read_write_and_set_what_reprocess_would(tmp_path):
    """Else reprocess would not find them done."""
    settings = Settings(
        workdir=str(tmp_path),
        variant="composer",
        project="p",
        region="r",
        templates="gs://b/t",
        reprocess={"days": "d", "images": "i", "labels": "l", "columns": "query=q"},
        stages={"embed_images": {"num_phrases": "5"}, "mine_pairs": {"num_shards": "2"}},
    )
    commands = {c.name: c for c in phraselens_commands.commands(settings)}
    config = parse(commands["reprocess"])
    steps = {step.name: step for step in chosen.stages_of(config)}
    for name in STAGES:
        where = {d: f"{tmp_path}/current/{d}" for d in chosen.MODELS}
        flags = chosen.flags_of(steps[name], config, where, {})
        ours = {k: v for k, v in commands[name].flags.items() if k != "reuse"}
        assert ours == flags, name
        if steps[name].reuses:
            assert commands[name].flags["reuse"] == commands[name].flags["output"]
    # And between its models and its snapshot it has no other Beam job than classifying.
    left = [s.name for s in steps.values() if s.module.startswith("beam_jobs.")]
    assert set(left) - set(commands) == {"classify_images"}


def test_flex_template_is_what_the_api_takes(tmp_path):
    settings = example("composer", tmp_path)
    command = next(c for c in phraselens_commands.commands(settings) if c.name == "embed_images")
    launch = phraselens_commands.flex_template(settings, command)["launchParameter"]
    assert launch["jobName"] == "phraselens-embed-images-{{ ds_nodash }}"
    assert launch["containerSpecGcsPath"] == f"{tmp_path}/templates/embed_images.json"
    assert launch["parameters"]["job"] == "embed_images"
    assert launch["parameters"]["batch_size"] == "64"
    assert all(isinstance(value, str) for value in launch["parameters"].values())
    assert launch["environment"]["tempLocation"] == f"{tmp_path}/tmp"


def test_settings_of_stages_join_those_of_set():
    settings = Settings(
        workdir="w",
        reprocess={"set": "train_fusion.epochs=5"},
        stages={"embed_images": {"num_phrases": "5"}},
    )
    (command,) = (c for c in phraselens_commands.commands(settings) if c.name == "reprocess")
    assert command.flags["set"] == "train_fusion.epochs=5,embed_images.num_phrases=5"


COMPOSER = {"workdir": "w", "variant": "composer", "project": "p", "region": "r", "templates": "t"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workdir": "w", "variant": "cron"}, "expected one of bash, composer"),
        ({"workdir": "w", "variant": "composer", "project": "p"}, "region, templates"),
        ({"workdir": "w", "reproces": {}}, "unknown settings reproces"),
        ({"workdir": "w", "run_sh": "./run.sh"}, "an absolute path"),
        ({"workdir": "w", "reprocess": {"forget": "list.csv"}}, "no deletion list"),
        (COMPOSER | {"reprocess": {"set": "train_fusion.epochs=5"}}, "settings of stages"),
        (COMPOSER | {"reprocess": {"preset": "quickstart"}}, "settings of stages"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, fields, message):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        phraselens_commands.read_settings(path)


RUN_SH = FOLDER.parents[1] / "run.sh"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("--help", "usage: ./run.sh COMMAND"),
        ("train --help", "text_embedder"),
        ("train -h", "pixel_embedder"),
        ("submit --help", "classify_images"),
        ("bench --help", "incremental"),
        ("setup --help", "--airflow"),
        ("setup --gpu --help", "setup [--gpu]"),
        ("test --help", "test --fuzz SECONDS"),
        ("lock --help", "lock [--upgrade]"),
    ],
)
def test_help_needs_no_environment_and_makes_none(words, shown, tmp_path):
    environment = os.environ | {"PHRASELENS_VENV": str(tmp_path / "venv")}
    done = subprocess.run(
        [RUN_SH, *words.split()], env=environment, capture_output=True, encoding="utf-8"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout
    assert not (tmp_path / "venv").exists()


PAGES = FOLDER.parents[1] / "docs" / "operate"
DOCS = (PAGES / "schedule.md").read_text()


def test_launch_of_the_docs_has_flags_of_its_job(tmp_path):
    text = re.search(r"```json\n(.*?)```", DOCS, re.DOTALL)[1].replace("gs://BUCKET", str(tmp_path))
    launch = json.loads(text)["launchParameter"]
    flags = dict(launch["parameters"])
    name = flags.pop("job")
    assert launch["containerSpecGcsPath"].endswith(f"/{name}.json")
    assert parse(phraselens_commands.Command(name, flags)).output == flags["output"]


def test_cron_line_of_the_docs_mines_the_day_that_it_reprocesses(tmp_path):
    """As a shell runs it, with a run.sh that writes down how it was called."""
    (line,) = [line for line in DOCS.splitlines() if line.startswith("0 3 * * *")]
    shell = line.removeprefix("0 3 * * * ").replace(r"\%", "%")
    for path in ("/opt/phraselens", "/var/lock/phraselens.lock", "/var/log/phraselens.log"):
        assert path in shell
        shell = shell.replace(path, str(tmp_path / path.rpartition("/")[2]))
    (tmp_path / "phraselens").mkdir()
    stub = tmp_path / "phraselens" / "run.sh"
    stub.write_text('#!/bin/sh\nprintf "%s\\t" "$@"\necho\n')
    stub.chmod(0o755)
    subprocess.run(["sh", "-c", shell], check=True)

    calls = (tmp_path / "phraselens.log").read_text().splitlines()
    found = [call.rstrip("\t").split("\t") for call in calls]
    assert [name for name, *_ in found] == NAMES["bash"]
    (_, *day), *rest = found
    mined, _ = parsing.parse("mine_log", mine_log.Config, "", day)
    parsed = {name: command_line.parse(CONFIGS[name], name, "", argv) for name, *argv in rest}
    date = parsed["reprocess"].date
    snapshots.check_date(date)
    assert {date, parsed["gate"].date, parsed["promote"].date, mined.partition} == {date}
    assert mined.output == f"{parsed['reprocess'].days}/{date}"
    assert mined.log == (f"/data/logs/{date}/*",)
    assert {config.workdir for config in parsed.values()} == {"/data/mine"}


def test_limits_of_the_docs_are_the_defaults():
    page = (PAGES / "gate.md").read_text()
    for field in dataclasses.fields(gate.gate_checks.Limits):
        if field.name.startswith("max_"):
            assert f"`--{field.name}` {field.default:g} " in page, field.name
        else:
            assert f"`--{field.name}` [{field.default:g}]" in page, field.name
