"""Calibration of query vectors on validation images, as one small task inside the graph."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.metrics import ranks as phrase_metrics
from model_code.metrics.clicked_queries import ClickedQueries, Places
from model_code.phrases import calibration as maths
from model_code.phrases import likelihood
from model_code.phrases.query_vectors import Calibration, Queries, query_vectors
from schemas.base import storage
from schemas.tables.arrays import load_array
from schemas.tables.vectors import arrow_to_vectors
from transforms.inference.folders import ModelFolder
from transforms.phrases import prototypes
from transforms.phrases.prototypes import HELD_OUT, HeldOut
from transforms.shards.blocks import from_blocks

# Queries that compete in calibration, about, beside all that validation images were clicked for.
SAMPLED_QUERIES = 1 << 15


class HeadWeights:
    """w_c of the queries that a generator was trained on, memory-mapped.

    Args:
      ids: [K] int64.
      vectors: [K, M] float32 unit rows.
    """

    def __init__(self, ids: np.ndarray, vectors: np.ndarray):
        self._places, self._vectors = Places(ids), vectors

    @classmethod
    def of(cls, generator: ModelFolder) -> "HeadWeights":
        with storage.local_copy(generator.path) as folder:
            ids = load_array(os.path.join(folder, "query_ids.npy"))
            vectors = load_array(os.path.join(folder, "query_vectors.npy"), mmap_mode="r")
        return cls(ids, vectors)

    def join(self, ids: np.ndarray, sums: pa.Table, min_images: int) -> Queries:
        """What is known of some queries, [Q] int64.

        Args:
          ids: the queries.
          sums: rows of `prototypes.sums_schema`, of these and maybe others.
          min_images: the fewest images that make a prototype.
        """
        width = self._vectors.shape[1]
        place = self._places.of(ids)
        weights, has_weight = np.zeros((len(ids), width), np.float32), place >= 0
        weights[has_weight] = self._vectors[place[has_weight]]
        sums = sums.filter(pc.greater_equal(sums["images"], min_images))
        place = Places(sums["query_id"].to_numpy()).of(ids)
        means, has_mean = np.zeros((len(ids), width)), place >= 0
        means[has_mean] = prototypes.means(sums.take(pa.array(place[has_mean])))
        return Queries(ids, weights, means, has_weight, has_mean)


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """How all queries get their vectors, and what the validation images were clicked for.

    Attributes:
      calibration: λ, s, and the head's form.
      mean: [M] float64, μ.
      image_embs: [n, M] float32, clicked validation images.
      rows, query_ids: [p] int64, their pairs whose query has a vector, by image.
      scores: [p] float32, inner products of the pairs.
      own: [p] float64, see `phrase_metrics.count_own`.
      figures: of the calibration, for people.
    """

    calibration: Calibration
    mean: np.ndarray
    image_embs: np.ndarray
    rows: np.ndarray
    query_ids: np.ndarray
    scores: np.ndarray
    own: np.ndarray
    figures: dict[str, Any]


def sample_queries(sums: pa.Table, clicked: np.ndarray, rate: float) -> pa.Table:
    """Clicked queries, and a share `rate` of the others, drawn by their ids, which are hashes."""
    ids = sums["query_id"].to_numpy()
    drawn = (ids.view(np.uint64) >> np.uint64(11)) * 2.0**-53 < rate
    return sums.filter(pa.array(drawn | np.isin(ids, clicked)))


def calibrate(
    held_out: HeldOut,
    sums: pa.Table,
    head: HeadWeights,
    *,
    rate: float,
    temperature: float,
    min_images: int,
    form: str,
) -> Calibrated:
    """Finds the calibration on validation images (see `model_code.phrases.calibration`).

    Args:
      held_out: of all shards.
      sums: rows of `prototypes.sums_schema` out of `sample_queries`, in any order.
      head: w_c.
      rate: share of the queries that are in `sums` without a click.
      temperature: τ.
      min_images: the fewest images that make a prototype.
      form: one of `model_code.phrases.calibration.HEADS`.
    """
    clicked = held_out.pairs["query_id"].to_numpy()
    ids = np.union1d(sums["query_id"].to_numpy(), clicked)
    queries = head.join(ids, sums, min_images)
    queries = queries.take(queries.has_weight | queries.has_mean)
    query = Places(queries.ids).of(clicked)
    image = pc.index_in(held_out.pairs["image_id"], held_out.image_embs["image_id"]).to_numpy()
    known = query >= 0
    images, rows = np.unique(image[known], return_inverse=True)
    weights = held_out.pairs["weight"].to_numpy()[known]
    pairs = ClickedQueries.from_pairs(rows, query[known], weights, len(images))
    clicks = likelihood.Clicks(
        arrow_to_vectors(held_out.image_embs["query_emb"])[images],
        pairs,
        queries,
        np.where(np.isin(queries.ids, clicked), 1.0, rate),
        held_out.mean,
        temperature,
    )
    found, figures = maths.fit(clicks, form)
    vectors, _ = query_vectors(queries, held_out.mean, found)
    rows, scores = phrase_metrics.pair_scores(clicks.image_embs, vectors, pairs)
    figures |= {"queries": len(queries.ids), "without_phrase": len(np.unique(image)) - len(images)}
    return Calibrated(
        found,
        held_out.mean,
        clicks.image_embs,
        rows,
        queries.ids[pairs.queries],
        scores,
        phrase_metrics.count_own(pairs, scores, rows, scores),
        figures,
    )


class Calibrate(beam.PTransform):
    """What `Prototypes` makes → PCollection[Calibrated] of one element.

    Args:
      generator: gives w_c and τ.
      width: M.
      min_images: the fewest images that make a prototype.
      form: one of `model_code.phrases.calibration.HEADS`.
    """

    def __init__(self, generator: ModelFolder, width: int, min_images: int, form: str):
        super().__init__()
        self._generator, self._width = generator, width
        self._min_images, self._form = min_images, form

    def _sums(self, shard: tuple[int, bytes]) -> pa.Table:
        return from_blocks([shard[1]], prototypes.sums_schema(self._width))

    def _sample(
        self, shard: tuple[int, bytes], held_out: Iterable[HeldOut], rate: float
    ) -> pa.Table:
        clicked = [part.pairs["query_id"].to_numpy() for part in held_out]
        return sample_queries(self._sums(shard), np.concatenate(clicked), rate)

    def _calibrate(
        self, _: None, held_out: Iterable[HeldOut], sums: Iterable[pa.Table], rate: float
    ) -> Calibrated:
        return calibrate(
            prototypes.join_held_out(held_out, self._width),
            pa.concat_tables([prototypes.sums_schema(self._width).empty_table(), *sums]),
            HeadWeights.of(self._generator),
            rate=rate,
            temperature=self._generator.config()["temperature"],
            min_images=self._min_images,
            form=self._form,
        )

    def expand(self, made):
        held_out = beam.pvalue.AsIter(made[HELD_OUT])
        # Of the queries of training images, whatever others the log has.
        queries = (
            made["sums"]
            | "CountQueries" >> beam.Map(lambda shard: self._sums(shard).num_rows)
            | "AddUp" >> beam.CombineGlobally(sum)
        )
        rate = beam.pvalue.AsSingleton(
            queries | "Rate" >> beam.Map(lambda count: min(1.0, SAMPLED_QUERIES / max(count, 1)))
        )
        sampled = made["sums"] | "SampleQueries" >> beam.Map(
            self._sample, held_out, rate
        ).with_output_types(pa.Table)
        return (
            made["sums"].pipeline
            | beam.Create([None])
            | "Fit" >> beam.Map(self._calibrate, held_out, beam.pvalue.AsIter(sampled), rate)
        )
