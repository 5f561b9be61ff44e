"""How the phrases of an image are chosen among its nearest; free of TensorFlow."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from schemas.base.errors import PhraseLensError

DIVERSITIES = ("none", "merge", "mmr")
WEIGHTS = ("equal", "probability")


@dataclasses.dataclass(frozen=True)
class PhraseSettings:
    """Settings that training and serving must share; see `model_code.phrases.diversity`.

    Attributes:
      num_phrases: N, phrases of an image.
      diversity: "none" (the N nearest), "merge" (near-identical ones count once) or "mmr"
        (maximal marginal relevance).
      phrase_pool: P, the nearest phrases that merge and mmr choose from.
      mmr_lambda: λ in [0, 1]: 1 is nearness alone, 0 difference alone.
      merge_similarity: cosine of two text embeddings from which on their phrases are one.
      phrase_weights: of the phrases' embeddings in the text feature: "equal", or by
        "probability".
    """

    num_phrases: int = 3
    diversity: str = "none"
    phrase_pool: int = 50
    mmr_lambda: float = 0.7
    merge_similarity: float = 0.9
    phrase_weights: str = "equal"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "PhraseSettings":
        """Takes its fields from a mapping that may hold others; one not there has its default."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: values[name] for name in names if name in values})

    @property
    def pool(self) -> int:
        """How many of the nearest phrases are looked at."""
        if self.diversity == "none":
            return self.num_phrases
        return max(self.num_phrases, self.phrase_pool)

    def check(self) -> None:
        """Raises PhraseLensError for a value that makes no sense."""
        if self.num_phrases < 1:
            _refuse("num_phrases", self.num_phrases, "at least 1")
        if not 0 <= self.mmr_lambda <= 1:
            _refuse("mmr_lambda", self.mmr_lambda, "a number from 0 to 1")
        if not 0 < self.merge_similarity <= 1:
            _refuse("merge_similarity", self.merge_similarity, "a cosine above 0, at most 1")
        if self.diversity != "none" and self.phrase_pool < self.num_phrases:
            _refuse("phrase_pool", self.phrase_pool, f"at least --num_phrases={self.num_phrases}")


def _refuse(name: str, value: object, expected: str) -> None:
    raise PhraseLensError(f"--{name}={value}", expected, "Give another value.")
