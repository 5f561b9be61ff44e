"""Which phrases of those nearest to an image it is given, and what they say together.

Training features and the exported model go through this one implementation. Phrases are
compared by their text embeddings: these are what the text feature is the mean of, so that
two phrases alike in them say one thing twice; and all vectors in query space that are near
one image are near each other, different as their words may be.
"""

import numpy as np
import tensorflow as tf

from model_code.phrases.settings import PhraseSettings


def choose(
    settings: PhraseSettings, scores: tf.Tensor, text_embs: tf.Tensor, phrases: tf.Tensor
) -> tf.Tensor:
    """Chooses N of the P nearest phrases of each image.

    merge goes from the nearest phrase outwards and leaves out each one that is near-identical
    to one already chosen: the same words in any order, or a cosine of the text embeddings of
    at least `merge_similarity`. When fewer than N differ, the nearest left out fill up.

    mmr takes the nearest phrase, then N − 1 times the one that maximises
    λ · relevance − (1 − λ) · highest cosine to one already chosen. Relevance is the score,
    scaled so that each image's pool spans [0, 1]: λ then means the same whatever the scale of
    the scores.
    Source: Carbonell & Goldstein, SIGIR 1998, section 2.

    Args:
      settings: see `PhraseSettings`.
      scores: [batch, P] float32, falling.
      text_embs: [batch, P, T] float32.
      phrases: [batch, P] string, normalised.

    Returns:
      [batch, min(N, P)] int32, distinct places in the pool, rising: the phrases stay sorted by
      nearness, and the first is the nearest.
    """
    pool = scores.shape[1]
    count = min(settings.num_phrases, pool)
    if settings.diversity == "none":
        return tf.tile(tf.range(count)[tf.newaxis], [tf.shape(scores)[0], 1])
    units = tf.math.l2_normalize(text_embs, axis=-1)
    similarity = tf.matmul(units, units, transpose_b=True)
    if settings.diversity == "merge":
        keys = word_keys(phrases)
        same_words = keys[:, :, tf.newaxis] == keys[:, tf.newaxis]
        alike = same_words | (similarity >= settings.merge_similarity)
        relevance = -tf.range(pool, dtype=tf.float32)
        # One that is alike comes after all that are not.
        penalty = pool * tf.cast(alike, tf.float32)
    else:
        spread = scores[:, :1] - scores[:, -1:]
        relevance = settings.mmr_lambda * tf.math.divide_no_nan(scores - scores[:, -1:], spread)
        penalty = (1 - settings.mmr_lambda) * similarity
    return _greedy(relevance, penalty, count)


def _greedy(relevance: tf.Tensor, penalty: tf.Tensor, count: int) -> tf.Tensor:
    """Takes the first candidate, then the best of relevance − highest penalty by those taken.

    Args:
      relevance: [batch or 1, P] float32.
      penalty: [batch, P, P] float32.
      count: how many.

    Returns:
      [batch, count] int32, rising; of equals, the first.
    """
    pool = penalty.shape[1]
    pick = tf.zeros([tf.shape(penalty)[0]], tf.int32)
    highest = penalty[:, 0]
    picks, taken = [pick], tf.one_hot(pick, pool, True, False, dtype=tf.bool)
    for _ in range(count - 1):
        value = tf.where(taken, -np.inf, relevance - highest)
        # top_k gives the first of equals, which argmax does not promise.
        pick = tf.math.top_k(value, 1).indices[:, 0]
        highest = tf.maximum(highest, tf.gather(penalty, pick, batch_dims=1))
        taken |= tf.one_hot(pick, pool, True, False, dtype=tf.bool)
        picks.append(pick)
    return tf.sort(tf.stack(picks, axis=1), axis=1)


def word_keys(phrases: tf.Tensor) -> tf.Tensor:
    """[batch, P] string → [batch, P] int64, equal for phrases of the same words in any order."""
    words = tf.strings.split(tf.reshape(phrases, [-1]))
    hashes = words.with_values(tf.strings.to_hash_bucket_fast(words.values, 1 << 53))
    # A sum does not depend on the order.
    return tf.reshape(tf.reduce_sum(hashes, axis=1), tf.shape(phrases))


def text_features(
    settings: PhraseSettings, scores: tf.Tensor, text_embs: tf.Tensor, temperature: float
) -> tf.Tensor:
    """What an image's phrases say together: the weighted mean of their text embeddings.

    Args:
      settings: its `phrase_weights` are equal, or equation (1) over the N phrases alone.
      scores: [batch, N] float32.
      text_embs: [batch, N, T] float32.
      temperature: τ of equation (1).

    Returns:
      [batch, T] float32.
    """
    return _weighted_mean(_logits(settings, scores, temperature), text_embs)


def without_each(
    settings: PhraseSettings, scores: tf.Tensor, text_embs: tf.Tensor, temperature: float
) -> tf.Tensor:
    """As `text_features`, N times: each time of all phrases but one.

    Returns:
      [batch, N, T] float32, by the phrase left out; zeros where it was the only one.
    """
    count = scores.shape[1]
    if count == 1:
        return tf.zeros_like(text_embs)
    logits = _logits(settings, scores, temperature)
    left_out = tf.eye(count, dtype=tf.bool)
    return tf.stack(
        [
            _weighted_mean(tf.where(left_out[place], -np.inf, logits), text_embs)
            for place in range(count)
        ],
        axis=1,
    )


def _logits(settings: PhraseSettings, scores: tf.Tensor, temperature: float) -> tf.Tensor:
    equal = settings.phrase_weights == "equal"
    return tf.zeros_like(scores) if equal else scores / temperature


def _weighted_mean(logits: tf.Tensor, text_embs: tf.Tensor) -> tf.Tensor:
    weights = tf.nn.softmax(logits, axis=1)
    # Not a matrix product: its sums may run in an order that the batch decides.
    return tf.reduce_sum(weights[:, :, tf.newaxis] * text_embs, axis=1)
