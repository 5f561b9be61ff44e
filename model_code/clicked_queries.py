"""Which queries each image was clicked for, as the rows of a sparse matrix."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def head_queries(queries: pa.Table, limit: int, min_images: int) -> np.ndarray:
    """The best of the head, which get a softmax weight of their own.

    Args:
      queries: the mined table of queries.
      limit: at most this many.
      min_images: training images that a query needs.

    Returns:
      [K] int64 query ids: most training clicks first, then by id.
    """
    enough = pc.greater_equal(queries["train_images"], max(min_images, 1))
    supported = queries.filter(pc.and_(queries["head"], enough))
    order = [("train_clicks", "descending"), ("query_id", "ascending")]
    return supported.sort_by(order)["query_id"].to_numpy()[:limit]


@dataclasses.dataclass(frozen=True)
class ClickedQueries:
    """The clicked queries of some images: those of row i lie at offsets[i] to offsets[i + 1].

    Attributes:
      offsets: [rows + 1] int64.
      queries: [pairs] int64, places in the list of head queries.
      weights: [pairs] float32, which sum to 1 for each image.
    """

    offsets: np.ndarray
    queries: np.ndarray
    weights: np.ndarray

    @classmethod
    def from_pairs(
        cls,
        pairs: pa.Table,
        split: str,
        image_ids: pa.ChunkedArray,
        head: np.ndarray,
        limit: int | None = None,
    ) -> tuple["ClickedQueries", np.ndarray]:
        """Collects the pairs of a split whose query is in the head.

        Args:
          pairs: the mined table of pairs.
          split: whose pairs.
          image_ids: the ids of all images.
          head: [K] int64, from `head_queries`.
          limit: at most this many images, the first ones.

        Returns:
          The clicked queries of the images that have any, in the order of `image_ids`,
          and [images] bool, which those are.
        """
        mine = pairs.filter(pc.equal(pairs["split"], split))
        images = pc.index_in(mine["image_id"], image_ids)
        queries = pc.index_in(mine["query_id"], pa.array(head))
        known = pc.and_(images.is_valid(), queries.is_valid())
        image = images.filter(known).to_numpy().astype(np.int64)
        query = queries.filter(known).to_numpy().astype(np.int64)
        weight = mine["weight"].filter(known).to_numpy()
        order = np.lexsort((query, image))
        if limit is not None and len(order):
            last = np.unique(image)[:limit][-1:]
            order = order[: np.searchsorted(image[order], last, "right").sum()]
        image, query, weight = image[order], query[order], weight[order]
        counts = np.bincount(image, minlength=len(image_ids))
        keep = counts > 0
        offsets = np.concatenate([[0], np.cumsum(counts[keep])])
        return cls(offsets, query, _shares(weight, offsets)), keep

    @property
    def rows(self) -> int:
        return len(self.offsets) - 1

    def targets(self, limit: int, seed: int, epoch: int) -> "ClickedQueries":
        """The same pairs, of which at most `limit` an image, drawn anew each epoch, have weight."""
        counts = np.diff(self.offsets)
        if counts.max(initial=0) <= limit:
            return self
        image = np.repeat(np.arange(self.rows), counts)
        draws = np.random.default_rng([seed, epoch]).random(len(self.queries))
        order = np.lexsort((draws, image))
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order)) - np.repeat(self.offsets[:-1], counts)
        kept = np.where(place < limit, self.weights, np.float32(0))
        return dataclasses.replace(self, weights=_shares(kept, self.offsets))

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs of a batch.

        Args:
          rows: [B] int64.

        Returns:
          Place in the batch [n] int64 in rising order, query [n] int64, weight [n] float32.
        """
        counts = self.offsets[rows + 1] - self.offsets[rows]
        batch = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        pairs = np.repeat(self.offsets[rows], counts) + within
        return batch, self.queries[pairs], self.weights[pairs]


def _shares(weights: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Scales the weights of each image to a sum of 1: [pairs] float32."""
    sums = np.add.reduceat(weights.astype(np.float64), offsets[:-1]) if len(weights) else weights
    return (weights / np.repeat(sums, np.diff(offsets))).astype(np.float32)
