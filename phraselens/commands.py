"""The commands that there are: the stages of the table, and what works on what they have made.

Needs nothing but Python, so that help is there before an environment is.
"""

import dataclasses
import difflib
from collections.abc import Sequence

from beam_jobs.runs import stages
from schemas.base.errors import PhraseLensError


@dataclasses.dataclass(frozen=True)
class Command:
    """What people type, and what it starts.

    Attributes:
      name: one word, or two: the second is a choice, as in `train fusion`.
      module: what `python -m` runs.
      does: its line of the help.
      shown: what the help shows of its flags.
      choices: what the word after it may be, where it must be one of some; given as --job.
      is_deployed: whether it works on the files of the repository, which no package holds.
    """

    name: str
    module: str
    does: str
    shown: str = ""
    choices: tuple[str, ...] = ()
    is_deployed: bool = False


def _stage(stage: stages.Stage) -> Command:
    name = stage.name.replace("train_", "train ", 1) if stage.trains else stage.name
    return Command(name, stage.module, stage.does)


_PROMOTE = "schemas.maintenance.promote"


# Title → its commands, in the order of the help.
GROUPS: dict[str, list[Command]] = {
    "Start here": [
        Command(
            "quickstart",
            "beam_jobs.runs.quickstart",
            "makes sample data and runs every stage on it: about 10 minutes on 2 cores",
        ),
        Command(
            "all",
            "beam_jobs.runs.all_stages",
            "runs every stage on your own click log, images and labels",
        ),
        Command("doctor", "phraselens.doctor", "checks this machine, and says what to do"),
        Command(
            "completion",
            "phraselens.completion",
            "prints what makes a shell complete commands and flags",
            "SHELL",
        ),
    ],
    "Stages, in the order of `all`": [
        _stage(stage) for stage in (stages.SAMPLES, stages.MINE_LOG, *stages.STAGES)
    ],
    "Elsewhere": [
        Command(
            "similar",
            "beam_jobs.models.similar",
            "finds the images most like an image, by what people would type for it",
            "IMAGE…",
        ),
        Command(
            "submit",
            "beam_jobs.dataflow.submit",
            "sends one of the Beam jobs to Dataflow",
            "JOB",
            choices=tuple(stages.beam_jobs()),
        ),
        Command(
            "template",
            "deploy.templates",
            "writes a Beam job's Flex Template for Dataflow",
            "JOB",
            is_deployed=True,
        ),
        Command(
            "flink",
            "deploy.flink",
            "starts a Flink cluster on this machine, and sends Beam jobs to it",
            "up|submit JOB",
            is_deployed=True,
        ),
    ],
    "Every day": [
        Command(
            "reprocess",
            "beam_jobs.runs.reprocess",
            "does what new data needs, and nothing else → a snapshot of a date",
        ),
        Command(
            "gate",
            "model_code.gate.command",
            "compares a snapshot with the one in use: may it be promoted?",
        ),
        Command("promote", _PROMOTE, "puts a snapshot of all models and datasets in use"),
        Command("rollback", _PROMOTE, "puts the snapshot in use that was in use before"),
        Command("hold", _PROMOTE, "keeps the snapshot of a date out of use, or ends that"),
        Command(
            "status",
            "schemas.maintenance.status",
            "says what is in use, what is missing, what waits for a person",
            "WORKDIR",
        ),
        Command("gc", "schemas.maintenance.gc", "deletes the runs that no kept snapshot names"),
    ],
    "Care": [
        _stage(stages.FORGET),
        Command(
            "verify",
            "schemas.maintenance.verify",
            "checks datasets against their manifests",
            "PATH…",
        ),
        Command(
            "evaluate_index",
            "model_code.phrases.evaluate_index",
            "measures recall, speed and memory of each kind of phrase index",
        ),
    ],
}


def commands() -> dict[str, Command]:
    """Name → command."""
    found = [command for group in GROUPS.values() for command in group]
    return {command.name: command for command in found}


def find(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The command that people have typed, and the flags that its module is given.

    Raises:
      PhraseLensError: there is none of this name.
    """
    known, (first, *rest) = commands(), words
    choices = choices_of(first)
    if not choices and first not in known:
        names = dict.fromkeys(name.partition(" ")[0] for name in known)
        raise PhraseLensError(first, "a command", nearest(first, [*names]))
    if not choices:
        command = known[first]
        # Several commands in one module are told apart by their names.
        named = [first] if command.module == _PROMOTE else []
        return command, [*named, *rest]
    second, *rest = rest or [""]
    if second not in choices:
        raise PhraseLensError(
            f"{first} {second}".rstrip(), f"one of: {', '.join(choices)}", nearest(second, choices)
        )
    if first in known:
        return known[first], [f"--job={second}", *rest]
    return known[f"{first} {second}"], rest


def choices_of(first: str) -> list[str]:
    """What must follow the first word of a command of two; [] of others."""
    found = commands()
    if first in found:
        return list(found[first].choices)
    pairs = [name.partition(" ") for name in found]
    return [second for word, space, second in pairs if space and word == first]


def nearest(word: str, known: Sequence[str]) -> str:
    """The remedy for a word that is not known."""
    near = difflib.get_close_matches(word, known, 1, 0.5)
    return f"Did you mean {near[0]}?" if near else "See --help."


def help_text() -> str:
    """A line for each command."""
    lines = []
    for title, group in GROUPS.items():
        lines += ["", title]
        lines += [f"  {f'{c.name} {c.shown}':<22}{c.does}" for c in group]
    return "\n".join(lines[1:])


def help_of(first: str) -> str:
    """What is said of a command that wants another word, and of each word that it may be."""
    found, choices = commands(), choices_of(first)
    does = {name: found[f"{first} {name}"].does for name in choices if first not in found}
    lines = [f"  {name:<22}{does.get(name, '')}".rstrip() for name in choices]
    return "\n".join(["NAME is one of:", *lines])
