"""Which queries each image was clicked for, as the rows of a sparse matrix."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.base import fingerprint

_DECIMALS = 9  # of sums of probabilities, so that rounding neither adds nor loses a draw


def head_queries(queries: pa.Table, limit: int, min_images: int) -> pa.Table:
    """The best of the head, which get a softmax weight of their own.

    Args:
      queries: the mined table of queries, or some columns of it.
      limit: at most this many.
      min_images: training images that a query needs.

    Returns:
      Their rows by rank: most training clicks first, then by id.
    """
    enough = pc.greater_equal(queries["train_images"], max(min_images, 1))
    supported = queries.filter(pc.and_(queries["head"], enough))
    order = [("train_clicks", "descending"), ("query_id", "ascending")]
    return supported.sort_by(order).slice(0, limit)


class Places:
    """Where ids stand in a list of them: 16 bytes an id, an eighth of a dict's.

    Args:
      ids: [K] int64, each once.
    """

    def __init__(self, ids: np.ndarray):
        self._order = np.argsort(ids)
        self._sorted = ids[self._order]

    def of(self, ids: np.ndarray) -> np.ndarray:
        """[n] int64 ids → [n] int64 places, −1 for an id that is not in the list."""
        if not len(self._sorted):
            return np.full(len(ids), -1)
        near = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        return np.where(self._sorted[near] == ids, self._order[near], -1)


@dataclasses.dataclass(frozen=True)
class ClickedQueries:
    """The clicked queries of some images: those of row i lie at offsets[i] to offsets[i + 1].

    Attributes:
      offsets: [rows + 1] int64.
      queries: [pairs] int64, places in the list of head queries.
      weights: [pairs] float32, which sum to 1 for each image that has any.
    """

    offsets: np.ndarray
    queries: np.ndarray
    weights: np.ndarray

    @classmethod
    def from_pairs(
        cls, images: np.ndarray, queries: np.ndarray, weights: np.ndarray, rows: int
    ) -> "ClickedQueries":
        """Collects pairs by image, those of an image by query.

        Args:
          images: [pairs] int64 below `rows`.
          queries: [pairs] int64; no pair twice.
          weights: [pairs] above 0, in any unit.
          rows: how many images there are.
        """
        order = np.lexsort((queries, images))
        counts = np.bincount(images, minlength=rows)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return cls(offsets, queries[order], _shares(weights[order], offsets))

    @property
    def rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """How many queries each image has: [rows] int64."""
        return np.diff(self.offsets)

    def targets(
        self, limit: int, seed: int, epoch: int, rows: np.ndarray | None = None
    ) -> "ClickedQueries":
        """The same pairs, of which at most `limit` an image, drawn anew each epoch, have weight.

        An image with more queries has `limit` of them drawn, with probabilities in proportion to
        their shares as far as they stay below 1, by systematic sampling (Madow, Annals of
        Mathematical Statistics 1949). One that is drawn weighs its share divided by its
        probability (Horvitz and Thompson, JASA 1952). So its mean weight over the draws is its
        share, the weights of an image sum to 1 in every draw, and the mean of a loss that is
        linear in the weights is the loss without draws.

        Args:
          limit: queries of an image that are targets, at least 1.
          seed, epoch: of the draws.
          rows: [rows] int64, numbers of the images, where they are not 0, 1, …: what is drawn
            depends on an image's number and not on its place in a batch.
        """
        if self.counts.max(initial=0) <= limit:
            return self
        numbers = np.arange(self.rows) if rows is None else rows
        key = np.random.default_rng([seed, epoch]).integers(2**63 - 1, size=1)
        start = (fingerprint.mix(key, numbers).view(np.uint64) >> np.uint64(11)) * 2.0**-53
        image = np.repeat(np.arange(self.rows), self.counts)
        probabilities = _inclusion(self.weights.astype(np.float64), image, self.counts, limit)
        # An image's queries lie end to end, as long as they are probable, but for those that are
        # certain; the points start, start + 1, … fall on those that are drawn.
        ends = np.concatenate([[0], np.cumsum(np.where(probabilities < 1, probabilities, 0))])
        ends = np.round(ends[1:] - ends[self.offsets[:-1]][image], _DECIMALS)
        points = np.ceil(ends - start[image])
        before = np.concatenate([[0], points])[:-1]
        before[self.offsets[:-1][self.counts > 0]] = 0
        drawn = (probabilities >= 1) | (points > before)
        weights = np.zeros(len(self.weights), np.float32)
        weights[drawn] = self.weights[drawn] / probabilities[drawn]
        return dataclasses.replace(self, weights=weights)

    def select(self, rows: np.ndarray) -> "ClickedQueries":
        """Those of some images, [B] int64, in their order."""
        counts = self.counts[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        pairs = np.repeat(self.offsets[rows], counts) + within
        return ClickedQueries(offsets, self.queries[pairs], self.weights[pairs])

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image [pairs] int64 in rising order, query [pairs] int64, weight [pairs] float32."""
        return np.repeat(np.arange(self.rows), self.counts), self.queries, self.weights

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs of a batch of images, [B] int64: place in the batch, query, weight."""
        return self.select(rows).pairs()


def _shares(weights: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Scales the weights of each image to a sum of 1: [pairs] float32."""
    image = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return (weights / np.bincount(image, weights)[image]).astype(np.float32)


def _inclusion(shares: np.ndarray, image: np.ndarray, counts: np.ndarray, limit: int) -> np.ndarray:
    """Probabilities of being among `limit` drawn queries, proportional to shares where they can be.

    What would pass 1 is drawn for certain, and the others share the places that are left.

    Args:
      shares: [pairs] float64, which sum to 1 for each image.
      image: [pairs] the image of each.
      counts: [rows] pairs of each image.
      limit: how many are drawn; of an image with no more pairs, all.

    Returns:
      [pairs] float64, at most 1, which sum to `limit` for each image with more pairs.
    """
    certain = counts[image] <= limit
    while True:
        left = limit - np.bincount(image, certain, len(counts))
        rest = np.bincount(image, np.where(certain, 0, shares), len(counts))
        scale = np.divide(left, rest, out=np.zeros(len(counts)), where=rest > 0)
        probabilities = np.where(certain, 1, shares * scale[image])
        more = ~certain & (probabilities >= 1)
        if not more.any():
            return probabilities
        certain |= more
