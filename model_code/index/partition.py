"""The denominator of equation (1): Σ exp(s / τ) over all phrases, whole or estimated.

Up to EXACT_PARTITION_MAX phrases it is computed. Beyond, the nearest phrases, which search
has found and which hold most of the sum, are added up as they are; the rest is estimated by
a uniform sample of all phrases, less those among the nearest. Given the nearest, whichever
they are, the estimate is unbiased over the choice of the sample.
Source: Rastogi & Van Durme, Sublinear Partition Estimation, arXiv:1508.01596, 2015 (MIMPS).
"""

import numpy as np

from schemas.base.fingerprint import mix

EXACT_PARTITION_MAX = 1 << 18
SAMPLE_SIZE = 1 << 14
_CHUNK = 1 << 16
# Of these, or fewer, BLAS makes a tile of a product. Rows left over of the last tile are computed
# another way, with other last bits: then an image's numbers would depend on its company.
_TILE = 16


def exact(query_embs: np.ndarray, vectors: np.ndarray, temperature: float) -> np.ndarray:
    """log Σ_k exp(x · v_k / τ) over all phrases.

    Args:
      query_embs: [n, M] float32.
      vectors: [K, M] float32.
      temperature: τ.

    Returns:
      [n] float64.
    """
    total = np.full(len(query_embs), -np.inf)
    for start in range(0, len(vectors), _CHUNK):
        logits = _logits(query_embs, vectors[start : start + _CHUNK], temperature)
        total = np.logaddexp(total, log_sum_exp(logits))
    return total


def _logits(query_embs: np.ndarray, vectors: np.ndarray, temperature: float) -> np.ndarray:
    """x · v_k / τ, [n, K] float32: of an image the same bits whatever the others are."""
    rows = len(query_embs)
    whole = np.pad(query_embs, ((0, -rows % _TILE), (0, 0)))
    return (whole @ vectors.T)[:rows] / np.float32(temperature)


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """[n, K] → [n] float64; -inf where all are."""
    top = logits.max(axis=1, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0).astype(logits.dtype)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64)) + top[:, 0]


def sample_rows(query_ids: np.ndarray, size: int, key: int) -> np.ndarray:
    """A sample without replacement that depends on which phrases there are and on nothing else.

    Args:
      query_ids: [K] int64.
      size: R.
      key: another one gives an independent sample.

    Returns:
      [min(R, K)] int64 rows, rising: those whose ids have the smallest hashes.
    """
    hashes = mix(np.ascontiguousarray(query_ids), np.full(len(query_ids), key, np.int64))
    return np.sort(np.argsort(hashes, kind="stable")[:size])


def estimate(
    query_embs: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
    *,
    num_phrases: int,
    sampled: np.ndarray,
    sample: np.ndarray,
    temperature: float,
) -> np.ndarray:
    """Estimates log Σ_k exp(x · v_k / τ).

    Args:
      query_embs: [n, M] float32.
      rows: [n, k] int64, distinct phrases that search has found; -1 for none.
      scores: [n, k] float32, their x · v; anything where there is none.
      num_phrases: K.
      sampled: [R] int64, rising rows of the sample.
      sample: [R, M] float32, their vectors.
      temperature: τ.

    Returns:
      [n] float64.
    """
    found = rows >= 0
    head = log_sum_exp(np.where(found, scores / np.float64(temperature), -np.inf))
    logits = _logits(query_embs, sample, temperature)
    place = np.minimum(np.searchsorted(sampled, rows), len(sampled) - 1)
    image, column = np.nonzero(found & (sampled[place] == rows))
    logits[image, place[image, column]] = -np.inf
    left = len(sampled) - np.bincount(image, minlength=len(rows))
    unseen = num_phrases - found.sum(axis=1)
    with np.errstate(divide="ignore"):
        factor = np.log(unseen / np.maximum(left, 1))
    return np.logaddexp(head, np.where(left > 0, log_sum_exp(logits) + factor, -np.inf))
