"""What the DAG runs, as plain data: its settings, and the commands of one date.

Free of Airflow, so that a test can hold every command against the real flags, and of PhraseLens but
for the table of stages, which needs nothing but Python: a scheduler's workers have no more.
`{{ ds }}` is the date, which Airflow fills in.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

DATE = "{{ ds }}"
# Exit statuses of run.sh after which the same again fails again: a bug, bad input, what the gate
# refuses, what is corrupt. docs/operate/exit_codes.md says what to do about each.
LASTING = (1, 2, 3, 6)
VARIANTS = ("bash", "composer")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One work folder and how it is kept up to date; a JSON file holds it, by these names.

    Attributes:
      workdir: the work folder; gs:// for Composer.
      reprocess: flags of `./run.sh reprocess` by name: where the data is.
      day: flags of `./run.sh mine_log` by name, for the log of one date; {} without days.
      stages: stage → more of its flags by name, as {"embed_images": {"num_phrases": "5"}}.
      gate: flags of `./run.sh gate` by name, such as {"max_label_drift": "0.5"}.
      keep: snapshots that `gc` leaves.
      variant: "bash" runs everything on this machine; "composer" runs the Beam jobs as Flex
        Templates on Dataflow and all else as a Cloud Run job.
      schedule: cron, in UTC. The run of a date starts when the interval from it has ended.
      start_date: the first date; dates up to now that never ran are caught up, in order.
      retries: of each task but the gate.
      retry_minutes: before the first retry; each further one waits twice as long, up to an hour.
      alert_url: gets a JSON {"text": …} when a task has failed for good; "" for none.
      run_sh: for "bash": where run.sh lies; Airflow runs it in a folder of its own.
      project: for "composer": of Dataflow and Cloud Run.
      region: for "composer": likewise.
      templates: for "composer": folder of the Flex Templates, one <job>.json each.
      cloud_run_job: for "composer": the Cloud Run job whose image is that of the templates and
        whose entry point is run.sh.
      environment: for "composer": where jobs run, by the names of the API: tempLocation,
        stagingLocation, serviceAccountEmail, maxWorkers and others.
    """

    workdir: str
    reprocess: Mapping[str, str] = dataclasses.field(default_factory=dict)
    day: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stages: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    gate: Mapping[str, str] = dataclasses.field(default_factory=dict)
    keep: int = 7
    variant: str = "bash"
    schedule: str = "0 3 * * *"
    start_date: str = "2026-01-01"
    retries: int = 2
    retry_minutes: float = 5.0
    alert_url: str = ""
    run_sh: str = "/opt/phraselens/run.sh"
    project: str = ""
    region: str = ""
    templates: str = ""
    cloud_run_job: str = "phraselens"
    environment: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"variant {self.variant!r}: expected one of {', '.join(VARIANTS)}")
        needed = ("project", "region", "templates") if self.variant == "composer" else ()
        missing = [name for name in needed if not getattr(self, name)]
        if missing:
            raise ValueError(f"{', '.join(missing)}: the composer variant needs them")
        if self.variant == "bash" and not Path(self.run_sh).is_absolute():
            raise ValueError(f"run_sh {self.run_sh!r}: expected an absolute path")
        if "forget" in self.reprocess:
            # It puts its snapshot in use and deletes all others before the gate has seen it.
            raise ValueError(
                "reprocess.forget: expected no deletion list; give it to ./run.sh reprocess once, "
                "by hand, and to keep rows out to stages.mine_pairs.forget"
            )
        if self.variant == "composer" and {"set", "preset", "config"} & set(self.reprocess):
            raise ValueError(
                "reprocess.set, preset, config: expected settings of stages in `stages`, from "
                "which the Flex Templates get them too"
            )


def read_settings(path: str | Path) -> Settings:
    """The settings in a JSON file.

    Raises:
      ValueError: a name is unknown or a value cannot be.
    """
    fields = json.loads(Path(path).read_text(encoding="utf-8"))
    unknown = set(fields) - {field.name for field in dataclasses.fields(Settings)}
    if unknown:
        raise ValueError(f"{path}: unknown settings {', '.join(sorted(unknown))}")
    return Settings(**fields)


