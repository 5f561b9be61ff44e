"""The text embedder on held-out associations: after an epoch, and beside baselines at the end."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from model_code.models.text_embedder import evaluate as text_evaluation
from model_code.models.text_embedder import network as text_embedder
from model_code.models.text_embedder.batches import split_words
from model_code.models.text_embedder.data import Associations, HeldOut, Neighbours

_MONITORED_PAIRS = 1000  # of each kind, after an epoch
_MIN_MONITORED_PAIRS = 100  # fewer tell more of chance than of training
_EVALUATED_PAIRS = 10_000  # of each kind, at the end
_CANDIDATES = 10_000
_FITTED_TEXTS = 100_000  # that the idf of the baseline is counted in
_EXACT_BUCKETS = 2**40  # no collision to speak of
_TEXTS_AT_ONCE = 65_536


@dataclasses.dataclass(frozen=True)
class Bags:
    """The texts as the network reads them: those of row i from offsets[i] to offsets[i + 1].

    Attributes:
      ids: [n-grams] see `text_embedder.ngram_ids`.
      offsets: [texts + 1] int64.
      words: [texts] int32: how many of them are words.
    """

    ids: np.ndarray
    offsets: np.ndarray
    words: np.ndarray

    def __len__(self) -> int:
        return len(self.words)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """[rows, longest bag among them, at least 1] int64, filled up with `PADDING`."""
        sizes = self.offsets[rows + 1] - self.offsets[rows]
        found = np.full((len(rows), max(1, sizes.max(initial=0))), text_embedder.PADDING, np.int64)
        within = np.arange(found.shape[1]) < sizes[:, None]
        row = np.repeat(np.arange(len(rows)), sizes)
        place = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        found[within] = self.ids[self.offsets[rows][row] + place]
        return found


def make_bags(texts: pa.Array, buckets: int, max_tokens: int, char_trigrams: bool = False) -> Bags:
    """The bags of texts, see `text_embedder.ngram_ids`."""
    kept = np.int32 if buckets < 2**31 else np.int64
    ids, sizes, words = [np.zeros(0, kept)], [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        strings = tf.constant(texts.slice(start, _TEXTS_AT_ONCE).to_pylist(), tf.string)
        padded = np.asarray(text_embedder.ngram_ids(strings, buckets, max_tokens, char_trigrams))
        is_there = padded != text_embedder.PADDING
        ids.append(padded[is_there].astype(kept))
        sizes.append(is_there.sum(axis=1))
        words.append(np.asarray(text_embedder.word_counts(strings, max_tokens)).astype(np.int32))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    return Bags(np.concatenate(ids), offsets, np.concatenate(words))


def _directed(held: HeldOut) -> dict[str, np.ndarray]:
    """Held-out pairs [pairs, 2] by kind: what is asked, and what is to be found."""
    both_ways = np.concatenate([held.unseen_pairs, held.unseen_pairs[:, ::-1]])
    return {"unseen_pairs": both_ways, "unseen_queries": held.unseen_queries}


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly apart."""
    places = np.linspace(0, len(rows), min(most, len(rows)), endpoint=False)
    return rows[places.astype(np.int64)]


