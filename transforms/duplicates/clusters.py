"""Which image of a cluster of copies stands for all of them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.duplicates.compare import COPY, MARKED
from transforms.duplicates.tables import DUPLICATES


class _Graph:
    """Neighbours of nodes 0 … n − 1, with the weight of the link to each."""

    def __init__(self, n: int, a: np.ndarray, b: np.ndarray, weights: np.ndarray):
        source, target = np.concatenate([a, b]), np.concatenate([b, a])
        order = np.lexsort((target, source))
        self._starts = np.searchsorted(source[order], np.arange(n + 1)).tolist()
        self._targets = target[order].tolist()
        self._weights = np.concatenate([weights, weights])[order].tolist()

    def neighbours(self, node: int) -> list[int]:
        return self._targets[self._starts[node] : self._starts[node + 1]]

    def weights(self, node: int) -> list[float]:
        return self._weights[self._starts[node] : self._starts[node + 1]]

    def degrees(self) -> np.ndarray:
        return np.diff(self._starts)


def clusters_of(links: pa.Table) -> pa.Table:
    """Cuts the graph of links into clusters.

    Components alone would drift: of two links each is sound, of a chain of twenty the ends
    are strangers. So images are taken in the order of size, largest first (ties: smallest
    image_id); each that is free stands for the free images within two COPY links of it. An
    image that is alone after that joins, by its best MARKED link, one that has copies, or
    one that is alone too and has more such links: a mark makes a leaf, never a bridge
    between clusters, which would merge pictures that differ by no more than a mark.

    All links of a dataset come to one worker, once; it takes some 300 bytes of memory a
    link. Candidates, of which there are many more, never do.

    Args:
      links: rows of LINKS.

    Returns:
      Rows of DUPLICATES, sorted; they do not depend on the order of the links.
    """
    names = _by_size(links)
    n = len(names)
    a, b = (pc.index_in(links[end], value_set=names).to_numpy() for end in ("a", "b"))
    kind, difference = links["kind"].to_numpy(), links["difference"].to_numpy()
    copies, marked = (
        _Graph(n, a[kind == k], b[kind == k], difference[kind == k]) for k in (COPY, MARKED)
    )
    leaders = np.array(_join_marked(_within_two_links(n, copies), marked), np.int64)
    first = np.full(n, n)
    np.minimum.at(first, leaders, np.arange(n))  # names are in the order of size
    image = np.flatnonzero(first[leaders] != np.arange(n))
    table = pa.table([names.take(image), names.take(first[leaders[image]])], DUPLICATES)
    return table.sort_by("image_id")


def _by_size(links: pa.Table) -> pa.Array:
    """The images of links, largest first; ties: smallest image_id."""
    names = pa.chunked_array([*links["a"].chunks, *links["b"].chunks], pa.string())
    sizes = pa.chunked_array([*links["size_a"].chunks, *links["size_b"].chunks], pa.int64())
    images = pa.table({"name": names, "size": sizes}).group_by("name", use_threads=False)
    order = [("size_max", "descending"), ("name", "ascending")]
    return images.aggregate([("size", "max")]).sort_by(order)["name"].combine_chunks()


def _within_two_links(n: int, copies: _Graph) -> list[int]:
    """[n] the image in whose cluster each is."""
    leader = [-1] * n
    for image in range(n):
        if leader[image] >= 0:
            continue
        leader[image] = image
        near = [other for other in copies.neighbours(image) if leader[other] < 0]
        for other in near:
            leader[other] = image
        for other in near:
            for further in copies.neighbours(other):
                if leader[further] < 0:
                    leader[further] = image
    return leader


def _join_marked(leader: list[int], marked: _Graph) -> list[int]:
    """[n] the same, after images that were alone have joined the cluster of their best link."""
    degrees = marked.degrees()
    members = np.bincount(leader, minlength=len(leader))
    alone = np.flatnonzero((members[leader] == 1) & (degrees > 0))
    alone = alone[np.argsort(-degrees[alone], kind="stable")]
    # Others may join an image that has copies, or comes before them and joined nothing.
    open_ = (members[leader] > 1).tolist()
    for image in alone.tolist():
        links = zip(marked.weights(image), marked.neighbours(image), strict=True)
        choices = [link for link in links if open_[link[1]]]
        if choices:
            leader[image] = leader[min(choices)[1]]
        else:
            open_[image] = True
    return leader
