"""Batches of pairs of queries for the text embedder, and how often each query is in one."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from model_code.models.text_embedder.data import Associations, Neighbours, draw_refused


@dataclasses.dataclass(frozen=True)
class BatchRules:
    """How batches are drawn.

    Attributes:
      batch_size: pairs in a batch.
      self_pairs_share: share of them that pair a query with itself.
      hard_negatives: refused partners added to a batch, at most.
      weight_power: an association counts as its weight to this power.
      language_balance: the pairs of two languages are drawn as often as their number to
        the power of one minus this.
      seed: of every draw.
    """

    batch_size: int
    self_pairs_share: float
    hard_negatives: int
    weight_power: float
    language_balance: float
    seed: int


class Batch(NamedTuple):
    """Pairs a[i], b[i] of queries; the last `selves` pairs are a query and itself.

    Attributes:
      a: [batch] int64.
      b: [batch] int64.
      hard: [hard] int64: hard negatives of the whole batch.
      selves: number of pairs of a query with itself.
      not_negative: [2, batch, batch + hard] bool: of a with b and hard, of b with a and hard.
      weights: [batch] float32, of mean 1 over all associations.
      seed: [2] int32 for what the step draws.
    """

    a: np.ndarray
    b: np.ndarray
    hard: np.ndarray
    selves: int
    not_negative: np.ndarray
    weights: np.ndarray
    seed: np.ndarray


class Batches:
    """The batches of every epoch, each a function of rules, epoch and step alone.

    Args:
      train: the associations to draw from.
      queries: [selves] int64: the queries to pair with themselves.
      rules: see `BatchRules`.
    """

    def __init__(self, train: Associations, queries: np.ndarray, rules: BatchRules):
        self._train, self._queries, self._rules = train, queries, rules
        count = len(train.texts)
        self._known = Neighbours(train.pairs, count)
        self._refused = Neighbours(train.refused, count)
        self._probabilities = pair_probabilities(train, rules.language_balance)
        weights = train.weights.astype(np.float64) ** rules.weight_power
        self._weights = (weights / weights.mean() if len(weights) else weights).astype(np.float32)
        self._per_batch = 0
        if len(train.pairs):
            self._per_batch = max(1, round(rules.batch_size * (1 - rules.self_pairs_share)))
        self._selves = rules.batch_size - self._per_batch

    def steps(self) -> int:
        """Batches until every association and, if any are drawn, every query was seen once."""
        pairs = -(-len(self._train.pairs) // self._per_batch) if self._per_batch else 1
        selves = -(-len(self._queries) // self._selves) if self._selves else 1
        return max(pairs, selves)

    def expected_counts(self) -> np.ndarray:
        """[queries] float64: how often a query is, on average, a candidate in a batch.

        A place of an association holds either side of a pair alike. A hard negative is drawn
        when one of its refused partners is in the batch: the number of those is taken for
        Poisson distributed, and the cap for a share that all hard negatives have in common.
        """
        count = len(self._train.texts)
        halves = np.repeat(self._probabilities / 2, 2)
        found = _add_up(self._train.pairs.ravel(), halves, count) * self._per_batch
        found[self._queries] += self._selves / max(len(self._queries), 1)
        rows, partners = self._refused.of(np.arange(count))
        # A pair of a query with itself holds one query, every other pair two.
        present = 2 * found
        present[self._queries] -= self._selves / max(len(self._queries), 1)
        hard = -np.expm1(-_add_up(rows, present[partners], count))
        return found + hard * min(1.0, self._rules.hard_negatives / max(hard.sum(), 1e-9))

    def epoch(self, epoch: int, steps: int) -> Iterator[Batch]:
        """The batches of one epoch: associations first, then queries with themselves."""
        rules, size = self._rules, steps * self._per_batch
        rng = np.random.default_rng([rules.seed, epoch])
        pairs = draw_in_proportion(self._probabilities, size, rng)
        queries = np.resize(rng.permutation(self._queries), steps * self._selves)
        for step in range(steps):
            rng = np.random.default_rng([rules.seed, epoch, step])
            chosen = pairs[step * self._per_batch : (step + 1) * self._per_batch]
            selves = queries[step * self._selves : (step + 1) * self._selves]
            # Pairs come ordered by id: without this a query would be on one side only.
            sides = rng.permuted(self._train.pairs[chosen], axis=1)
            a, b = np.concatenate([sides[:, 0], selves]), np.concatenate([sides[:, 1], selves])
            hard = draw_refused(self._refused, np.append(a, b), rules.hard_negatives, rng)
            yield Batch(
                a,
                b,
                hard,
                len(selves),
                np.stack(
                    [
                        self._known.matrix(a, np.append(b, hard)),
                        self._known.matrix(b, np.append(a, hard)),
                    ]
                ),
                np.append(self._weights[chosen], np.ones(len(selves), np.float32)),
                rng.integers(0, 2**31, 2).astype(np.int32),
            )


def _add_up(places: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """[size] float64 sums of values by place; `np.bincount` gives integers where there are none."""
    return np.bincount(places, values, minlength=size).astype(np.float64)


def pair_probabilities(train: Associations, language_balance: float) -> np.ndarray:
    """[pairs] float64, of sum 1: how likely each association is the one to be drawn.

    Pairs of the same two languages are alike; n of them together are drawn in proportion
    to n ** (1 - language_balance), so that 1 draws rare combinations as often as common ones.
    """
    _, codes = np.unique(train.languages, return_inverse=True)
    sides = np.sort(codes[train.pairs], axis=1)
    _, group, sizes = np.unique(
        sides[:, 0] * len(train.texts) + sides[:, 1], return_inverse=True, return_counts=True
    )
    found = sizes[group].astype(np.float64) ** -language_balance
    return found / max(found.sum(), 1e-300)


def draw_in_proportion(
    probabilities: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws rows so that each comes its expected number of times, rounded up or down.

    Systematic sampling (Madow and Madow, Annals of Mathematical Statistics 1944) over the
    rows in random order: equal probabilities go through all rows before any comes again.

    Args:
      probabilities: [rows] of sum 1.
      size: how many to draw.
      rng: decides.

    Returns:
      [size] int64 in random order, empty without rows.
    """
    if not len(probabilities):
        return np.zeros(0, np.int64)
    order = rng.permutation(len(probabilities))
    ends = np.cumsum(probabilities[order])
    places = np.searchsorted(ends, (np.arange(size) + rng.random()) / size * ends[-1], "right")
    return rng.permutation(order[np.minimum(places, len(order) - 1)])