def _embed(model, bags: Bags, rows: np.ndarray) -> np.ndarray:
    """[rows, width] float32, unit rows."""
    parts = np.array_split(rows, max(1, len(rows) // 4096))
    return np.concatenate([np.asarray(model(bags.rows(part))) for part in parts])


def monitor(
    model, bags: Bags, everything: Associations, held: HeldOut, seed: int
) -> Callable[[], Mapping[str, float]]:
    """How high held-out partners rank; if they are few, how high the other half of a text does.

    Returns:
      What `training.fit` calls after each epoch: recall_at_1, recall_at_10, mrr; cosine, the
      mean between partners; score, by which the best epoch is chosen.
    """
    known = Neighbours(everything.pairs, len(everything.texts))
    pairs = np.concatenate([_some(p, _MONITORED_PAIRS) for p in _directed(held).values()])
    if len(pairs) < _MIN_MONITORED_PAIRS:
        unseen = np.setdiff1d(np.arange(len(everything.texts)), held.queries)
        asked = unseen if len(unseen) >= _MIN_MONITORED_PAIRS else np.arange(len(bags))
        asked = _some(asked, _MONITORED_PAIRS)
        rng = np.random.default_rng(seed)
        halves = split_words(bags.rows(asked), bags.words[asked], 0.0, rng)
        pairs = np.stack([asked, asked], axis=1)
    else:
        halves = None
    queries = np.unique(pairs)
    candidates = np.unique(pairs[:, 1])

    def evaluate() -> Mapping[str, float]:
        if halves is None:
            anchor_embs = partner_embs = _embed(model, bags, queries)
        else:
            anchor_embs, partner_embs = (np.asarray(model(half)) for half in halves)

        def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            places = (np.searchsorted(queries, side) for side in (a, b))
            return anchor_embs[next(places)] @ partner_embs[next(places)].T

        found = text_evaluation.rank_partners(similarity, pairs, candidates, known)
        a, b = (np.searchsorted(queries, pairs[:, side]) for side in (0, 1))
        cosine = float(np.mean(np.sum(anchor_embs[a] * partner_embs[b], axis=1)))
        metrics = text_evaluation.retrieval(found)
        # Few pairs are soon all found: then the nearer, the better.
        return metrics | {"cosine": cosine, "score": metrics["mrr"] + 1e-3 * cosine}

    return evaluate


def evaluate(
    model, bags: Bags, everything: Associations, held: HeldOut, max_tokens: int
) -> dict[str, Any]:
    """The trained network, tf-idf and the mean of words on what is held out.

    Returns:
      For "unseen_pairs" and "unseen_queries", where there are any, the number of "candidates"
      and under "methods" the `text_evaluation.summary` of each method.
    """
    count = len(everything.texts)
    known = Neighbours(everything.pairs, count)
    popular = text_evaluation.most_popular(Neighbours(held.train.pairs, count).count())
    fitted = _some(held.queries, _FITTED_TEXTS)
    evaluation = {}
    for kind, directed in _directed(held).items():
        pairs = _some(directed, _EVALUATED_PAIRS)
        if not len(pairs):
            continue
        candidates = text_evaluation.choose_candidates(pairs, count, _CANDIDATES)
        used = np.union1d(candidates, pairs[:, 0])
        methods = _similarities(
            model, bags, texts=everything.texts, used=used, fitted=fitted, max_tokens=max_tokens
        )
        found = {
            name: text_evaluation.summary(
                text_evaluation.rank_partners(similarity, pairs, candidates, known),
                pairs,
                everything.languages,
                popular,
            )
            for name, similarity in methods.items()
        }
        evaluation[kind] = {"candidates": len(candidates), "methods": found}
    return evaluation


def _similarities(
    model,
    bags: Bags,
    *,
    texts: pa.Array,
    used: np.ndarray,
    fitted: np.ndarray,
    max_tokens: int,
) -> dict[str, text_evaluation.Similarity]:
    """The network, tf-idf and the mean of words as similarities of the queries in `used`."""
    every = np.union1d(used, fitted)
    exact = make_bags(texts.take(pa.array(every)), _EXACT_BUCKETS, max_tokens)
    exact_ids = exact.rows(np.arange(len(exact)))
    tf_idf = text_evaluation.TfIdf(exact_ids, np.searchsorted(every, fitted))
    table = np.asarray(model.get_layer("ngrams").table)[:, : model.output_shape[1]]
    words = text_evaluation.mean_of_words(table, bags.rows(used), bags.words[used])
    local: dict[str, tuple[np.ndarray, text_evaluation.Similarity]] = {
        "model": (used, text_evaluation.cosines(_embed(model, bags, used))),
        "tf_idf": (every, tf_idf.similarity),
        "mean_of_words": (used, text_evaluation.cosines(words)),
    }

    def place(order: np.ndarray, queries: np.ndarray) -> np.ndarray:
        return np.asarray(np.searchsorted(order, queries))

    def of(order: np.ndarray, similarity: text_evaluation.Similarity):
        return lambda a, b: similarity(place(order, a), place(order, b))

    return {name: of(*found) for name, found in local.items()}
