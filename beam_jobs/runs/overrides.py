"""The flags of a run, and those that it gives to each stage."""

import dataclasses
import functools
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs.runs import settings_file, stage_flags
from beam_jobs.runs.stages import FORGET, SAMPLES, STAGES, Stage
from schemas.base import places, storage
from schemas.base.errors import PhraseLensError
from schemas.console import quiet
from schemas.console.flags import flag
from schemas.console.parser import parser_for
from schemas.datasets import manifest
from schemas.runs import command_line

# The stages whose flags a run sets.
TODO = (SAMPLES, FORGET, *STAGES)
NAMES = [stage.name for stage in TODO]


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
    forget: str = flag(
        "Deletion list: images, and what people typed.", default="", role="input", essential=False
    )
    person_key: str = flag(
        "The key file that mine_log was given for the days.",
        default="",
        role="input",
        essential=False,
    )
    images: str = flag(
        "Images: files, glob, TFRecord, or a table with a bytes column.", default="", role="input"
    )
    labels: str = flag("Labels of some of the images: file or glob.", default="", role="input")
    columns: str = flag(
        "The log's columns, ours=yours, where names differ.", default="", essential=True
    )
    image_columns: str = flag("The image table's columns, likewise.", default="")
    label_columns: str = flag("The label table's columns, likewise.", default="")
    samples: bool = flag("Draw sample data and use it as log, images and labels.", default=False)
    config: str = flag(
        "Settings in a TOML file: a table a stage, and [run] for flags of this command.",
        default="",
        role="input",
    )
    preset: str = flag(
        "Settings that come along, below those of --config.",
        default="",
        choices=settings_file.presets(),
        essential=True,
    )
    set: str = flag(
        "Settings over those of --config: STAGE.FLAG=VALUE,STAGE.FLAG=VALUE…",
        default="",
        essential=True,
    )
    beam: str = flag("Pipeline options for every Beam job, in one word.", default="")

    # Read once, so that a run keeps the settings that were checked before its first stage.
    @functools.cached_property
    def tables(self) -> Mapping[str, settings_file.Table]:
        """The tables of --config by their names."""
        return settings_file.read(self.config, NAMES) if self.config else {}

    @functools.cached_property
    def set_flags(self) -> Mapping[str, Mapping[str, str]]:
        """Stage → flag → value, of --set."""
        return parse_overrides(self.set, NAMES)

    def settings(self, stage: str) -> dict[str, str]:
        """Flag → value of a stage: the preset's, over them --config's, over them --set's."""
        preset = settings_file.preset(self.preset, NAMES) if self.preset else {}
        found: dict[str, str] = {}
        for tables in (preset, self.tables):
            if stage in tables:
                found |= tables[stage].flags()
        return found | dict(self.set_flags.get(stage, {}))


def parse(
    config: type[RunConfig], command: str, doc: str | None, argv: Sequence[str] | None
) -> Any:
    """Parses a command line; what it does not say, the table `run` of --config may.

    Raises:
      PhraseLensError: a flag is unknown, missing, or has a value that it cannot have.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = parser_for(config, command, doc)
    given = parser.read_known(argv)[0].config
    table = settings_file.Table(given, settings_file.RUN, {})
    if given:
        tables = settings_file.read(places.place_of("config", given), NAMES)
        table = tables.get(settings_file.RUN, table)
        table.check(config)
    try:
        args, unknown = parser.read_known([*command_line_of(table.flags()), *argv])
        parser.refuse(args, unknown)
        return command_line.from_args(config, args)
    except PhraseLensError as error:
        names = [word.removeprefix("--").partition("=")[0] for word in argv]
        raise table.own(error, names) from error


def command_line_of(flags: Mapping[str, str]) -> list[str]:
    """The words of flags on a command line."""
    return [f"--{name}={value}" for name, value in flags.items()]


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
    """The flags of a stage: inputs, then the settings of the run."""
    flags = {name: storage.join(config.workdir, path) for name, path in stage.inputs.items()}
    given = dataclasses.asdict(config)
    if config.samples:
        given |= sample_inputs(storage.join(config.workdir, SAMPLES.output))
    given["datasets"] = ",".join(s.output for s in (SAMPLES, *STAGES) if s is not stage)
    flags |= {name: given[of] for name, of in stage.takes.items() if given[of]}
    flags |= config.settings(stage.name)
    output = {"output": storage.join(config.workdir, stage.output)} if stage.output else {}
    return flags | output


def command_of(stage: Stage, config: RunConfig) -> list[str]:
    """The command line of a stage."""
    flags = command_line_of(flags_of(stage, config))
    beam = shlex.split(config.beam) if stage.is_beam_job else []
    return [sys.executable, "-m", stage.module, *flags, *quiet.flags(), *beam]
