"""Compares a snapshot with the one in use, and says whether it may be promoted.

Reads both through their manifests: drift of queries, phrases, embeddings and labels, dead letters,
rows, and the fused classifier on test images that both have. Each figure must stay under its limit
above what chance does, which is the same measure between two halves of the promoted snapshot, or
the standard error. Prints the checks and writes them to <workdir>/gates/<date>.json.

Exit status: 0 the snapshot may be promoted (the first one always), 3 a check refuses it; any other
means that nothing was decided.

  ./run.sh gate --workdir work/mine --date 2026-01-31
  ./run.sh gate --workdir work/mine --date 2026-01-31 --against 2026-01-01 --max_label_drift 0.5
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from model_code.gate import checks as gate_checks
from model_code.gate import drift as gate_drift
from model_code.gate import evaluation as gate_evaluation
from model_code.gate import families as gate_families
from model_code.gate import summary as gate_summary
from model_code.gate.checks import Check
from model_code.metrics.evaluation import shortened, without_nan
from model_code.models.fusion.family import FUSION
from model_code.report.data import Case, read_cases
from schemas.base import storage
from schemas.base.errors import Exit, tell
from schemas.base.printable import printable
from schemas.console import flags as flags_lib
from schemas.console import heartbeat, program
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.runs import command_line, snapshots
from schemas.runs import pointer as pointer_lib
from schemas.runs.snapshots import Snapshot


@dataclasses.dataclass(frozen=True)
class _Paths:
    workdir: str = flag("Work folder of all stages; local or gs://.", role="output")
    date: str = flag("Snapshot to check.", role="runtime")
    against: str = flag(
        "Snapshot to compare with, instead of the one in use.", default="", essential=True
    )


@dataclasses.dataclass(frozen=True)
class Config(gate_checks.Limits, _Paths):
    """The flags: paths, then limits."""


def open_all(snapshot: Snapshot) -> dict[str, Dataset]:
    """Every dataset of a snapshot.

    Raises:
      PhraseLensError: one is gone, or the snapshot lacks one that the gate reads.
    """
    return {name: snapshot.dataset(name) for name in {*snapshot.datasets, *gate_summary.NEEDED}}


@dataclasses.dataclass(frozen=True)
class Found:
    """What the gate found.

    Attributes:
      checks: each of them.
      labels_gone, labels_new: classes that only one of the snapshots has.
    """

    checks: Sequence[Check] = ()
    labels_gone: Sequence[str] = ()
    labels_new: Sequence[str] = ()


def check(old: Snapshot | None, new: Snapshot, limits: gate_checks.Limits) -> Found:
    """The checks of `new` against `old`, or of `new` alone. Raises PhraseLensError."""
    after = open_all(new)
    if old is None:
        return Found([_alone(after, limits)])
    before = open_all(old)
    sides = [before, after]
    summaries = [gate_summary.summarise(side, limits.sample) for side in sides]
    cases = _test_images(sides, old.datasets["fusion"] == new.datasets["fusion"])
    drops = gate_evaluation.compare(*cases) if cases else None
    checks = [
        *gate_checks.compare(summaries[0], summaries[1], drops, limits),
        *gate_families.compare(before, after, limits, but=FUSION.name),
        _alone(after, limits),
    ]
    labels = [summary.counts["labels"] for summary in summaries]
    return Found(
        _with_texts(checks, [before["mined"], after["mined"]]),
        [str(name) for name in gate_drift.only_in(labels[0], labels[1])],
        [str(name) for name in gate_drift.only_in(labels[1], labels[0])],
    )


def _alone(new: Mapping[str, Dataset], limits: gate_checks.Limits) -> Check:
    return gate_checks.above_chance(read_cases(new["fusion"]), limits)


def _with_texts(checks: Sequence[Check], mined: Sequence[Dataset]) -> list[Check]:
    """The checks with queries by their texts instead of their ids."""
    ids = {key for c in checks for key, _, _ in c.moved if isinstance(key, int)}
    texts = gate_summary.query_texts(mined, ids) if ids else {}
    return [
        dataclasses.replace(
            c,
            moved=tuple(
                (texts.get(key, str(key)) if isinstance(key, int) else key, was, now)
                for key, was, now in c.moved
            ),
        )
        for c in checks
    ]


def _test_images(
    sides: Sequence[Mapping[str, Dataset]], same_classifier: bool
) -> tuple[list[Case], list[Case]] | None:
    """Test images with the predictions of either side; None where neither has any."""
    old, new = sides
    if not same_classifier:
        return read_cases(old["fusion"]), read_cases(new["fusion"])
    if "predictions" not in old or "predictions" not in new:
        return None
    # It says something else with other phrases.
    before, after = (gate_evaluation.served_cases(s["mined"], s["predictions"]) for s in sides)
    return (before, after) if before or after else None


def gate(config: Config) -> bool:
    """Checks, prints and writes; returns whether the snapshot may be promoted.

    Raises:
      PhraseLensError: a snapshot, or what it names, is not there. The file says that nothing was
        decided, as it does where the process dies.
    """
    new = snapshots.read(config.workdir, config.date)
    path = storage.join(config.workdir, snapshots.GATES, f"{new.date}.json")
    # What was decided before holds no more.
    storage.write_bytes(path, _json({"date": new.date, "verdict": "undecided"}))
    try:
        result = _judge(config, new)
    except BaseException as error:
        told = {"date": new.date, "verdict": "error", "error": printable(str(error))}
        storage.write_bytes(path, _json(told))
        raise
    storage.write_bytes(path, _json(result))
    print(f"written: {path}")
    return result["verdict"] == "pass"


def _judge(config: Config, new: Snapshot) -> dict[str, Any]:
    """What becomes the file, which is printed for people too."""
    pointer = pointer_lib.read_pointer(config.workdir)
    old = (
        snapshots.read(config.workdir, config.against)
        if config.against
        else pointer_lib.current(config.workdir)
    )
    found = Found()
    if old and new.date == old.date and not config.against:
        print(f"{new.date}: is in use already; nothing was checked")
    else:
        found = check(old, new, config)
        against = f"against {old.date}" if old else "is the first: nothing is in use yet"
        print(f"{new.date} {against}\n{gate_checks.table(found.checks)}")
    for names, what in ((found.labels_gone, "gone"), (found.labels_new, "new")):
        if names:
            print(f"labels that are {what}: {shortened(names)}")
    refused_by = [c.name for c in found.checks if c.verdict == "refuse"]
    if old and new.date < old.date and not config.against:
        back = program.command("rollback", workdir=config.workdir)
        print(f"{old.date} is in use and later: only a person goes back, by {back}")
        refused_by.append("date")
    if new.date in pointer.holds:
        print(f"{new.date} is held: {pointer.holds[new.date]}")
        refused_by.append("hold")
    if refused_by:
        print(f"refused by {', '.join(refused_by)}; what is in use stays: docs/operate/gate.md")
    else:
        following = program.command("promote", workdir=config.workdir, date=new.date)
        print(f"pass\nnext: {following}")
    described = [
        dataclasses.asdict(c) | {"threshold": c.threshold, "verdict": c.verdict}
        for c in found.checks
    ]
    return {
        "date": config.date,
        "against": old.date if old else None,
        "verdict": "refuse" if refused_by else "pass",
        "refused_by": refused_by,
        "labels_gone": list(found.labels_gone),
        "labels_new": list(found.labels_new),
        "runs": dict(new.datasets),
        "limits": flags_lib.settings(config),
        "checks": described,
    }


def _json(result: Mapping[str, Any]) -> bytes:
    return json.dumps(without_nan(result), indent=1, ensure_ascii=False).encode()


def run(argv: Sequence[str] | None = None) -> int:
    try:
        config = command_line.parse(Config, "gate", __doc__, argv)
        with heartbeat.doing("gate"):
            return Exit.DONE if gate(config) else Exit.REFUSED
    except Exception as error:
        return tell(error)


if __name__ == "__main__":
    sys.exit(run())
