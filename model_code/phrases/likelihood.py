"""How well equation (1) explains the clicks of validation images, with a scale for tail queries.

The equation is (1) of CN112204575A / US11907337B2; what the scale is for is said in calibration.py.
"""

import dataclasses
import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from model_code.metrics.clicked_queries import ClickedQueries
from model_code.phrases.query_vectors import Calibration, Queries, query_vectors

_ROWS = 128  # of images that a thread looks at: what it computes fits the cache
_STEPS, _GAIN = 30, 1e-6  # of Newton's method: at most so many, and until one gains less


@dataclasses.dataclass(frozen=True)
class Clicks:
    """Validation images with their clicked queries, and the queries that compete for them.

    Attributes:
      image_embs: [n, M] float32 unit rows.
      clicked: of these images, places in `queries`; each has at least one.
      queries: Q of them, all clicked ones and a sample of the others.
      rates: [Q] the probability with which each came into the sample; 1 for clicked ones.
      mean: [M], μ.
      temperature: τ of equation (1).
    """

    image_embs: np.ndarray
    clicked: ClickedQueries
    queries: Queries
    rates: np.ndarray
    mean: np.ndarray
    temperature: float

    def on(self, chosen: np.ndarray, limit: int | None = None) -> "Clicks":
        """Only the queries `chosen` ([Q] bool) and the first images that they were clicked for."""
        image, query, weight = self.clicked.pairs()
        kept = chosen[query]
        images, row = np.unique(image[kept], return_inverse=True)
        images = images[:limit]
        first = row < len(images)
        place = (np.cumsum(chosen) - 1)[query[kept]]
        return dataclasses.replace(
            self,
            image_embs=self.image_embs[images],
            clicked=ClickedQueries.from_pairs(
                row[first], place[first], weight[kept][first], len(images)
            ),
            queries=self.queries.take(chosen),
            rates=self.rates[chosen],
        )

    @property
    def images(self) -> int:
        return self.clicked.rows


class Softmax:
    """Equation (1) over head and tail, each with a factor of its own for its scores.

    With logits a · score for the head and b · score for the tail, the cross-entropy of the
    clicks is convex in (a, b). s = b / a; 1 / a is the temperature that fits these images.
    A query out of a sample stands for 1 / rate queries.

    Args:
      clicks: the images.
      vectors: [Q, M], all of unit length.
      tail: [Q] bool.
    """

    def __init__(self, clicks: Clicks, vectors: np.ndarray, tail: np.ndarray):
        log_rates = np.log(clicks.rates).astype(np.float32)
        image, query, share = clicks.clicked.pairs()
        own = np.einsum("ij,ij->i", clicks.image_embs[image], vectors[query]) * share
        self._scores: list[np.ndarray] = []
        self._log_rates: list[np.ndarray] = []
        self._own = np.zeros(2)
        for place, side in enumerate((~tail, tail)):
            self._scores.append(clicks.image_embs @ vectors[side].T)
            self._log_rates.append(log_rates[side])
            self._own[place] = own[side[query]].sum(dtype=np.float64) / clicks.images

    def at(self, factors: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Cross-entropy in nats at (a, b), its gradient [2] and Hessian [2, 2]."""
        rows = len(self._scores[0])
        loss, first, second = 0.0, np.zeros(2), np.zeros((2, 2))
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            sums = threads.map(functools.partial(self._sums, factors), range(0, rows, _ROWS))
            # In the order of the rows: the number of threads must not change a bit.
            for parts in sums:
                loss, first, second = loss + parts[0], first + parts[1], second + parts[2]
        return float(loss / rows - factors @ self._own), first / rows - self._own, second / rows

    def _sums(self, factors: np.ndarray, start: int) -> tuple[float, np.ndarray, np.ndarray]:
        """Of `_ROWS` images: log Σ exp of the logits, its gradient and its Hessian."""
        parts = [scores[start : start + _ROWS] for scores in self._scores]
        logits = [
            part * np.float32(factor) - log_rates
            for part, factor, log_rates in zip(parts, factors, self._log_rates, strict=True)
        ]
        top = np.max([z.max(1) for z in logits], axis=0)
        p = [np.exp(z - top[:, None]) for z in logits]
        total = sum(side.sum(1, dtype=np.float64) for side in p)
        p = [side * part for side, part in zip(p, parts, strict=True)]
        mean = np.stack([side.sum(1, dtype=np.float64) for side in p]) / total
        squares = [
            (np.einsum("ij,ij->i", side, part) / total).sum()
            for side, part in zip(p, parts, strict=True)
        ]
        return (top + np.log(total)).sum(), mean.sum(1), np.diag(squares) - mean @ mean.T

    def least(self, factors: np.ndarray, scaled: bool = False) -> tuple[float, np.ndarray]:
        """The least cross-entropy and its (a, b), by Newton's method with halved steps.

        Args:
          factors: (a, b) to begin with.
          scaled: keep s = b / a.
        """
        basis = factors[None] / factors[0] if scaled else np.eye(2)
        loss, gradient, hessian = self.at(factors)
        for _ in range(_STEPS):
            curvature = basis @ hessian @ basis.T + 1e-9 * np.eye(len(basis))
            step = -np.linalg.solve(curvature, basis @ gradient) @ basis
            trials = (factors + step * 0.5**k for k in range(8))
            better = ((t, found) for t in trials if (found := self.at(t))[0] < loss)
            best = next(better, None)
            if best is None:
                break
            factors, found = best
            gain = loss - found[0]
            loss, gradient, hessian = found
            if gain < _GAIN:
                break
        return loss, factors


def softmax_of(clicks: Clicks, tail: np.ndarray, calibration: Calibration) -> Softmax:
    """Equation (1) where the queries of `tail` have no weight; the scale is its to find."""
    return Softmax(
        clicks, vectors_as_tail(clicks, tail, dataclasses.replace(calibration, scale=1)), tail
    )


def vectors_as_tail(clicks: Clicks, tail: np.ndarray, calibration: Calibration) -> np.ndarray:
    """`query_vectors` where the queries of `tail` have no weight."""
    weighted = clicks.queries.has_weight & ~tail
    queries = dataclasses.replace(clicks.queries, has_weight=weighted)
    return query_vectors(queries, clicks.mean, calibration)[0]


def cross_entropy(
    clicks: Clicks, tail: np.ndarray, calibration: Calibration, temperature: float
) -> float:
    """Mean cross-entropy, in nats, between the clicks and equation (1) over head and tail.

    Args:
      clicks: validation images.
      tail: [Q] bool, queries that get tail vectors, whether or not they have a weight.
      calibration: how vectors are made.
      temperature: τ.
    """
    factors = np.array([1.0, calibration.scale]) / temperature
    return softmax_of(clicks, tail, calibration).at(factors)[0]


def best_temperature(
    clicks: Clicks, tail: np.ndarray, calibration: Calibration
) -> tuple[float, float]:
    """The least `cross_entropy` over all temperatures, and the temperature."""
    first = np.array([1.0, calibration.scale]) / clicks.temperature
    loss, factors = softmax_of(clicks, tail, calibration).least(first, scaled=True)
    return loss, float(1 / factors[0])
