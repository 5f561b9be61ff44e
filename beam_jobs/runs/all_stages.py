"""Runs every stage in order, from a click log and images to a report.

Reads the log, images and labels (or, with --samples, draws them first); writes one dataset a stage
below --workdir. Each stage runs in a process of its own. A stage that is done already says so and
does nothing, so that a run that stopped goes on when the same command is given again, and a run
every night does only what new data needs. With --forget nothing of the images and people on that
list stays in any dataset below --workdir, in --days, or in what earlier runs left there:
snapshots are deleted too.

  ./run.sh all --log 'log/*.parquet' --images 'images/**' --labels labels.csv --workdir work/mine
  ./run.sh all --days days/ --images 'images/**' --labels labels.csv --workdir work/mine \\
      --forget deletions.csv
  ./run.sh all … --dry_run
  ./run.sh all … --set train_fusion.epochs=50,embed_images.num_phrases=5
  ./run.sh all … --beam "--runner=DataflowRunner --project=PROJECT --region=REGION \\
      --temp_location=gs://BUCKET/tmp --image=REPOSITORY/phraselens:1"
"""

import dataclasses
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence

from beam_jobs.mining import check as mined_check
from beam_jobs.runs import stage_flags
from model_code.metrics.evaluation import decimals, unmeasured
from model_code.report.data import ABLATIONS, METRICS, read_evaluation
from schemas.base import storage
from schemas.base.errors import Exit, PhraseLensError, tell
from schemas.console import launch, quiet
from schemas.console.flags import flag
from schemas.console.progress import duration
from schemas.datasets import dataset, manifest
from schemas.maintenance import forgetting
from schemas.runs import command_line

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
        "Click log: file or glob, in a format of docs/formats.md.", default="", role="input"
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


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    until: str = flag("Stop after this stage.", default="", role="runtime")
    dry_run: bool = flag("Print the commands and run nothing.", default=False, role="runtime")


@dataclasses.dataclass(frozen=True)
class Step:
    """One stage of the run.

    Attributes:
      name: the stage, and the part before the dot in --set.
      module: what `python -m` runs.
      does: what people see while it runs.
      output: its dataset's folder below the work folder.
      inputs: flag → dataset below the work folder.
    """

    name: str
    module: str
    does: str
    output: str
    inputs: Mapping[str, str]


def _step(name: str, module: str, does: str, output: str, *inputs: str, **renamed: str) -> Step:
    return Step(name, module, does, output, {i: i for i in inputs} | renamed)


SAMPLES = _step(
    "make_samples", "samples.make_samples", "draws scenes, a click log and labels", "samples"
)
FORGET = Step(
    "forget", "beam_jobs.mining.forget", "deletes from days what must be forgotten", "", {}
)
STEPS = (
    _step(
        "mine_pairs",
        "beam_jobs.mining.mine_pairs",
        "finds who chose which image for which query",
        "mined",
    ),
    _step(
        "prepare_pairs",
        "beam_jobs.models.prepare_pairs",
        "brings clicked images to training resolution, with their queries",
        "training_pairs",
        "mined",
    ),
    _step(
        "train_text_generator",
        "model_code.models.text_generator.train",
        "learns to predict queries from pixels",
        "text_generator",
        pairs="training_pairs",
    ),
    _step(
        "train_text_embedder",
        "model_code.models.text_embedder.train",
        "learns which queries mean alike",
        "text_embedder",
        "mined",
    ),
    _step(
        "embed_phrases",
        "beam_jobs.models.embed_phrases",
        "gives every query its vectors and builds the phrase index",
        "phrases",
        "mined",
        "text_embedder",
        generator="text_generator",
    ),
    _step(
        "train_pixel_embedder",
        "model_code.models.pixel_embedder.train",
        "prepares the pixel network",
        "pixel_embedder",
        "mined",
    ),
    _step(
        "embed_images",
        "beam_jobs.models.embed_images",
        "predicts phrases and embeds text and pixels of every image",
        "features",
        "mined",
        "pixel_embedder",
        "phrases",
        generator="text_generator",
    ),
    _step(
        "prepare_examples",
        "beam_jobs.models.prepare_examples",
        "checks and normalises the labelled images' features",
        "examples",
        "features",
    ),
    _step(
        "train_fusion",
        "model_code.models.fusion.train",
        "trains and compares the pixel-only, text-only and fused classifiers",
        "fusion",
        "examples",
    ),
    _step(
        "export_model",
        "model_code.models.fusion.export",
        "joins all networks into one model: image bytes to labels and phrases",
        "model",
        "pixel_embedder",
        "phrases",
        "fusion",
        generator="text_generator",
    ),
    _step(
        "classify_images",
        "beam_jobs.models.classify_images",
        "classifies every image",
        "predictions",
        "model",
    ),
    _step("report", "model_code.report.pages", "writes the report and the cards", "report"),
)


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


