"""What the whole log tells: whether people are known, and how likely they look at a position.

How likely people look at a position is fitted once, and kept as the table `examination` of what
mine_pairs writes. Later runs take it from there: a curve fitted anew to a longer log would move
the scores of pairs of which nothing new is known.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import Shard
from schemas.runs.run import Run
from schemas.tables import mined as tables
from transforms.mining.events import MAX_POSITION
from transforms.shards.outputs import write_sorted

TABLE = "examination"
EXAMINED_UNIT = 65_536
MIN_EXAMINATION = EXAMINED_UNIT // 16  # a click far down would otherwise count for hundreds
Z = 1.6449  # one-sided 95 %


@dataclasses.dataclass(frozen=True)
class Log:
    """What is known of the whole log.

    Attributes:
      has_users: whether any row names who typed it.
      has_rates: whether it tells of images that were shown and not clicked.
      examination: [MAX_POSITION + 1] int64 in 1/EXAMINED_UNIT, how likely people look there;
        place 0 is for unknown positions.
    """

    has_users: bool
    has_rates: bool
    examination: np.ndarray

    @classmethod
    def of_facts(cls, facts: Mapping[str, int], kept: np.ndarray | None = None) -> "Log":
        """From the sums of days.FACTS, and the examination that an earlier run has fitted."""
        has_rates = kept is not None or facts.get("unclicked", 0) > 0
        examination = _examination(facts) if kept is None else kept
        return cls(facts.get("users", 0) > 0, has_rates, examination)


def _examination(facts: Mapping[str, int]) -> np.ndarray:
    """How likely people look at a position, from how much less they click there.

    Click-through rate against that of the first position that is clicked at all, never
    rising on the way down: clicks over expected clicks (Zhang and Jones, WWW 2007) under
    the examination hypothesis (Craswell et al., WSDM 2008). All integers, so exact. Of a
    position that was never shown, that above it holds.
    """
    named = (re.fullmatch(r"clicks@(\d+)", name) for name in facts)
    positions = sorted(int(found[1]) for found in named if found)
    clicks = {k: facts[f"clicks@{k}"] for k in positions}
    shown = {k: facts[f"impressions@{k}"] for k in positions}
    examination = np.full(MAX_POSITION + 1, EXAMINED_UNIT, np.int64)
    first = next((k for k in positions if k and clicks[k]), None)
    likely = EXAMINED_UNIT
    for k in positions:
        if first is not None and k > first and shown[k]:
            rate = EXAMINED_UNIT * clicks[k] * shown[first] // (shown[k] * clicks[first])
            likely = max(MIN_EXAMINATION, min(likely, rate))
            examination[k:] = likely
    return examination


def read_examination(mined: Dataset) -> np.ndarray | None:
    """What a dataset of mine_pairs holds of it: see `Log`; None where its log had no rates."""
    found = mined.manifest.tables.get(TABLE)
    if not found or not found.rows:
        return None
    rows = mined.table(TABLE).sort_by("position")
    return rows["examination"].to_numpy()


def write_examination(log: Log, run: Run) -> Iterator[tuple[str, Shard]]:
    """Writes it for later runs, where the log tells of rates: see `tables.EXAMINATION`."""
    if log.has_rates:
        positions = np.arange(len(log.examination), dtype=np.int32)
        table = pa.table([positions, log.examination], tables.EXAMINATION)
        yield write_sorted(run, table, TABLE, 0, num_shards=1, keys=["position"])


def wilson_lower_bound(clicks: np.ndarray, examined: np.ndarray) -> np.ndarray:
    """Lower end of the one-sided 95 % interval of a click rate.

    Unlike a Beta prior it needs no rate of the whole catalogue to start from, so that a
    pair's score depends on its own evidence, and on the examination that was fitted once.

    Args:
      clicks: [n] float64.
      examined: [n] float64, at least `clicks`.

    Returns:
      [n] float64 in [0, 1); 0 without clicks.

    Source: Wilson, JASA 1927; Brown, Cai, DasGupta, Statistical Science 2001, section 3.
    """
    n = np.maximum(examined, 1 / EXAMINED_UNIT)
    p = clicks / n
    spread = Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    bound = (p + Z**2 / (2 * n) - spread) / (1 + Z**2 / n)
    return np.where(clicks > 0, np.maximum(bound, 0), 0)


class ReadFacts(beam.PTransform):
    """PCollection of tables of days.FACTS → the `Log`.

    Args:
      kept: the examination that an earlier run has fitted, or None to fit it.
    """

    def __init__(self, kept: np.ndarray | None):
        super().__init__()
        self._kept = kept

    def _rows(self, table):
        yield from zip(table["name"].to_pylist(), table["value"].to_pylist(), strict=True)

    def expand(self, tables):
        sums = tables | beam.FlatMap(self._rows) | beam.CombinePerKey(sum)
        one = sums.pipeline | beam.Create([None])
        return one | "Read" >> beam.Map(
            lambda _, facts, kept: Log.of_facts(facts, kept), beam.pvalue.AsDict(sums), self._kept
        )
