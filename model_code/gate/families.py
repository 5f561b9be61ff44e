"""Whether the models of other families are worse than those in use, case by case."""

import math
from collections.abc import Mapping

from model_code.gate import evaluation as gate_evaluation
from model_code.gate.checks import Check, Limits
from model_code.metrics.classification import mean_and_error
from model_code.models import family
from model_code.models.family import Evaluation
from model_code.report.data import read_cases
from schemas.datasets.dataset import Dataset


def compare(
    old: Mapping[str, Dataset], new: Mapping[str, Dataset], limits: Limits, but: str
) -> list[Check]:
    """The fall of every metric of every family that both snapshots have.

    A family that makes labels is compared as classifiers are, on the images that both have; of
    others, each metric on the cases that both have. A family that is gone is a check of its own.

    Args:
      old, new: name → dataset of the snapshots.
      limits: `max_family_drop` and `sure` are used.
      but: the family that has checks of its own.
    """
    before, after = (family.evaluations(side) for side in (old, new))
    gone = sorted(before.keys() - after.keys())
    checks = [Check("families.gone", float(len(gone)), 0.0, 0.0, ", ".join(gone))] if before else []
    for name in sorted((before.keys() & after.keys()) - {but}):
        compare_one = _labels if after[name].family.makes == "labels" else _cases
        for metric, (drop, error, on) in compare_one(old[name], new[name], after[name]).items():
            chance = limits.sure * error
            checks.append(Check(f"{name}.{metric}_drop", drop, chance, limits.max_family_drop, on))
    return checks


def _labels(
    old: Dataset, new: Dataset, after: Evaluation
) -> dict[str, tuple[float | None, float, str]]:
    systems = after.family.systems
    was, now = (read_cases(side, systems) for side in (old, new))
    drops = gate_evaluation.compare(was, now, after.family.main)
    return {metric: (drop.drop, drop.error, drop.on) for metric, drop in drops.items()}


def _cases(
    old: Dataset, new: Dataset, after: Evaluation
) -> dict[str, tuple[float | None, float, str]]:
    """Metric → its fall, the standard error of that, and on what; None where nothing compares."""
    sides = [family.read_cases(side) for side in (old, new)]
    if sides[0] is None or sides[1] is None:
        return {}
    both = sides[0].join(
        sides[1], "case_id", join_type="inner", left_suffix="_old", right_suffix="_new"
    )
    found: dict[str, tuple[float | None, float, str]] = {}
    for metric, of in after.family.metrics.items():
        if not {f"{metric}_old", f"{metric}_new"} <= set(both.column_names):
            continue
        was, now = (both[f"{metric}_{side}"].to_numpy() for side in ("old", "new"))
        if not len(both):
            found[metric] = None, 0.0, "no case of both"
            continue
        mean, error = mean_and_error(was - now if of.more_is_better else now - was)
        on = f"{len(both):,} shared cases"
        found[metric] = mean, 0.0 if math.isnan(error) else float(error), on
    return found