def flags_of(step: Step, config: RunConfig) -> dict[str, str]:
    """The flags of a stage: inputs, then the preset's settings, then those of `--set`."""
    flags = {name: storage.join(config.workdir, path) for name, path in step.inputs.items()}
    if step.name == "mine_pairs" and config.samples:
        flags |= sample_inputs(storage.join(config.workdir, SAMPLES.output))
    elif step.name == "mine_pairs":
        names = ("log", "days", "forget", "person_key", "images", "labels")
        names += ("columns", "image_columns", "label_columns")
        flags |= {name: getattr(config, name) for name in names if getattr(config, name)}
    elif step.name == "forget":
        flags |= {"list": config.forget, "days": config.days}
        flags |= {"person_key": config.person_key} if config.person_key else {}
    elif step.name == "classify_images":
        flags |= {
            "images": sample_inputs(storage.join(config.workdir, SAMPLES.output))["images"]
            if config.samples
            else config.images
        }
        flags |= {"image_columns": config.image_columns} if config.image_columns else {}
    elif step.name == "report":
        flags["work"] = config.workdir
    names = [s.name for s in (SAMPLES, FORGET, *STEPS)]
    for settings in (PRESETS[config.preset], parse_overrides(config.set, names)):
        flags |= settings.get(step.name, {})
    output = {"output": storage.join(config.workdir, step.output)} if step.output else {}
    return flags | output


def command_of(step: Step, config: RunConfig) -> list[str]:
    """The command line of a stage."""
    flags = [f"--{name}={value}" for name, value in flags_of(step, config).items()]
    beam = shlex.split(config.beam) if step.module.startswith("beam_jobs.") else []
    return [sys.executable, "-m", step.module, *flags, *quiet.flags(), *beam]


def ablation_table(evaluation: Mapping) -> str:
    """The test split's results as text: a row for each classifier, a column a metric, and notes."""
    lines = [f"{'':12}" + "".join(f"{title:>8}" for title in METRICS.values())]
    for key, title in ABLATIONS.items():
        values = evaluation["test"][key]
        lines.append(f"{title:12}" + "".join(f"{decimals(values[name]):>8}" for name in METRICS))
    return "\n".join([*lines, *unmeasured(evaluation)])


def results(config: Config) -> str:
    """What people want to see at the end: the ablation table, the report, the next command."""
    evaluation = read_evaluation(dataset.Dataset(storage.join(config.workdir, "fusion")))
    report = dataset.Dataset(storage.join(config.workdir, "report")).folder("report")
    if config.samples:
        following = "now your own data:\n  ./run.sh all --log 'LOG/*.parquet' --images 'IMAGES/**'"
        following += " --labels LABELS.csv --workdir work/mine"
    else:
        model = storage.join(config.workdir, "model")
        following = f"next:\n  ./run.sh classify_images --model {model} --images 'NEW/**'"
        following += f" --output {storage.join(config.workdir, 'new_predictions')}"
    return (
        f"\nOn {evaluation['rows']['test']:,} test images that no model has seen:\n\n"
        f"{ablation_table(evaluation)}\n\n"
        f"report: {storage.join(report, 'report.html')}\n{following}"
    )


