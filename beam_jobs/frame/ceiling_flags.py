"""Flags of every job that drops bad rows: its config is a subclass."""

import dataclasses

from schemas.console.flags import flag
from transforms.shards.ceilings import Ceilings


@dataclasses.dataclass(frozen=True, kw_only=True)
class CeilingConfig:
    max_dead_fraction: float = flag(
        "Share of the rows of a kind (images, rows of the log, labels …) that may die before the "
        "job fails; 0 for none.",
        default=0.05,
        minimum=0,
        maximum=1,
    )
    max_dead_rows: int = flag(
        "So many rows of a kind may die whatever their share, while half of them are good.",
        default=10,
        minimum=0,
    )

    def ceilings(self) -> Ceilings:
        """How many rows of each kind may die."""
        return Ceilings(self.max_dead_fraction, self.max_dead_rows)
