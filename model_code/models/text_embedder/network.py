"""The text embedder: any text → bag of its words and word pairs → a unit vector.

Both sides of the siamese network are this one network. It works on strings, in any
script, inside its SavedModel.
"""

import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from model_code.runtime import saved_models

PADDING = 0

# Scripts written without spaces, and pictures: each character is a word, together with its
# marks, skin tone, and what a joiner (U+200D) ties to it.
_MARKS = r"[\p{M}\p{Sk}\x{30FC}\x{FF70}]*"
_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{So}]"
_CHARACTER_WORD = rf"({_ALONE}{_MARKS}(?:\x{{200D}}{_ALONE}{_MARKS})*)"
# Letters, marks, numbers, symbols, and the two joiners that Persian and Indic words hold.
_NOT_WORD = r"[^\p{L}\p{M}\p{N}\p{S}\x{200C}\x{200D}]+"


def words(texts: tf.Tensor) -> tf.RaggedTensor:
    """The words of texts, lower case, without punctuation.

    Args:
      texts: [batch] string; invalid UTF-8 and control characters count as spaces.

    Returns:
      [batch, (words)] string.
    """
    texts = tf.strings.unicode_transcode(
        texts, "UTF-8", "UTF-8", replacement_char=ord(" "), replace_control_characters=True
    )
    texts = tf.strings.lower(texts, encoding="utf-8")
    texts = tf.strings.regex_replace(texts, _NOT_WORD, " ")
    return tf.strings.split(tf.strings.regex_replace(texts, _CHARACTER_WORD, r" \1 "))


def ngrams(texts: tf.Tensor, char_trigrams: bool) -> tf.RaggedTensor:
    """The bag of texts: words, then pairs of neighbours, then, if wanted, trigrams of characters.

    Args:
      texts: [batch] string.
      char_trigrams: whether to add the trigrams of each word, which survive misspelling.

    Returns:
      [batch, (n-grams)] string.
    """
    found = words(texts)
    bag = tf.strings.ngrams(found, [1, 2])
    if char_trigrams:
        characters = tf.strings.unicode_split(tf.strings.join(["<", found, ">"]), "UTF-8")
        trigrams = tf.strings.ngrams(characters, 3, separator="").merge_dims(1, 2)
        # No word holds a "#": a trigram never shares its id with a word of three letters.
        bag = tf.concat([bag, tf.strings.join(["#", trigrams])], axis=1)
    return bag


def ngram_ids(
    texts: tf.Tensor, buckets: int, max_tokens: int, char_trigrams: bool = False
) -> tf.Tensor:
    """The hashed bag of texts.

    Args:
      texts: [batch] string.
      buckets: hash values.
      max_tokens: n-grams kept of a text.
      char_trigrams: see `ngrams`.

    Returns:
      [batch, longest bag, at least 1] int64 in [1, buckets], then `PADDING`.
    """
    bag = ngrams(texts, char_trigrams)[:, :max_tokens]
    ids = tf.strings.to_hash_bucket_fast(bag, buckets) + 1
    width = tf.maximum(tf.cast(ids.bounding_shape(axis=1), tf.int64), 1)
    return ids.to_tensor(PADDING, shape=tf.stack([tf.cast(ids.nrows(), tf.int64), width]))


def word_counts(texts: tf.Tensor, max_tokens: int) -> tf.Tensor:
    """[batch] int64: the words that lead the bag of each text."""
    return tf.minimum(words(texts).row_lengths(), max_tokens)


