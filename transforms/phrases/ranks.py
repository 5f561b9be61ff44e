"""How well phrases are predicted on validation images: ranks, counted shard by shard of phrases."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from model_code.metrics import ranks as phrase_metrics
from schemas.base import storage
from schemas.datasets import shards
from schemas.runs.run import Run
from schemas.tables.vectors import arrow_to_vectors
from transforms.phrases.calibration import Calibrated


@dataclasses.dataclass(frozen=True)
class Ranked:
    """How some phrases stand to the clicked queries of validation images.

    Attributes:
      above: [p], how many of the phrases are nearer to an image than its pair's query.
      queries: the clicked queries among the phrases → language, and "head" or "tail".
    """

    above: np.ndarray | float
    queries: dict[int, tuple[str, str]]


def rank_phrases(phrases: pa.Table, is_head: np.ndarray, calibrated: Calibrated) -> Ranked:
    """Counts, for each pair of `calibrated`, the phrases that score above it.

    Args:
      phrases: [n] rows with query_id, language and query_vector.
      is_head: [n] bool, which have a weight.
      calibrated: the pairs.
    """
    vectors = arrow_to_vectors(phrases["query_vector"])
    above = phrase_metrics.count_above(
        calibrated.image_embs, vectors, calibrated.rows, calibrated.scores
    )
    clicked = np.isin(phrases["query_id"].to_numpy(), calibrated.query_ids)
    mine = phrases.filter(pa.array(clicked))
    sides = np.where(is_head[clicked], "head", "tail").tolist()
    named = zip(mine["language"].to_pylist(), sides, strict=True)
    return Ranked(above, dict(zip(mine["query_id"].to_pylist(), named, strict=True)))


def add_ranked(parts: Iterable[Ranked]) -> Ranked:
    """Adds up shards, in any order."""
    above: np.ndarray | float = 0.0
    queries: dict[int, tuple[str, str]] = {}
    for part in parts:
        above, queries = above + part.above, queries | part.queries
    return Ranked(above, queries)


def summary(calibrated: Calibrated, ranked: Ranked) -> dict[str, Any]:
    """What the table `calibration` holds: the calibration, its figures and, by validation images,
    the retrieval of their clicked queries among all phrases: of all, by language, by head and
    tail. An image's other clicked queries do not count as mistakes."""
    ranks = np.maximum(1 + ranked.above - calibrated.own, 1)
    pairs = [ranked.queries.get(query) for query in calibrated.query_ids.tolist()]
    there = np.array([pair is not None for pair in pairs], bool)
    named = [pair for pair in pairs if pair is not None]
    kinds = {
        "language": [language for language, _ in named],
        "source": [side for _, side in named],
    }
    retrieval = phrase_metrics.metrics_by_kind(calibrated.rows[there], ranks[there], kinds)
    found = dataclasses.asdict(calibrated.calibration) | calibrated.figures
    return _rounded(found | {"retrieval": retrieval})


def _rounded(value: Any) -> Any:
    """The last bits of a matrix product depend on the processor; six digits do not."""
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 6) if isinstance(value, float) else value


def lines(found: Mapping[str, Any]) -> list[str]:
    """A `summary` for people."""
    text = [
        f"calibrated on {found['fitted_on']}: head by {found['head']}, "
        f"α {found['alpha']:g}, λ {found['centring']:g}, s {found['scale']:.3f}"
    ]
    if "nll" in found:
        nll, share = found["nll"], found["head_share_of_top_10"]
        text.append(
            f"cross-entropy {nll[0]:.3f} → {nll[1]:.3f}; head {share[0]:.1%} → {share[1]:.1%} of "
            f"the top 10, {found['head_share_of_clicks']:.1%} of the clicks"
        )
    metrics = found["retrieval"]["all"]
    if metrics:
        shown = ", ".join(f"{name} {value:.3f}" for name, value in list(metrics.items())[:-1])
        text.append(f"{metrics['images']:,} validation images: {shown}")
    return text


class WriteCalibration(beam.PTransform):
    """PCollection[Calibrated] and PCollection[Ranked] → PCollection[(name, Shard)] of one file."""

    NAME, FILE = "calibration", "calibration.json"

    def __init__(self, run: Run):
        super().__init__()
        self._run = run

    def _write(self, calibrated: Calibrated, ranked: Ranked):
        found = summary(calibrated, ranked)
        print("".join(f"  {line}\n" for line in lines(found)), end="", flush=True)
        folder = self._run.folder(self.NAME)
        path = storage.join(self._run.absolute(folder), self.FILE)
        storage.write_bytes(path, json.dumps(found, indent=1, ensure_ascii=False).encode())
        for shard in shards.describe_files(self._run.output, folder, [self.FILE]):
            yield self.NAME, shard

    def expand(self, made):
        calibrated, ranked = made
        total = ranked | "AddRanked" >> beam.CombineGlobally(add_ranked)
        return calibrated | "Write" >> beam.FlatMap(self._write, beam.pvalue.AsSingleton(total))
