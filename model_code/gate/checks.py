"""The checks of the quality gate: each a figure, what chance makes of it, and a limit."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from model_code.gate import drift as gate_drift
from model_code.gate.drift import frechet, jensen_shannon, population_stability, unknown_share
from model_code.gate.evaluation import MIN_LABELS, Drop
from model_code.gate.summary import Embedding, Summary
from model_code.metrics.classification import mean_and_error
from model_code.report.data import Case
from schemas.console.flags import flag

MIN_VECTORS = 20
# A row for each query and day: a young work folder may triple it in a day.
GROWING = ("mined.query_days",)


@dataclasses.dataclass(frozen=True)
class Limits:
    """How far a snapshot may be from the promoted one, beyond what chance does.

    Also of a share any number is taken: one that nothing reaches lifts the limit.
    """

    max_query_drift: float = flag(
        "Jensen–Shannon divergence of clicks over queries, bits.", default=0.1, minimum=0
    )
    max_new_queries: float = flag(
        "Share of clicks on queries that were unknown.", default=0.3, minimum=0
    )
    max_language_drift: float = flag(
        "Stability index of clicks over languages.", default=0.1, minimum=0
    )
    max_phrase_drift: float = flag(
        "Jensen–Shannon divergence of predicted phrases, bits.", default=0.1, minimum=0
    )
    max_score_shift: float = flag(
        "Standard deviations that the best phrase's score moved.", default=0.5, minimum=0
    )
    max_embedding_drift: float = flag(
        "Fréchet distance of embeddings, shares of their variance.", default=0.1, minimum=0
    )
    max_label_drift: float = flag("Stability index of images over labels.", default=0.1, minimum=0)
    max_dead_rise: float = flag(
        "Rise of the dead share of any kind of row.", default=0.02, minimum=0
    )
    max_row_loss: float = flag("Share of any table's rows that vanished.", default=0.1, minimum=0)
    max_row_growth: float = flag(
        "Growth of any table, as a share of its rows.", default=1.0, minimum=0
    )
    max_top1_drop: float = flag(
        "Sure fall of the fused classifier's top-1 on test images.",
        default=0.01,
        minimum=0,
    )
    max_map_drop: float = flag("Sure fall of its mean average precision.", default=0.01, minimum=0)
    max_family_drop: float = flag(
        "Sure fall of any metric of another family of models.", default=0.01, minimum=0
    )
    sure: float = flag(
        "Standard errors that a fall must exceed to be sure of it.", default=2.0, minimum=0
    )
    head: int = flag(
        "Categories compared one by one; the others count as one.", default=1000, minimum=1
    )
    sample: int = flag("Images whose embeddings are compared, about.", default=20_000, minimum=1)


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
      name: what is checked.
      figure: what was measured; None when it could not be.
      chance: what the same measure says of the promoted snapshot's halves, or of the error of
        measurement.
      limit: how far the figure may be above it.
      note: where, or why not.
      moved: the categories that moved most: (category, share before, share now).
    """

    name: str
    figure: float | None
    chance: float
    limit: float
    note: str = ""
    moved: tuple[tuple[int | str, float, float], ...] = ()

    @property
    def threshold(self) -> float:
        return self.chance + self.limit

    @property
    def verdict(self) -> str:
        """ "pass", "refuse", or "skip" for what could not be compared."""
        if self.figure is None:
            return "skip"
        # Written so that NaN is refused.
        return "pass" if self.figure <= self.threshold else "refuse"


def compare(
    old: Summary, new: Summary, drops: Mapping[str, Drop] | None, limits: Limits
) -> list[Check]:
    """Every check of a snapshot against the promoted one.

    Args:
      old: the promoted snapshot.
      new: the candidate.
      drops: "top1" and "map" of the classifiers, see `gate_evaluation.compare`; None where there
        are no predictions of both.
      limits: the limits.
    """

    def drift(
        name: str, counts: str, measure: Callable[[np.ndarray, np.ndarray], float], limit: float
    ) -> Check:
        return _drift(
            name, old.counts[counts], new.counts[counts], measure, limit=limit, head=limits.head
        )

    return [
        drift("queries.clicks", "queries", jensen_shannon, limits.max_query_drift),
        _new_queries(old.counts["queries"], new.counts["queries"], limits.max_new_queries),
        drift("queries.languages", "languages", population_stability, limits.max_language_drift),
        drift("phrases.predicted", "phrases", jensen_shannon, limits.max_phrase_drift),
        _scores(old, new, limits.max_score_shift),
        *(
            _embedding(name, old.embeddings[name], new.embeddings[name], limits.max_embedding_drift)
            for name in old.embeddings
        ),
        drift("labels.images", "labels", population_stability, limits.max_label_drift),
        _dead(old.dead, new.dead, limits.max_dead_rise),
        *_rows(old.rows, new.rows, limits),
        *_evaluation(drops, limits),
    ]


def _drift(
    name: str,
    old: pa.Table,
    new: pa.Table,
    measure: Callable[[np.ndarray, np.ndarray], float],
    *,
    limit: float,
    head: int,
) -> Check:
    if not len(old) or not len(new):
        return Check(name, None, 0.0, limit, "nothing to compare")
    first, second = (old[half].to_numpy() for half in gate_drift.HALVES)
    chance = measure(*gate_drift.fold(first, second, head))
    figure = measure(*gate_drift.align(old, new, head))
    return Check(name, figure, chance, limit, moved=tuple(gate_drift.movers(old, new)))