def check(config: RunConfig) -> None:
    """Refuses flags that cannot work, before any stage starts.

    Raises:
      PhraseLensError: inputs are missing or doubled, `--set` cannot be read, or a stage would not
        take the flags that `--set` and `--beam` give it.
    """
    needed = ("days" if config.days else "log", "images", "labels")
    missing = [f"--{name}" for name in needed if not getattr(config, name)]
    if config.samples and len(missing) < 3:
        raise PhraseLensError(
            "--samples", "no --log, --images or --labels beside it", "Use one or the other."
        )
    if not config.samples and missing:
        raise PhraseLensError(
            " ".join(missing), "the paths of your data", "Give them, or use ./run.sh quickstart."
        )
    steps = (SAMPLES, FORGET, *STEPS)
    overrides = parse_overrides(config.set, [step.name for step in steps])
    for step in steps:
        is_beam = step.module.startswith("beam_jobs.")
        if step.name in overrides or (config.beam and is_beam and step is not FORGET):
            stage_flags.check(step.name, step.module, command_of(step, config)[3:])


def steps_of(config: Config) -> tuple[Step, ...]:
    """The stages to run.

    Raises:
      PhraseLensError: `--until` names none of them.
    """
    first = (SAMPLES,) if config.samples else (FORGET,) if config.days and config.forget else ()
    steps = (*first, *STEPS)
    names = [step.name for step in steps]
    if config.until and config.until not in names:
        raise PhraseLensError(
            f"--until={config.until}",
            f"one of {', '.join(names)}",
            stage_flags.nearest(config.until, names),
        )
    return steps[: names.index(config.until) + 1] if config.until else steps


def run_steps(config: Config, steps: Sequence[Step]) -> int:
    """Runs the stages one after the other; returns the exit status of the first that fails.

    Raises:
      PhraseLensError: what was mined is not enough for a later stage.
    """
    for n, step in enumerate(steps, 1):
        command = command_of(step, config)
        print(f"\nstage {n} of {len(steps)}: {step.name} — {step.does}", flush=True)
        start = time.monotonic()
        status = launch.call(command)
        took = duration(time.monotonic() - start)
        if status:
            print(
                f"error: {step.name} failed after {took} with exit status {status}:\n"
                f"  {shlex.join(command)}\n"
                "Mend what it says, then give the same command again: what is done stays done.",
                file=sys.stderr,
            )
            return status if status > 0 else Exit.UNAVAILABLE  # it was killed
        print(f"{step.name}: {took}", flush=True)
        if step.name == "mine_pairs":
            check_mined(config, {later.name: flags_of(later, config) for later in steps[n:]})
    return 0


def check_mined(config: RunConfig, later: Mapping[str, Mapping[str, str]]) -> None:
    """Says what was mined, and refuses what a later stage could not work with.

    Args:
      config: of the run.
      later: the flags of the stages that come, stage → flag → value.

    Raises:
      PhraseLensError: one of them would fail.
    """
    mined_check.check_dataset(storage.join(config.workdir, "mined"), later)


def delete_the_rest(work: str, date: str = "", done: Sequence[Step] = STEPS) -> None:
    """Deletes what must be forgotten where it may still lie; see `forgetting.forget`.

    Args:
      work: the work folder.
      date: the snapshot that was made without it, or "".
      done: the stages that were made without it, or never held it; of others nothing stays.
    """
    for folder in forgetting.forget(work, [step.output for step in done if step.output], date):
        print(f"deleted {folder}: it was made of what must be forgotten; make it again if needed")


def run(argv: Sequence[str] | None = None) -> int:
    try:
        config = command_line.parse(Config, "./run.sh all", __doc__ or "", argv)
        check(config)
        steps = steps_of(config)
        if config.dry_run:
            for step in steps:
                print(shlex.join(["python", *command_of(step, config)[1:]]))
            return 0
        start = time.monotonic()
        status = run_steps(config, steps)
        if not status:
            print(f"\nall {len(steps)} stages: {duration(time.monotonic() - start)}")
            if config.forget:
                delete_the_rest(config.workdir, done=steps)
            if not config.until:
                print(results(config))
        return status
    except PhraseLensError as error:
        return tell(error)


if __name__ == "__main__":
    sys.exit(run())
