"""The phrases of images: found in the index, chosen, and said together as the text feature."""

import dataclasses

import numpy as np
import tensorflow as tf

from model_code.phrases import diversity
from model_code.phrases.index import PhraseIndex
from model_code.phrases.settings import PhraseSettings


@dataclasses.dataclass(frozen=True)
class ChosenPhrases:
    """The phrases of n images, nearest first.

    Attributes:
      rows: [n, N] int64, rows of the index.
      phrases: [n, N] object, their texts.
      scores: [n, N] float32.
      probabilities: [n, N] float32, equation (1) over the index.
      text_embs: [n, T] float32, what they say together.
    """

    rows: np.ndarray
    phrases: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray
    text_embs: np.ndarray


class PhraseChooser:
    """Finds and chooses the phrases of images.

    Args:
      index: all phrases.
      settings: see `PhraseSettings`.
    """

    def __init__(self, index: PhraseIndex, settings: PhraseSettings):
        self.index, self._settings = index, settings
        pool, width = min(settings.pool, len(index)), index.text_embs.shape[1]
        self._choose = tf.function(
            self._graph,
            input_signature=[
                tf.TensorSpec([None, pool], tf.float32),
                tf.TensorSpec([None, pool, width], tf.float32),
                tf.TensorSpec([None, pool], tf.string),
            ],
            autograph=False,  # the graph branches on no tensor
        )

    def _graph(self, scores, text_embs, phrases):
        places = diversity.choose(self._settings, scores, text_embs, phrases)
        features = diversity.text_features(
            self._settings,
            tf.gather(scores, places, batch_dims=1),
            tf.gather(text_embs, places, batch_dims=1),
            self.index.temperature,
        )
        return places, features

    def choose(self, query_embs: np.ndarray) -> ChosenPhrases:
        """The phrases of images.

        Args:
          query_embs: [n, M] float32, unit length.
        """
        found = self.index.search(query_embs, self._settings.pool)
        phrases = self.index.texts(found.rows)
        places, text_embs = self._choose(found.scores, self.index.text_embs[found.rows], phrases)
        rows, texts, scores, probabilities = (
            np.take_along_axis(values, places.numpy(), axis=1)
            for values in (found.rows, phrases, found.scores, found.probabilities)
        )
        return ChosenPhrases(rows, texts, scores, probabilities, text_embs.numpy())