def _new_queries(old: pa.Table, new: pa.Table, limit: float) -> Check:
    p, q = gate_drift.align(old, new)
    moved = [row for row in gate_drift.movers(old, new, len(new)) if not row[1]]
    return Check("queries.new", unknown_share(q, p), 0.0, limit, moved=tuple(moved[:5]))


def _scores(old: Summary, new: Summary, limit: float) -> Check:
    name = "phrases.top_score"
    if old.embeddings["query_emb"].model != new.embeddings["query_emb"].model:
        return Check(name, None, 0.0, limit, "another text generator")
    if not all(half[0] for half in old.scores) or not new.scores[:, 0].sum():
        return Check(name, None, 0.0, limit, "nothing to compare")
    figure = gate_drift.mean_shift(old.scores.sum(axis=0), new.scores.sum(axis=0))
    return Check(name, figure, gate_drift.mean_shift(*old.scores), limit)


def _embedding(name: str, old: Embedding, new: Embedding, limit: float) -> Check:
    title = f"embeddings.{name}"
    if old.model != new.model:
        return Check(title, None, 0.0, limit, "another network")
    first, second = old.half(0), old.half(1)
    if min(map(len, (new.vectors, first, second))) < MIN_VECTORS:
        return Check(title, None, 0.0, limit, f"under {MIN_VECTORS} images")
    return Check(title, frechet(old.vectors, new.vectors), frechet(first, second), limit)


def _dead(old: Mapping, new: Mapping, limit: float) -> Check:
    """The kind of row whose dead share rose most, of datasets that both snapshots name."""
    made = {_dataset_of(kind) for kind in old}
    rises = {
        kind: _share(*new[kind]) - _share(*old.get(kind, (0, 0)))
        for kind in new
        if _dataset_of(kind) in made
    }
    worst = max(rises, key=lambda kind: (rises[kind], kind), default="")
    rise = max(rises.get(worst, 0.0), 0.0)
    return Check("dead_letters", rise, 0.0, limit, worst if rise else "")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _rows(old: Mapping[str, int], new: Mapping[str, int], limits: Limits) -> list[Check]:
    """The tables that shrank and that grew most; one that is gone shrank by all.

    Of datasets that both snapshots name: `reprocess` makes some of them on some days only.
    """
    made = {_dataset_of(name) for name in new}
    changes = {
        name: new.get(name, 0) / rows - 1
        for name, rows in old.items()
        if rows and _dataset_of(name) in made
    }
    ends = (0.0, "")
    loss, shrunk = max((ends, *((-change, name) for name, change in changes.items())))
    growing = ((change, name) for name, change in changes.items() if name not in GROWING)
    growth, grown = max((ends, *growing))
    return [
        Check("rows.lost", abs(loss), 0.0, limits.max_row_loss, shrunk if loss else ""),
        Check("rows.gained", growth, 0.0, limits.max_row_growth, grown if growth else ""),
    ]


def _dataset_of(table: str) -> str:
    return table.partition(".")[0]


def _evaluation(drops: Mapping[str, Drop] | None, limits: Limits) -> list[Check]:
    if drops is None:
        why = "no predictions of both"
    else:
        why = f"under {MIN_LABELS} labels" if drops else "no labelled test image before"
    drops = drops or {}
    allowed = {"top1": limits.max_top1_drop, "map": limits.max_map_drop}
    checks = []
    for metric, limit in allowed.items():
        name = f"evaluation.{metric}_drop"
        if metric in drops:
            drop = drops[metric]
            checks.append(Check(name, drop.drop, limits.sure * drop.error, limit, drop.on))
        else:
            checks.append(Check(name, None, 0.0, limit, why))
    return checks


def above_chance(cases: Sequence[Case], limits: Limits) -> Check:
    """Whether a classifier is worse than one that always says the commonest label.

    Args:
      cases: its test images.
      limits: `sure` is used.
    """
    name = "evaluation.below_guess"
    if not cases:
        return Check(name, None, 0.0, 0.0, "no labelled test image")
    commonest, images = Counter(label for case in cases for label in case.true).most_common(1)[0]
    lead = [(commonest in case.true) - float(case.right("fused")) for case in cases]
    mean, error = mean_and_error(np.array(lead, np.float64))
    note = f"{commonest!r} is right on {images:,} of {len(cases):,} test images"
    return Check(name, mean, limits.sure * float(np.nan_to_num(error)), 0.0, note)


def table(checks: Sequence[Check]) -> str:
    """The checks as text: a row each."""
    lines = [f"{'check':24}{'figure':>9}{'chance':>9}{'limit':>8}{'threshold':>11}  verdict"]
    for check in checks:
        is_known = check.figure is not None and not np.isnan(check.figure)
        figure = f"{check.figure:.4f}" if is_known else "–"
        lines.append(
            f"{check.name:24}{figure:>9}{check.chance:9.4f}{check.limit:8.3f}"
            f"{check.threshold:11.4f}  {check.verdict}{f' ({check.note})' if check.note else ''}"
        )
        if check.verdict == "refuse":
            lines += [f"    {key}: {was:.1%} → {now:.1%}" for key, was, now in check.moved]
    return "\n".join(lines)
