"""The softmax over millions of queries, of which a step looks at some: candidates, log-Q, loss.

Sources: Bengio and Senécal, Adaptive importance sampling to accelerate training of a neural
probabilistic language model, IEEE Transactions on Neural Networks 2008 (a sampled partition
sum); Horvitz and Thompson, JASA 1952 (divide by the probability of being in the sample); Madow,
Annals of Mathematical Statistics 1949 (systematic sampling with unequal probabilities).
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

KINDS = ("log_uniform", "frequency", "mixed")
OWN_QUERIES = ("share", "apart")

# Probabilities are whole multiples of 2^-40: sums of them are exact, up to 2^22 candidates.
_ONE = 1 << 40
_LEAST_PROBABILITY = 2.0**-30


def logits(cosine: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """Equation (1) before its softmax: −d / τ with the cosine distance d = 1 − cosine."""
    return (cosine - 1) / temperature


def log_uniform(num_queries: int) -> np.ndarray:
    """The distribution log((k + 2) / (k + 1)) / log(K + 1) over k = 0 … K − 1: [K] float64.

    Queries are numbered by falling clicks, whose frequencies it follows (Zipf).
    """
    return np.log1p(1 / np.arange(1, num_queries + 1)) / np.log(num_queries + 1)


def inclusion(weights: np.ndarray, size: int) -> np.ndarray:
    """Probabilities of being among `size` candidates, proportional to weights where they can be.

    Whatever would pass 1 is always a candidate, and the others share the places that are left.

    Args:
      weights: [K] float64, not negative, not all 0.
      size: S, less than K.

    Returns:
      [K] int64 in units of 2^-40, at most 2^40; their sum is S · 2^40 exactly.
    """
    weights = np.maximum(weights / weights.sum(), _LEAST_PROBABILITY / size)
    tail, left = np.ones(len(weights), bool), size
    while True:
        probabilities = weights * (left / weights[tail].sum())
        always = tail & (probabilities >= 1)
        if not always.any():
            break
        tail &= ~always
        left -= int(always.sum())
    units = np.where(tail, probabilities * _ONE, _ONE).astype(np.int64)
    # What rounding lost or won goes to the tail, a unit each.
    every, first = divmod(size * _ONE - int(units.sum()), int(tail.sum()))
    places = np.flatnonzero(tail)
    units[places] += every
    units[places[:first]] += 1
    return units


def log_absent(images: np.ndarray, rows: int, batch_size: int) -> np.ndarray:
    """Log of the probability that no other image of a batch has a query.

    A batch is drawn without replacement; seen from one of its images, which has not the query,
    the other B − 1 are drawn from the other N − 1 images.

    Args:
      images: [K] training images of each query.
      rows: N, training images.
      batch_size: B, at most N.

    Returns:
      [K] float64; −inf for a query that some other image of any batch must have.
    """
    counts, places = np.unique(images, return_inverse=True)
    totals = np.zeros(len(counts))
    with np.errstate(divide="ignore"):
        for drawn in range(batch_size - 1):
            totals += np.log1p(-np.minimum(counts / (rows - 1 - drawn), 1.0))
    return totals[places]


def systematic(ends: tf.Tensor, size: int, start: tf.Tensor) -> tf.Tensor:
    """The sample at a point: ids [S] int64, rising and distinct.

    Args:
      ends: [K] int64, the cumulated `inclusion`.
      size: S.
      start: the random number u in units of 2^-40, from 0 to 2^40 − 1.
    """
    points = start + _ONE * tf.range(size, dtype=tf.int64)
    return tf.searchsorted(ends, points, "right", tf.int64)


class Candidates:
    """Which queries a step compares with, and with what probability.

    Systematic sampling: inclusion probabilities laid end to end on a line, and one random
    number u a step, choose the queries at u, u + 1, …, u + S − 1. So a step always has S
    distinct candidates, its work does not depend on K, and the probability that a query is
    among them is known exactly.

    Args:
      weights: [K] to which the probabilities are proportional, as far as they stay below 1;
        float64, not negative.
      size: S; 0, or K and more, for all queries: the full softmax.
      log_absent: [K], to add the queries of the batch's images to the S: see `log_absent`.
    """

    def __init__(self, weights: np.ndarray, size: int, log_absent: np.ndarray | None = None):
        self.num_queries, self.size = len(weights), min(size, len(weights)) or len(weights)
        self._ends = self._log_absent = None
        if self.size < self.num_queries:
            self._ends = tf.constant(np.cumsum(inclusion(weights, size)))
            if log_absent is not None:
                self._log_absent = tf.constant(log_absent.astype(np.float32))

    def draw(self, seed: tf.Tensor, pair_ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The candidates of a step.

        Args:
          seed: [2] integer.
          pair_ids: [n] int64 the queries of the batch's images.

        Returns:
          ids [S or, with those of the images, at most S + n] int64, rising, and the log of
          the probability that each is among them, of the same length, float32.
        """
        if self._ends is None:
            return tf.range(self.num_queries, dtype=tf.int64), tf.zeros([self.num_queries])
        start = tf.random.stateless_uniform([], seed, 0, _ONE, tf.int64)
        ids = systematic(self._ends, self.size, start)
        if self._log_absent is not None:
            ids = tf.sort(tf.unique(tf.concat([ids, tf.cast(pair_ids, tf.int64)], 0)).y)
        before = tf.where(ids > 0, tf.gather(self._ends, tf.maximum(ids - 1, 0)), 0)
        sampled = tf.cast(tf.gather(self._ends, ids) - before, tf.float64) / _ONE
        if self._log_absent is None:
            return ids, tf.cast(tf.math.log(sampled), tf.float32)
        absent = tf.cast(tf.gather(self._log_absent, ids), tf.float64)
        included = -tf.math.expm1(tf.math.log1p(-sampled) + absent)
        return ids, tf.cast(tf.math.log(included), tf.float32)


