"""The phrases for programs: which are nearest to an image, or to each other."""

import dataclasses

import numpy as np

from schemas.base.errors import PhraseLensError
from transforms.inference.folders import ModelFolder, load


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A phrase that a search has found.

    Attributes:
      text: what people typed.
      score: inner product of its vector with what was searched for, in query space.
      probability: that people would type it for that, of all phrases; equation (1).
    """

    text: str
    score: float
    probability: float


def phrase_index(folder: str):
    from model_code.phrases.index import PhraseIndex

    return PhraseIndex(folder)


class Index:
    """The phrases of a dataset of embed_phrases, and the index over their vectors.

    Args:
      path: the dataset, local or gs://.

    Attributes:
      width: of query space, M.

    Raises:
      PhraseLensError: nothing is committed there, another version wrote it, or it is damaged.
    """

    def __init__(self, path: str):
        self._path = path
        self._index = load(phrase_index, ModelFolder.of(path, "index"))
        self.width: int = self._index.query_vectors.shape[1]

    def __len__(self) -> int:
        return len(self._index)

    def search(self, query_embs: np.ndarray, count: int = 3) -> list[list[Phrase]]:
        """The nearest phrases of some points in query space, such as `query_emb` of features.

        Args:
          query_embs: [n, M] float32, of unit length.
          count: phrases of each.

        Returns:
          [n] lists, nearest first.

        Raises:
          PhraseLensError: the points are not of this query space.
        """
        embs = np.ascontiguousarray(query_embs, np.float32)
        if embs.ndim != 2 or embs.shape[1] != self.width:
            raise PhraseLensError(
                f"query embeddings of shape {list(embs.shape)}",
                f"[n, {self.width}]",
                "Take them from features that this index was used for.",
            )
        if not len(embs):
            return []
        found = self._index.search(embs, count)
        texts = self._index.texts(found.rows)
        return [
            [Phrase(*values) for values in zip(*row, strict=True)]
            for row in zip(
                texts.tolist(), found.scores.tolist(), found.probabilities.tolist(), strict=True
            )
        ]

    def near(self, text: str, count: int = 3) -> list[Phrase]:
        """The phrases that people want the same images by as by this one, itself among them.

        Raises:
          PhraseLensError: it is no phrase of the index.
        """
        row = self._index.row_of(text)
        if row is None:
            raise PhraseLensError(
                f"{text!r} of {self._path}",
                "a phrase of the index, as people typed it and mining normalised it",
                "Read the table phrases: phraselens.open_dataset(…).",
            )
        vector = np.array(self._index.query_vectors[row : row + 1])
        return self.search(vector / np.linalg.norm(vector), count)[0]
