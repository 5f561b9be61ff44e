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

from model_code import gate_checks, gate_evaluation, gate_summary
from model_code.evaluation import without_nan
from model_code.gate_checks import Check
from model_code.report_data import Case, read_cases
from schemas import config as config_lib
from schemas import heartbeat, snapshots, storage
from schemas.config import flag
from schemas.errors import Exit, PhraseLensError, tell
from schemas.manifest import Dataset
from schemas.snapshots import Snapshot

FOLDER = "gates"


@dataclasses.dataclass(frozen=True)
class _Paths:
    workdir: str = flag("Work folder of all stages; local or gs://.", role="output")
    date: str = flag("Snapshot to check.", role="runtime")
    against: str = flag("Snapshot to compare with, instead of the one in use.", default="")


@dataclasses.dataclass(frozen=True)
class Config(gate_checks.Limits, _Paths):
    """The flags: paths, then limits."""


def open_all(snapshot: Snapshot) -> dict[str, Dataset]:
    """Every dataset of a snapshot.

    Raises:
      PhraseLensError: one is gone, or the snapshot lacks one that the gate reads.
    """
    return {name: snapshot.dataset(name) for name in {*snapshot.datasets, *gate_summary.NEEDED}}


def check(old: Snapshot, new: Snapshot, limits: gate_checks.Limits) -> list[Check]:
    """The checks of `new` against `old`. Raises PhraseLensError."""
    sides = [open_all(old), open_all(new)]
    summaries = [gate_summary.summarise(side, limits.sample) for side in sides]
    cases = _test_images(sides, old.datasets["fusion"] == new.datasets["fusion"])
    drops = gate_evaluation.compare(*cases) if cases else None
    return gate_checks.compare(summaries[0], summaries[1], drops, limits)


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
    """Checks, prints and writes; returns whether the snapshot may be promoted."""
    new = snapshots.read(config.workdir, config.date)
    old = (
        snapshots.read(config.workdir, config.against)
        if config.against
        else snapshots.current(config.workdir)
    )
    checks: list[Check] = []
    if old is None:
        # What cannot be opened must not become the one in use.
        open_all(new)
        print(f"{new.date}: nothing is in use yet, so there is nothing to compare with")
    elif new.date == old.date and not config.against:
        print(f"{new.date}: is in use already; nothing was checked")
    else:
        checks = check(old, new, config)
        print(f"{new.date} against {old.date}\n{gate_checks.table(checks)}")
    refused_by = [c.name for c in checks if c.verdict == "refuse"]
    if old and new.date < old.date and not config.against:
        print(f"{old.date} is in use and later: only a person goes back, by ./run.sh rollback")
        refused_by.append("date")
    path = storage.join(config.workdir, FOLDER, f"{new.date}.json")
    storage.write_bytes(path, _json(config, old, checks, refused_by))
    if refused_by:
        print(f"refused by {', '.join(refused_by)}; what is in use stays: docs/schedule.md")
    else:
        print(f"pass\nnext: ./run.sh promote --workdir {config.workdir} --date {new.date}")
    print(f"written: {path}")
    return not refused_by


def _json(
    config: Config, old: Snapshot | None, checks: Sequence[Check], refused_by: Sequence[str]
) -> bytes:
    described = [
        dataclasses.asdict(c) | {"threshold": c.threshold, "verdict": c.verdict} for c in checks
    ]
    result = {
        "date": config.date,
        "against": old.date if old else None,
        "verdict": "refuse" if refused_by else "pass",
        "refused_by": refused_by,
        "limits": config_lib.settings(config),
        "checks": described,
    }
    return json.dumps(without_nan(result), indent=1, ensure_ascii=False).encode()


def run(argv: Sequence[str] | None = None) -> int:
    try:
        config = config_lib.parse(Config, "./run.sh gate", __doc__ or "", argv)
        with heartbeat.doing("gate"):
            return Exit.DONE if gate(config) else Exit.REFUSED
    except PhraseLensError as error:
        return tell(error)


if __name__ == "__main__":
    sys.exit(run())
