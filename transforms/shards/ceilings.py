"""How many rows of a run may die, and what a person is told when more do.

Each kind of row (images, rows of the log, labels …) is counted by itself and held to its own
ceiling: a share of its rows, or a few rows where there are not many.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from schemas.base.errors import AccountingError, DeadShareError
from schemas.datasets import checks
from schemas.tables.dead_letters import REASONS

EXAMPLES = 3  # that an error names


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """How many rows of a kind may die; see beam_jobs/frame/ceiling_flags.py.

    Attributes:
      share: of the rows of a kind; at 0 none may die.
      rows: so many may die at any share but 0, as long as half of their kind are good: one bad
        file among ten photos is no reason to have none of them.
      of_kinds: (kind, share) where a kind has another share.
    """

    share: float = 0.05
    rows: int = 10
    of_kinds: tuple[tuple[str, float], ...] = ()

    def share_of(self, kind: str) -> float:
        """The share that holds for a kind, and for the files of its rows."""
        return dict(self.of_kinds).get(kind.removesuffix("_files"), self.share)

    def allowed(self, kind: str, rows: int) -> float:
        """How many of a kind's rows may die.

        A file that cannot be read to its end counts as one, whatever its rows, so that of files
        only a share may die.
        """
        share = self.share_of(kind)
        few = 0.0 if kind.endswith("_files") or not share else min(self.rows, rows / 2)
        return max(share * rows, few)


def dead_rows(counters: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Kind of row → reason → how many died of it."""
    dead: dict[str, dict[str, int]] = defaultdict(dict)
    for name, rows in sorted(counters.items()):
        kind, _, what = name.partition(".")
        reason = what.removeprefix("dropped_")
        if reason in REASONS and rows:
            dead[kind][reason] = rows
    return dict(dead)


def check_counters(
    counters: Mapping[str, int],
    ceilings: Ceilings,
    examples: Callable[[str], Sequence[str]] = lambda reason: (),
    letters: str = "",
) -> None:
    """Refuses a run that lost rows, or in which too many died.

    Args:
      counters: of all steps.
      ceilings: how many of each kind may die.
      examples: reason → some of the rows that died of it, for the error.
      letters: where the dead letters lie, for the error.

    Raises:
      AccountingError: rows in ≠ rows out + rows dropped.
      DeadShareError: a kind of row passes its ceiling.
    """
    if lost := checks.unbalanced(dict(counters)):
        raise AccountingError("counters", "in = out + dropped", "; ".join(lost))
    for kind, reasons in dead_rows(counters).items():
        rows, dead = counters.get(f"{kind}.in", 0), sum(reasons.values())
        if not rows or dead <= ceilings.allowed(kind, rows):
            continue
        worst = max(reasons, key=lambda reason: reasons[reason])
        counted = ", ".join(f"{reason} {n:,}" for reason, n in reasons.items())
        remedy = [f"Most are {worst}: {REASONS[worst]}"]
        if shown := examples(worst):
            remedy.append(f"Such as {', '.join(shown)}.")
        if letters:
            remedy.append(f"All are in {letters}.")
        base = kind.removesuffix("_files")
        flag = f"max_dead_{base if base in dict(ceilings.of_kinds) else 'fraction'}"
        raise DeadShareError(
            f"{dead / rows:.1%} of {kind} died: {dead:,} of {rows:,} ({counted})",
            f"at most {ceilings.share_of(kind):.1%}, or {ceilings.rows:,} while half are good",
            " ".join([*remedy, f"Or raise --{flag}."]),
        )