@keras.saving.register_keras_serializable("phraselens")
class BagOfNgrams(keras.layers.Layer):
    """Mean of the vectors of a bag's n-grams; with attention, by the softmax of their scores.

    An empty bag counts as one of a single `PADDING`, which has a vector as any other id. The
    layer gathers from the variable itself, and only for n-grams that are there: a step neither
    reads the whole table nor pays for the longest bag in every row.

    Args:
      rows: number of ids, `PADDING` among them.
      width: of the vectors.
      attention: whether n-grams have scores: one more column of the table.
      scale: length of a vector at the start, about. Vectors grow as they are trained: the
        smaller the start, the less do n-grams that training never saw blur those it did.
    """

    def __init__(self, rows: int, width: int, attention: bool, scale: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.width, self.attention, self.scale = rows, width, attention, scale
        initializer = keras.initializers.RandomNormal(stddev=scale * width**-0.5)
        shape = (rows, width + int(attention))
        self.table = self.add_weight(shape=shape, initializer=initializer, name="table")

    def call(self, ids):
        """[batch, length] int64 → [batch, width] float32."""
        present = tf.not_equal(ids, PADDING)
        empty = ~tf.reduce_any(present, axis=1, keepdims=True)
        present = tf.concat([present[:, :1] | empty, present[:, 1:]], axis=1)
        bags = tf.where(present)[:, 0]
        vectors = tf.gather(self.table.value, tf.boolean_mask(ids, present))
        weights = tf.ones_like(vectors[:, :1])
        if self.attention:
            scores, vectors = vectors[:, self.width :], vectors[:, : self.width]
            highest = tf.stop_gradient(tf.math.segment_max(scores, bags))
            weights = tf.exp(scores - tf.gather(highest, bags))
        weighted = tf.math.segment_sum(tf.concat([weights * vectors, weights], axis=1), bags)
        return weighted[:, : self.width] / weighted[:, self.width :]

    def compute_output_shape(self, ids_shape):
        return ids_shape[0], self.width

    def get_config(self):
        settings = ("rows", "width", "attention", "scale")
        return super().get_config() | {name: getattr(self, name) for name in settings}


def build(
    buckets: int, width: int, attention: bool, dense: bool, scale: float = 1.0
) -> keras.Model:
    """The network: ids → table → mean by attention → (dense layer) → unit length.

    Args:
      buckets: hash values; the table has one row more, for padding.
      width: of the result.
      attention: see `BagOfNgrams`.
      dense: whether a fully connected layer follows the bag.
      scale: see `BagOfNgrams`.

    Returns:
      A model from [batch, length] int64 to [batch, width] float32.
    """
    ids = keras.Input((None,), dtype="int64", name="ids")
    pooled = BagOfNgrams(buckets + 1, width, attention, scale, name="ngrams")(ids)
    if dense:
        pooled = keras.layers.Dense(width, kernel_initializer="orthogonal", name="dense")(pooled)
    unit = keras.layers.UnitNormalization(axis=-1, name="unit")(pooled)
    return keras.Model(ids, unit, name="text_embedder")


def drop_tokens(ids: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Replaces n-grams by padding at random, never all of a bag.

    Args:
      ids: [batch, length] int64.
      rate: share of n-grams to drop.
      seed: [2] int: the same seed drops the same.

    Returns:
      [batch, length] int64.
    """
    draws = tf.random.stateless_uniform(tf.shape(ids), seed)
    present = ids != PADDING
    best = tf.reduce_max(tf.where(present, draws, -1.0), axis=1, keepdims=True)
    return tf.where((draws >= rate) | (draws == best), ids, PADDING)


def in_batch_loss(
    embs: tf.Tensor,
    not_negative: tf.Tensor,
    weights: tf.Tensor,
    temperature: float,
    log_counts: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """Cross-entropy of finding each row's partner among the batch, in both directions.

    Source: Radford et al., ICML 2021, section 2.3, figure 3 (symmetric in-batch softmax);
    hard negatives that the whole batch shares: Karpukhin et al., EMNLP 2020, section 3.2;
    the correction of the logits: Yi et al., RecSys 2019, section 3.

    Args:
      embs: [2 · batch + hard, width] unit vectors: a, their partners b, hard negatives.
      not_negative: [2, batch, batch + hard] bool: what belongs together and is no negative,
        of a with b and the hard ones, then of b with a and the hard ones; a row and its
        partner count in any case.
      weights: [batch] of each pair.
      temperature: divides the cosines.
      log_counts: [2 · batch + hard] natural logarithm of how often each row of `embs` is a
        candidate of a batch on average, taken from its logits: without it what is popular
        is pushed away for nothing but being drawn often.

    Returns:
      The weighted mean over the pairs and both directions, a scalar.
    """
    batch = tf.shape(weights)[0]
    log_counts = tf.broadcast_to(log_counts, tf.shape(embs)[:1])
    losses = tf.zeros_like(weights)
    for way in (0, 1):
        anchors = embs[way * batch : (way + 1) * batch]
        partner = tf.range(batch) + (1 - way) * batch
        candidates = tf.concat([partner, tf.range(2 * batch, tf.shape(embs)[0])], axis=0)
        logits = tf.matmul(anchors, tf.gather(embs, candidates), transpose_b=True) / temperature
        logits -= tf.gather(log_counts, candidates)[None, :]
        masked = tf.linalg.set_diag(not_negative[way], tf.zeros_like(weights, tf.bool))
        logits = tf.where(masked, -1e9, logits)
        losses += tf.reduce_logsumexp(logits, axis=1) - tf.linalg.diag_part(logits)
    return tf.reduce_sum(weights * losses) / (2 * tf.reduce_sum(weights))


class _StringModel(tf.Module):
    def __init__(self, model: keras.Model, buckets: int, max_tokens: int, char_trigrams: bool):
        super().__init__()
        self.model = model
        self._bag = (buckets, max_tokens, char_trigrams)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "texts")])
    def embed(self, texts):
        return {"text_embs": self.model(ngram_ids(texts, *self._bag))}


def export(
    model: keras.Model, folder: str, buckets: int, max_tokens: int, char_trigrams: bool
) -> None:
    """Writes the SavedModel: texts [batch] string → text_embs [batch, width] float32."""
    module = _StringModel(model, buckets, max_tokens, char_trigrams)
    tf.saved_model.save(module, folder, signatures={"serving_default": module.embed})


class TextEmbedder:
    """A trained text embedder, loaded.

    Args:
      folder: local folder of the table "model" of a text embedder.
    """

    def __init__(self, folder: str):
        # The signature is a weak reference into the module that was loaded.
        self._module = saved_models.load(os.path.join(folder, "saved_model"))
        self._embed = self._module.signatures["serving_default"]
        self.width: int = self._embed.structured_outputs["text_embs"].shape[1]

    def embed(self, texts: Sequence[str], batch_size: int = 4096) -> np.ndarray:
        """Embeds texts in the form that `model_code.text.normalise.normalize_query` gives them.

        Returns:
          [texts, width] float32, unit rows; an empty text has a vector of its own.
        """
        rows = [
            self._embed(texts=tf.constant(list(texts[start : start + batch_size])))["text_embs"]
            for start in range(0, len(texts), batch_size)
        ]
        return np.concatenate([np.zeros((0, self.width), np.float32), *rows])