def candidates(
    kind: str,
    size: int,
    power: float,
    *,
    clicks: np.ndarray,
    images: np.ndarray,
    rows: int,
    batch_size: int,
) -> Candidates:
    """The candidates of a training run.

    Args:
      kind: "log_uniform": by rank; "frequency": by clicks; "mixed": by rank, and the queries
        of the batch's images.
      size: S; 0 for the full softmax.
      power: of the clicks; below 1 it flattens them. 0.75 is from Mikolov et al., NeurIPS
        2013, section 2.2.
      clicks: [K] of each query on training images, above 0; most first.
      images: [K] training images of each query.
      rows: N, training images.
      batch_size: B.
    """
    if kind == "frequency":
        return Candidates(clicks.astype(np.float64) ** power, size)
    absent = log_absent(images, rows, batch_size) if kind == "mixed" else None
    return Candidates(log_uniform(len(clicks)), size, absent)


def softmax_loss(
    image_embs: tf.Tensor,
    *,
    pair_rows: tf.Tensor,
    pair_ids: tf.Tensor,
    pair_weights: tf.Tensor,
    pair_vectors: tf.Tensor,
    candidate_ids: tf.Tensor,
    candidate_vectors: tf.Tensor,
    log_included: tf.Tensor,
    temperature: tf.Tensor,
    own_queries: str = "share",
    sum_logs: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
) -> tf.Tensor:
    """Mean over images of the loss of their own queries against the others.

    The sum over all other queries is that over the candidates, each divided by the
    probability of its presence. An image's own queries do not count again as candidates
    (accidental hits). With s = −d / τ, own queries O and their shares of clicks r:

    - "share": the cross-entropy Σ_o r_o · (log Z − s_o) between the shares and equation (1),
      where Z is the sum over all queries. Own queries share the probability; at the optimum
      p(q|x) of equation (1) is the share of clicks.
    - "apart": Σ_o r_o · (log(exp(s_o) + Σ_{k ∉ O} exp(s_k)) − s_o). Own queries are no
      negatives of each other, so all may be near the image, and a rare one is as far from
      the queries of other images as a frequent one; equation (1) then ranks, but is not fitted
      to the shares.

    With one own query an image the two are the same.

    Args:
      image_embs: [B, M] unit rows.
      pair_rows: [n] int64, the image of each pair.
      pair_ids: [n] int64, its query; no pair twice.
      pair_weights: [n] the share of clicks, or what `ClickedQueries.targets` made of it; sums to
        1 for each image. A pair of weight 0 is no target; its query stands in Z like all others
        with "share", and is no negative with "apart". The loss is linear in the weights.
      pair_vectors: [n, M] w of its query, unit rows.
      candidate_ids: [S] int64, rising.
      candidate_vectors: [S, M] their w, unit rows.
      log_included: [S] log of the probability that the candidate is among them.
      temperature: τ.
      own_queries: "share" or "apart".
      sum_logs: where pairs and candidates are only those of one device, takes log Σ exp
        [B] of each device to that of all.

    Returns:
      A scalar: the part of the pairs given.
    """
    batch = tf.shape(image_embs)[0]
    others = logits(tf.matmul(image_embs, candidate_vectors, transpose_b=True), temperature)
    others -= log_included
    # One id more than any, so that each search ends inside.
    ids = tf.concat([candidate_ids, [candidate_ids.dtype.max]], 0)
    place = tf.searchsorted(ids, pair_ids)
    hit = tf.equal(tf.gather(ids, place), pair_ids)
    hits = tf.boolean_mask(tf.stack([tf.cast(pair_rows, tf.int32), place], 1), hit)
    # The least finite number: without any other, its exponentials cancel instead of being nan.
    least = others.dtype.min
    others = tf.tensor_scatter_nd_update(others, hits, tf.fill([tf.shape(hits)[0]], least))
    cosines = tf.reduce_sum(tf.gather(image_embs, pair_rows) * pair_vectors, 1)
    own = logits(cosines, temperature)
    top = tf.maximum(tf.reduce_max(others, 1), least)
    if own_queries == "share":
        top = tf.maximum(top, tf.math.unsorted_segment_max(own, pair_rows, batch))
    top = tf.stop_gradient(top)
    total = tf.reduce_sum(tf.exp(others - top[:, None]), 1)
    if own_queries == "share":
        shifted = tf.exp(own - tf.gather(top, pair_rows))
        total += tf.math.unsorted_segment_sum(shifted, pair_rows, batch)
    margins = tf.gather(sum_logs(top + tf.math.log(total)), pair_rows) - own
    losses = margins if own_queries == "share" else tf.math.softplus(margins)
    return tf.reduce_sum(pair_weights * losses) / tf.cast(batch, own.dtype)
