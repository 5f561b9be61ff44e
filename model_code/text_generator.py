"""The text generator: images and queries in one space, trained by a cosine softmax over queries.

Source: CN112204575A / US11907337B2, equation (1). The sampled softmax is that of Bengio and
Senécal, Adaptive importance sampling to accelerate training of a neural probabilistic language
model (2008), with the exact probability that a query is in the sample.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from model_code.clicked_queries import ClickedQueries
from model_code.sparse_adagrad import SparseAdagrad
from model_code.text import words

_SCORES = 1 << 26  # scores in memory at once while ranking
_FIRST_TEMPERATURE = 0.1
# Adagrad starts below the squared gradients it meets, so that it adapts from the first step.
_FIRST_ACCUMULATOR = 1e-6


def build_head(features: int, hidden: Sequence[int], width: int) -> keras.Model:
    """From a backbone's features to the query space: [B, features] → [B, width] unit rows."""
    inputs = keras.Input((features,))
    x = inputs
    for units in hidden:
        x = keras.layers.Dense(units, activation="relu")(x)
    x = keras.layers.Dense(width)(x)
    return keras.Model(inputs, keras.layers.UnitNormalization()(x), name="head")


def logits(cosine: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """Equation (1) before its softmax: −d / τ with the cosine distance d = 1 − cosine."""
    return (cosine - 1) / temperature


def log_uniform(ids: tf.Tensor, num_queries: int) -> tf.Tensor:
    """The probability that one draw takes a query: log((k + 2) / (k + 1)) / log(K + 1), float64.

    Queries are numbered by falling clicks, whose frequencies it follows (Zipf).
    """
    k = tf.cast(ids, tf.float64)
    return tf.math.log1p(1 / (k + 1)) / np.log(num_queries + 1)


def candidates(num_queries: int, draws: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The queries that a step compares with, drawn log-uniformly, each kept once.

    Args:
      num_queries: K.
      draws: how many to draw, with replacement; 0 for all queries: the full softmax.
      seed: [2] integer.

    Returns:
      ids [S] int64, rising, and the log of the probability that each is among them,
      log(1 − (1 − p)^draws), [S] float32.
    """
    if not draws:
        return tf.range(num_queries, dtype=tf.int64), tf.zeros([num_queries])
    uniform = tf.random.stateless_uniform([draws], seed, dtype=tf.float64)
    drawn = tf.cast(tf.exp(uniform * np.log(num_queries + 1)), tf.int64) - 1
    ids = tf.sort(tf.unique(tf.clip_by_value(drawn, 0, num_queries - 1)).y)
    included = -tf.math.expm1(draws * tf.math.log1p(-log_uniform(ids, num_queries)))
    return ids, tf.cast(tf.math.log(included), tf.float32)


def softmax_loss(
    image_embs: tf.Tensor,
    pair_rows: tf.Tensor,
    pair_ids: tf.Tensor,
    pair_weights: tf.Tensor,
    pair_vectors: tf.Tensor,
    candidate_ids: tf.Tensor,
    candidate_vectors: tf.Tensor,
    log_included: tf.Tensor,
    temperature: tf.Tensor,
) -> tf.Tensor:
    """Mean cross-entropy between the click shares of an image's queries and equation (1).

    The sum over all queries is that over the image's own, which are always there, plus that
    over the candidates, each divided by the probability of its presence. An image's own
    queries do not count again as candidates (accidental hits).

    Args:
      image_embs: [B, M] unit rows.
      pair_rows: [n] int64, the image of each pair.
      pair_ids: [n] int64, its query; no pair twice.
      pair_weights: [n] the share of clicks; sums to 1 for each image.
      pair_vectors: [n, M] w of its query, unit rows.
      candidate_ids: [S] int64, rising.
      candidate_vectors: [S, M] their w, unit rows.
      log_included: [S] log of the probability that the candidate is among them.
      temperature: τ.

    Returns:
      A scalar.
    """
    batch, size = tf.shape(image_embs)[0], tf.shape(candidate_ids)[0]
    others = logits(tf.matmul(image_embs, candidate_vectors, transpose_b=True), temperature)
    others -= log_included
    place = tf.minimum(tf.searchsorted(candidate_ids, pair_ids), size - 1)
    hit = tf.equal(tf.gather(candidate_ids, place), pair_ids)
    hits = tf.boolean_mask(tf.stack([tf.cast(pair_rows, tf.int32), place], 1), hit)
    others = tf.tensor_scatter_nd_update(
        others, hits, tf.fill([tf.shape(hits)[0]], others.dtype.min)
    )
    cosines = tf.reduce_sum(tf.gather(image_embs, pair_rows) * pair_vectors, 1)
    own = logits(cosines, temperature)
    top = tf.maximum(tf.reduce_max(others, 1), tf.math.unsorted_segment_max(own, pair_rows, batch))
    top = tf.stop_gradient(top)
    total = tf.reduce_sum(tf.exp(others - top[:, None]), 1) + tf.math.unsorted_segment_sum(
        tf.exp(own - tf.gather(top, pair_rows)), pair_rows, batch
    )
    log_total = tf.gather(top + tf.math.log(total), pair_rows)
    return tf.reduce_sum(pair_weights * (log_total - own)) / tf.cast(batch, own.dtype)


def unit_rows(x: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(x, 1, epsilon=1e-12)


class Trainer(tf.Module):
    """The training step and what it changes.

    Args:
      tower: what `prepare` returns → [B, M] unit rows.
      prepare: input of a batch and its seed (None outside training) → input of the tower.
      num_queries: K.
      sampled_queries: draws a step for the sampled softmax; 0 for the full one.
      temperature: τ; 0 to learn it.
      learning_rate, weight_decay: of AdamW on the tower and τ; the rate falls as a cosine.
      query_learning_rate: of Adagrad on the queries' vectors.
      steps: of the whole training.
      seed: of the first vectors.
    """

    def __init__(
        self,
        tower: keras.Model,
        prepare: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor],
        num_queries: int,
        sampled_queries: int,
        temperature: float,
        learning_rate: float,
        weight_decay: float,
        query_learning_rate: float,
        steps: int,
        seed: int,
    ):
        self.tower = tower
        self._prepare, self._draws = prepare, sampled_queries
        shape = (num_queries, tower.output_shape[1])
        first = tf.random.stateless_normal(shape, [seed, 0], stddev=shape[1] ** -0.5)
        self.table = tf.Variable(first)
        self.adagrad = SparseAdagrad(shape, query_learning_rate, _FIRST_ACCUMULATOR)
        self.log_temperature = keras.Variable(
            np.log(temperature or _FIRST_TEMPERATURE), trainable=not temperature, dtype="float32"
        )
        self._trained = [*tower.trainable_variables]
        if not temperature:
            self._trained.append(self.log_temperature)
        self.optimizer = keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps), weight_decay
        )
        self.optimizer.exclude_from_weight_decay([self.log_temperature])
        self.optimizer.build(self._trained)

    @property
    def state(self) -> dict:
        """All that a step changes, for `training.fit`."""
        return {
            "tower": self.tower,
            "temperature": self.log_temperature,
            "optimizer": self.optimizer,
            "table": self.table,
            "adagrad": self.adagrad,
        }

    @property
    def temperature(self) -> float:
        return float(np.exp(self.log_temperature.numpy()))

    @tf.function(reduce_retracing=True)
    def step(self, inputs, pair_rows, pair_ids, pair_weights, seed) -> tf.Tensor:
        """Learns from one batch; see `softmax_loss`. `seed` is [2] integer."""
        candidate_ids, log_included = candidates(self.table.shape[0], self._draws, seed)
        ids = tf.concat([pair_ids, candidate_ids], 0)
        sizes = [tf.size(pair_ids), tf.size(candidate_ids)]
        with tf.GradientTape() as tape:
            vectors = tf.split(unit_rows(tf.gather(self.table, ids)), sizes)
            loss = softmax_loss(
                self.tower(self._prepare(inputs, seed), training=True),
                pair_rows,
                pair_ids,
                pair_weights,
                vectors[0],
                candidate_ids,
                vectors[1],
                log_included,
                tf.exp(self.log_temperature.value),
            )
        tower = [variable.value for variable in self._trained]
        gradients, table_gradient = tape.gradient(loss, [tower, self.table])
        self.optimizer.apply(gradients, self._trained)
        self.adagrad.apply(self.table, table_gradient)
        return loss

    def vectors(self) -> np.ndarray:
        """w of every query: [K, M] float32 unit rows."""
        return unit_rows(self.table).numpy()

    @tf.function(reduce_retracing=True)
    def embed(self, inputs) -> tf.Tensor:
        """[B, …] → [B, M] unit rows."""
        return self.tower(self._prepare(inputs, None), training=False)


def best_ranks(image_embs: np.ndarray, vectors: np.ndarray, clicked: ClickedQueries) -> np.ndarray:
    """The rank, from 1, of the best placed clicked query of each image.

    Args:
      image_embs: [rows, M] float32 unit rows.
      vectors: [K, M] float32 unit rows.
      clicked: of these images; each has at least one.

    Returns:
      [rows] int64.
    """
    table, step = tf.constant(vectors), max(1, _SCORES // len(vectors))
    ranks = []
    for start in range(0, clicked.rows, step):
        rows = np.arange(start, min(start + step, clicked.rows))
        scores = tf.matmul(image_embs[rows], table, transpose_b=True)
        batch, queries, _ = clicked.of(rows)
        best = tf.math.segment_max(tf.gather_nd(scores, np.stack([batch, queries], 1)), batch)
        ranks.append(1 + tf.math.count_nonzero(scores > best[:, None], 1).numpy())
    return np.concatenate(ranks)


def top_queries(image_embs: np.ndarray, vectors: np.ndarray, n: int) -> np.ndarray:
    """The n nearest queries of each image, nearest first.

    Args:
      image_embs: [rows, M] float32 unit rows.
      vectors: [K, M] float32 unit rows.
      n: how many; K at most.

    Returns:
      [rows, n] int64, places in `vectors`.
    """
    table, step = tf.constant(vectors), max(1, _SCORES // len(vectors))
    return np.concatenate(
        [
            tf.math.top_k(
                tf.matmul(image_embs[start : start + step], table, transpose_b=True),
                min(n, len(vectors)),
                index_type=tf.int64,
            ).indices.numpy()
            for start in range(0, len(image_embs), step)
        ]
    )


def word_f1(predicted: Sequence[Sequence[str]], clicked: Sequence[Sequence[str]]) -> float:
    """How far predicted phrases speak of what people searched for, word by word.

    Unlike retrieval it needs no held-out image to share a whole query with a training
    image, which long queries such as product titles hardly ever do.

    Args:
      predicted: [rows] phrases of each image.
      clicked: [rows] its clicked queries.

    Returns:
      Mean over images of the F1 of the two sets of words.
    """
    scores = []
    for phrases, queries in zip(predicted, clicked, strict=True):
        ours: set[str] = set().union(*map(words, phrases))
        theirs: set[str] = set().union(*map(words, queries))
        scores.append(2 * len(ours & theirs) / max(len(ours) + len(theirs), 1))
    return float(np.mean(scores)) if scores else 0.0


def retrieval_metrics(ranks: np.ndarray) -> dict[str, float]:
    """The share of images with a clicked query in the top n, and the mean reciprocal rank."""
    metrics = {f"recall_at_{n}": float(np.mean(ranks <= n)) for n in (1, 3, 10)}
    return metrics | {"mrr": float(np.mean(1 / ranks))}
