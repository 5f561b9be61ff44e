"""What a reprocess is made of: its flags, its stages, and the runs that they read and reuse."""

import dataclasses
import shlex
from collections.abc import Mapping

from beam_jobs.runs import overrides, stages
from beam_jobs.runs.stages import Stage
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.console import quiet
from schemas.console.flags import flag
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.runs import pointer, snapshots

MODELS = stages.models()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(overrides.RunConfig):
    date: str = flag("The snapshot's name, such as 2026-01-31.", role="runtime")
    retrain: tuple[str, ...] = flag(
        f"Models to train again, of {', '.join(MODELS)}; or none.",
        default=("none",),
        essential=True,
    )
    summary: str = flag(
        "Another file for what each stage did, with times, as JSON, beside the one in "
        "<workdir>/summaries.",
        default="",
        role="output",
        essential=False,
    )
    detailed_exit_code: bool = flag(
        "End with status 10 where there was nothing to do.", default=False, role="runtime"
    )
    dry_run: bool = flag(
        "Print the plan and run nothing.", default=False, role="runtime", essential=True
    )


def retrained(config: Config) -> tuple[str, ...]:
    """The models that are trained: those asked for, and what is made of them.

    Raises:
      PhraseLensError: `--retrain` names no model, or would keep what must be forgotten.
    """
    asked = tuple(name for name in config.retrain if name != "none")
    unknown = [name for name in asked if name not in MODELS]
    if unknown:
        raise PhraseLensError(
            f"--retrain {','.join(unknown)}", f"some of {', '.join(MODELS)}, or none", "Correct it."
        )
    if asked and config.forget:
        raise PhraseLensError(
            "--retrain with --forget",
            "one of them: what is forgotten cannot wait for the new model to pass its checks",
            "Forget first, then train again under another --date.",
        )
    return stages.trained_with(asked)


def stages_of(config: Config) -> tuple[Stage, ...]:
    """The stages to run, in order."""
    trained = retrained(config)

    def runs(stage: Stage) -> bool:
        if stage.trains:
            return stage.output in trained
        committed = manifest.read(storage.join(config.workdir, stage.output)) is not None
        # What only training reads is made when something is trained.
        if models := stages.only_trained_on(stage):
            return bool(set(models) & set(trained) or (config.forget and committed))
        return stage.name != "report" or bool(config.forget and committed)

    first = (stages.FORGET,) if config.days and config.forget else ()
    return (*first, *(stage for stage in stages.STAGES if runs(stage)))


def models_in_use(config: Config) -> dict[str, str]:
    """Model → folder of the run that is in use.

    A model that was never trained is not among them, where no other stage needs it.

    Raises:
      PhraseLensError: one that others need was never trained.
    """
    current = pointer.current(config.workdir)
    if current:
        names = {*stages.needed_models(), *(set(MODELS) & set(current.datasets))}
        return {name: current.path(name) for name in MODELS if name in names}
    folders = {name: storage.join(config.workdir, name) for name in MODELS}
    needed = stages.needed_models()
    return {
        name: Dataset(folder).run_folder
        for name, folder in folders.items()
        if name in needed or manifest.read(folder) is not None
    }


def earlier_runs(config: Config, models: Mapping[str, str]) -> dict[str, str]:
    """Dataset → folder of the run from which rows are taken over.

    Of the last runs, the snapshot in use and older ones: the first in which the same networks
    embedded images; after a model that was tried and refused these are not the last runs.
    """
    work = config.workdir
    outputs = [stage.output for stage in stages.STAGES if stage.reuses]
    last = {
        name: Dataset(storage.join(work, name)).run_folder
        for name in outputs
        if manifest.read(storage.join(work, name)) is not None
    }
    wanted = {
        flag_name: Dataset(models[name]).manifest.content_hash
        for flag_name, name in (
            ("generator", "text_generator"),
            ("pixel_embedder", "pixel_embedder"),
        )
    }
    current = pointer.current(work)
    older = [current] if current else []
    older += [snapshots.read(work, date) for date in reversed(snapshots.dates(work))]
    found = [last, *({n: s.path(n) for n in outputs if n in s.datasets} for s in older)]
    for runs in found:
        made_by = Dataset(runs["features"]).manifest.models if "features" in runs else {}
        if all(made_by.get(name) == model for name, model in wanted.items()):
            return runs | ({"mined": last["mined"]} if "mined" in last else {})
    return last


def flags_of(
    stage: Stage, config: Config, where: Mapping[str, str], earlier: Mapping[str, str]
) -> dict[str, str]:
    """A stage's flags.

    Args:
      stage: the stage.
      config: of the run.
      where: dataset → folder of the run to read.
      earlier: see `earlier_runs`.
    """
    flags = overrides.flags_of(stage, config)
    flags |= {name: where[path] for name, path in stage.inputs.items() if path in where}
    if stage.reuses and stage.output in earlier:
        flags.setdefault("reuse", earlier[stage.output])
    return flags


def command_of(stage: Stage, flags: Mapping[str, str], config: Config) -> list[str]:
    beam = shlex.split(config.beam) if stage.is_beam_job else []
    return [*(f"--{name}={value}" for name, value in flags.items()), *quiet.flags(), *beam]