@dataclasses.dataclass(frozen=True)
class Command:
    """One task.

    Attributes:
      name: the command of run.sh, and the task's name.
      flags: its flags by name.
      on_dataflow: whether it is started as a Flex Template.
      retried: whether it is worth trying again.
      always: whether it runs also where the one before it failed.
    """

    name: str
    flags: Mapping[str, str]
    on_dataflow: bool = False
    retried: bool = True
    always: bool = False

    @property
    def arguments(self) -> list[str]:
        """What follows run.sh."""
        return [self.name, *(f"--{name}={value}" for name, value in self.flags.items())]


def commands(settings: Settings) -> tuple[Command, ...]:
    """The tasks of one date, each after the one before it.

    Every one of them is safe to run again: what is done is skipped, a snapshot that was in use
    never changes, and promoting what is in use does nothing.
    """
    work = {"workdir": settings.workdir}
    dated = work | {"date": DATE}
    composer = settings.variant == "composer"
    return (
        *((Command("mine_log", settings.day, on_dataflow=composer),) if settings.day else ()),
        *(beam_jobs(settings) if composer else ()),
        Command("reprocess", dated | dict(settings.reprocess) | overrides(settings)),
        # The same snapshot would be refused again.
        Command("gate", dated | dict(settings.gate), retried=False),
        Command("promote", dated),
        Command("gc", work | {"keep": str(settings.keep)}, always=True),
    )


def overrides(settings: Settings) -> dict[str, str]:
    """The stages' settings as `reprocess --set` takes them, after those of `reprocess.set`."""
    assignments = [
        *filter(None, [settings.reprocess.get("set")]),
        *(
            f"{stage}.{name}={value}"
            for stage, flags in settings.stages.items()
            for name, value in flags.items()
        ),
    ]
    return {"set": ",".join(assignments)} if assignments else {}


def beam_jobs(settings: Settings) -> tuple[Command, ...]:
    """The Beam jobs of `reprocess`, one by one: it finds them done, and does what is left.

    Without those that make training data, and those that read what no Beam job makes.
    """
    table, found = stages(), []
    made: set[str] = set()
    models = set(table.models())
    for stage in table.STAGES:
        inputs = set(stage.inputs.values())
        if not stage.is_beam_job or table.only_trained_on(stage) or not inputs <= models | made:
            continue
        made.add(stage.output)
        flags = {
            n: settings.reprocess[of] for n, of in stage.takes.items() if of in settings.reprocess
        }
        for name, dataset in stage.inputs.items():
            folder = f"current/{dataset}" if dataset in models else dataset
            flags[name] = f"{settings.workdir}/{folder}"
        output = f"{settings.workdir}/{stage.output}"
        flags |= {"reuse": output} if stage.reuses else {}
        flags |= {"output": output} | dict(settings.stages.get(stage.name, {}))
        found.append(Command(stage.name, flags, on_dataflow=True))
    return tuple(found)


def stages() -> ModuleType:
    """The table of stages: stages.py beside this file, or else where the repository has it.

    Raises:
      FileNotFoundError: it is in neither place.
    """
    here = Path(__file__).resolve().parent
    places = [here / "stages.py", *(p / "beam_jobs" / "runs" / "stages.py" for p in here.parents)]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        raise FileNotFoundError(f"{places[0]}: expected a copy of beam_jobs/runs/stages.py")
    spec = importlib.util.spec_from_file_location("phraselens_stages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flex_template(settings: Settings, command: Command) -> dict:
    """The body that launches a Beam job's Flex Template; the API wants hyphens in its name."""
    return {
        "launchParameter": {
            "jobName": f"phraselens-{command.name.replace('_', '-')}-{{{{ ds_nodash }}}}",
            "containerSpecGcsPath": f"{settings.templates.rstrip('/')}/{command.name}.json",
            "parameters": {"job": command.name, **command.flags},
            "environment": dict(settings.environment),
        }
    }


def cloud_run(command: Command) -> dict:
    """What a run of the Cloud Run job does instead of its default."""
    return {"container_overrides": [{"args": command.arguments}]}