def split_words(
    ids: np.ndarray, words: np.ndarray, shared: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of each bag: some words on either side, with the pairs of words within a side.

    What one half of a text says of the other is what its words have to do with each other:
    the one evidence there is where queries hardly share images.

    Args:
      ids: [rows, length] int64 as of `text_embedder.ngram_ids`: words, pairs of neighbours, …
      words: [rows] int64: the words of each bag.
      shared: share of the words that both parts keep.
      rng: decides.

    Returns:
      Two [rows, length] int64 with 0 for what is left out. A bag of one word, or with a part
      that would be empty, stays whole in both; else what comes after the pairs is in neither.
    """
    rows, length = ids.shape
    place, count = np.arange(length)[None, :], words[:, None]
    ranks = np.where(place < count, rng.random((rows, length)), 2).argsort(axis=1).argsort(axis=1)
    cut = np.floor(count / 2 + rng.random((rows, 1)))
    first = np.where(place < count, place, place - count)
    last = np.where(place < count, place, place - count + 1)
    is_gram = place < np.maximum(2 * count - 1, 0)
    first, last = (np.clip(word, 0, length - 1) for word in (first, last))
    parts = []
    for side in (ranks < cut + shared * (count - cut), ranks >= cut * (1 - shared)):
        ends = (np.take_along_axis(side, word, axis=1) for word in (first, last))
        parts.append(np.logical_and(*ends) & is_gram & (ids != 0))
    whole = ~(parts[0].any(axis=1) & parts[1].any(axis=1))
    kept = (np.where(part | whole[:, None], ids, 0) for part in parts)
    return next(kept), next(kept)
