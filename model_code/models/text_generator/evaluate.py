"""How well the text generator predicts the queries of images that it has not seen."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import tensorflow as tf

from model_code.metrics import ranks as phrase_metrics
from model_code.metrics.clicked_queries import ClickedQueries
from model_code.models.text_generator.data import FeatureSource, PairSource
from model_code.models.text_generator.trainer import Trainer
from model_code.text.words import words

_SCORES = 1 << 24  # scores in memory at once while ranking
_RANKED_IMAGES = 1024  # of which so many are for one run through the queries
_BATCH = 256  # images that go through the network at once
_SHOWN = 3  # phrases of an image that are compared with its queries


def evaluate(
    trainer: Trainer,
    images: PairSource | FeatureSource,
    clicked: ClickedQueries,
    searched: Sequence[Sequence[str]],
    queries: pa.ChunkedArray,
) -> dict[str, float]:
    """The metrics of held-out images.

    Args:
      trainer: as far as it has come.
      images: the images, as its tower takes them.
      clicked: their clicked head queries; an image may have none.
      searched: the texts of all clicked queries of each image, head or not.
      queries: [K] string, the texts of the head queries.

    Returns:
      The temperature; where there are images, word_f1; where one has a head query, the metrics of
      `ranks.retrieval_metrics`.
    """
    if not images.rows:
        return {"temperature": trainer.temperature}
    embs = np.concatenate([trainer.embed(x).numpy() for x in images.in_order(_BATCH)])
    vectors = trainer.vectors()
    top = top_queries(embs, vectors, _SHOWN)
    texts = queries.take(pa.array(top.reshape(-1))).to_pylist()
    metrics = {"word_f1": word_f1(np.array(texts, object).reshape(top.shape).tolist(), searched)}
    has_head = np.flatnonzero(clicked.counts)
    if len(has_head):
        ranks = phrase_metrics.best_ranks(embs[has_head], vectors, clicked.select(has_head))
        metrics |= phrase_metrics.retrieval_metrics(ranks)
    return metrics | {"temperature": trainer.temperature}


def top_queries(image_embs: np.ndarray, vectors: np.ndarray, n: int) -> np.ndarray:
    """The n nearest queries of each image, nearest first.

    Args:
      image_embs: [rows, M] float32 unit rows.
      vectors: [K, M] float32 unit rows.
      n: how many; K at most.

    Returns:
      [rows, n] int64, places in `vectors`.
    """
    found = []
    for start in range(0, len(image_embs), _RANKED_IMAGES):
        embs = image_embs[start : start + _RANKED_IMAGES]
        best, places = tf.zeros([len(embs), 0]), tf.zeros([len(embs), 0], tf.int64)
        for first, scores in _score_blocks(embs, vectors):
            top = tf.math.top_k(scores, min(n, scores.shape[1]), index_type=tf.int64)
            best = tf.concat([best, top.values], 1)
            places = tf.concat([places, first + top.indices], 1)
            top = tf.math.top_k(best, min(n, best.shape[1]))
            best, places = top.values, tf.gather(places, top.indices, batch_dims=1)
        found.append(places.numpy())
    return np.concatenate(found)


def _score_blocks(embs: np.ndarray, vectors: np.ndarray) -> Iterator[tuple[int, tf.Tensor]]:
    """Cosines with some queries at a time: the first of them, [rows, queries]."""
    step = max(1, _SCORES // len(embs))
    for first in range(0, len(vectors), step):
        yield first, tf.matmul(embs, vectors[first : first + step], transpose_b=True)


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
