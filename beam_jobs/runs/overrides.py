"""The flags of a run, and those that it gives to each stage."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence

from beam_jobs.runs import stage_flags
from beam_jobs.runs.stages import FORGET, SAMPLES, STAGES, Stage
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console import quiet
from schemas.console.flags import flag
from schemas.datasets import manifest

# Settings of the stages by preset: "standard" keeps each stage's own defaults, "quickstart" is
# small enough for the sample data on two cores.
PRESETS: dict[str, dict[str, dict[str, str]]] = {
    "standard": {},
    "quickstart": {
        "make_samples": {"images": "4000", "workers": "2"},
        "prepare_pairs": {
            "backbone": "small_resnet",
            "image_size": "64",
            "min_query_images": "3",
        },
        "train_text_generator": {
            "epochs": "40",
            "patience": "12",
            "batch_size": "32",
            "learning_rate": "0.002",
            "query_learning_rate": "0.3",
        },
        "train_text_embedder": {
            "buckets": "16384",
            "epochs": "6",
            "max_steps_per_epoch": "100",
        },
        "train_pixel_embedder": {
            "backbone": "small_resnet",
            "image_size": "64",
            "epochs": "60",
            "patience": "15",
            "batch_size": "32",
            "learning_rate": "0.002",
        },
    },
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What every run of the stages takes."""

    workdir: str = flag("Folder for the datasets of all stages; local or gs://.", role="output")
    log: str = flag(
        "Click log: file or glob, in a format of docs/use/formats.md.", default="", role="input"
    )
    days: str = flag(
        "Folder of days that mine_log wrote, instead of --log.", default="", role="input"
    )
    forget: str = flag("Deletion list: images, and what people typed.", default="", role="input")
    person_key: str = flag(
        "The key file that mine_log was given for the days.", default="", role="input"
    )
    images: str = flag(
        "Images: files, glob, TFRecord, or a table with a bytes column.", default="", role="input"
    )
    labels: str = flag("Labels of some of the images: file or glob.", default="", role="input")
    columns: str = flag("The log's columns, ours=yours, where names differ.", default="")
    image_columns: str = flag("The image table's columns, likewise.", default="")
    label_columns: str = flag("The label table's columns, likewise.", default="")
    samples: bool = flag("Draw sample data and use it as log, images and labels.", default=False)
    preset: str = flag("Settings of all stages.", default="standard", choices=tuple(PRESETS))
    set: str = flag("Settings over the preset's: STAGE.FLAG=VALUE,STAGE.FLAG=VALUE…", default="")
    beam: str = flag("Pipeline options for every Beam job, in one word.", default="")


def parse_overrides(text: str, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Reads `--set`.

    Args:
      text: STAGE.FLAG=VALUE, joined by commas; values may hold commas themselves.
      names: the stages there are.

    Returns:
      stage → flag → value.

    Raises:
      PhraseLensError: an assignment cannot be read or names no stage.
    """
    overrides: dict[str, dict[str, str]] = {}
    for part in re.split(r",(?=\w+\.\w+=)", text) if text else []:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.*)", part, re.DOTALL)
        if not match:
            raise PhraseLensError(
                f"--set {part}", "STAGE.FLAG=VALUE", "Example: --set train_fusion.epochs=50"
            )
        if match[1] not in names:
            raise PhraseLensError(
                f"--set {part}",
                f"one of the stages {', '.join(names)}",
                stage_flags.nearest(match[1], names),
            )
        if match[2] in stage_flags.OF_THE_RUN:
            raise PhraseLensError(
                f"--set {part}",
                f"a setting of the stage, not --{match[2]}",
                "Leave it out: --workdir says where all stages write, --dry_run runs none.",
            )
        overrides.setdefault(match[1], {})[match[2]] = match[3]
    return overrides


def sample_inputs(root: str) -> dict[str, str]:
    """The flags that make the sample dataset at `root` the input of mine_pairs."""
    found = manifest.read(root)
    run = storage.join(root, "runs", found.run_id if found else "RUN_ID")
    tables = {"log": "click_log", "images": "images", "labels": "labels"}
    return {flag_name: f"{run}/{table}/*.parquet" for flag_name, table in tables.items()}


def flags_of(stage: Stage, config: RunConfig) -> dict[str, str]:
    """The flags of a stage: inputs, then the preset's settings, then those of `--set`."""
    flags = {name: storage.join(config.workdir, path) for name, path in stage.inputs.items()}
    given = dataclasses.asdict(config)
    if config.samples:
        given |= sample_inputs(storage.join(config.workdir, SAMPLES.output))
    given["datasets"] = ",".join(s.output for s in (SAMPLES, *STAGES) if s is not stage)
    flags |= {name: given[of] for name, of in stage.takes.items() if given[of]}
    names = [s.name for s in (SAMPLES, FORGET, *STAGES)]
    for settings in (PRESETS[config.preset], parse_overrides(config.set, names)):
        flags |= settings.get(stage.name, {})
    output = {"output": storage.join(config.workdir, stage.output)} if stage.output else {}
    return flags | output


def command_of(stage: Stage, config: RunConfig) -> list[str]:
    """The command line of a stage."""
    flags = [f"--{name}={value}" for name, value in flags_of(stage, config).items()]
    beam = shlex.split(config.beam) if stage.is_beam_job else []
    return [sys.executable, "-m", stage.module, *flags, *quiet.flags(), *beam]
