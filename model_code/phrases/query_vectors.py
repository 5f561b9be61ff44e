"""The vectors that stand for queries in the index of phrases: w_c, φ_c or a mix, on one scale.

A head query has a trained weight w_c. A tail query gets s · unit(φ_c − λμ), with φ_c its
prototype (equation (2) of CN112204575A / US11907337B2) and μ the mean of all training images;
model_code.phrases.calibration finds λ and s.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How queries get their vectors.

    Attributes:
      head: "weight", "prototype" or "mix": what stands for a query that has both.
      alpha: α, the share of w_c in a mix.
      centring: λ.
      scale: s, the length of tail vectors.
    """

    head: str = "weight"
    alpha: float = 0.5
    centring: float = 0.0
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Queries:
    """Queries with what is known of their vectors.

    Attributes:
      ids: [Q] int64.
      weights: [Q, M] float32, w_c, unit rows where `has_weight`.
      means: [Q, M] float64, φ_c of any length where `has_mean`.
      has_weight, has_mean: [Q] bool.
    """

    ids: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    has_weight: np.ndarray
    has_mean: np.ndarray

    def take(self, rows: np.ndarray) -> "Queries":
        """The queries of some rows: places or [Q] bool."""
        return Queries(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows brought to length 1; those of (almost) no length become 0."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norms > 1e-9, vectors / np.maximum(norms, 1e-9), 0)


def query_vectors(
    queries: Queries, mean: np.ndarray, calibration: Calibration
) -> tuple[np.ndarray, np.ndarray]:
    """The vector of each query in the index.

    Args:
      queries: Q of them.
      mean: [M], μ.
      calibration: how.

    Returns:
      Vectors [Q, M] float32: of unit length for the head, of length s for the tail. And what
      they are, [Q] str: "weight", "prototype", "mix", or "" for a query that has none.
    """
    centred = unit(queries.means - calibration.centring * mean)
    has_mean = queries.has_mean & centred.any(1)
    vectors = np.where(has_mean[:, None], calibration.scale * centred, 0)
    vectors[queries.has_weight] = queries.weights[queries.has_weight]
    source = np.where(queries.has_weight, "weight", np.where(has_mean, "prototype", ""))
    both = queries.has_weight & has_mean
    if calibration.head == "prototype":
        vectors[both], source[both] = centred[both], "prototype"
    elif calibration.head == "mix":
        alpha = calibration.alpha
        mixed = unit(alpha * queries.weights[both] + (1 - alpha) * centred[both])
        vectors[both], source[both] = mixed, "mix"
    return vectors.astype(np.float32), source
