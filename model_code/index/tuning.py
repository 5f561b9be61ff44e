"""How hard a kind of index has to search: the least effort that finds what an exact scan finds."""

import numpy as np

from model_code.index.search import CANDIDATES, Effort, Searcher

# What recall is measured at: the default number of phrases of an image.
RECALL_AT = 3
PROBES = 1024
# A candidate's vector lies anywhere in memory; codes are read in a row, 32 at once.
_CANDIDATE_COST = 48.0
_LISTS = tuple(sorted({1 << p for p in range(15)} | {3 << p for p in range(13)}))


def recall(scores: np.ndarray, exact_scores: np.ndarray) -> float:
    """Share of the N best that were found; of phrases equally near, any will do.

    Args:
      scores: [n, ≥ N] float32, of what was found, falling.
      exact_scores: [n, N] float32, of an exact scan, falling.
    """
    count = exact_scores.shape[1]
    enough = exact_scores[:, -1:] - 1e-6
    return float((scores[:, :count] >= enough).mean())


def probes_from(sample: np.ndarray, count: int = PROBES) -> np.ndarray:
    """Questions where no images are at hand: vectors of phrases, moved by as much again.

    Args:
      sample: [n, M] float32, vectors of phrases.
      count: at most so many.

    Returns:
      [min(n, count), M] float32 unit rows.
    """
    chosen = sample[:count]
    noise = np.random.default_rng(0).normal(size=chosen.shape)
    norms = np.linalg.norm(chosen, axis=1, keepdims=True)
    moved = chosen + noise * norms / np.sqrt(chosen.shape[1])
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def tune(searcher: Searcher, probes: np.ndarray, target: float) -> tuple[Effort, float]:
    """The least effort whose recall@3 of the probes reaches the target, with a margin.

    The margin is the standard error of that recall, half of what is missing to 1 at most:
    other images than the probes are to reach the target too. Effort is counted in vectors
    compared, not in seconds, so that it is the same every time.

    Args:
      searcher: the index.
      probes: [n, M] float32.
      target: recall, in (0, 1].

    Returns:
      The effort and its recall; the hardest one where none reaches the target.
    """
    count = min(RECALL_AT, len(searcher.vectors))
    if searcher.kind.name == "flat":
        return Effort(), 1.0
    _, exact_scores = searcher.exact(probes, count)

    error = (target * (1 - target) / (count * len(probes))) ** 0.5
    target += min(error, (1 - target) / 2)

    def measured(effort: Effort) -> float:
        return recall(searcher.nearest(probes, count, effort)[1], exact_scores)

    if searcher.kind.name == "hnsw":
        return _first([Effort(candidates) for candidates in CANDIDATES], measured, target)
    lists = [n for n in _LISTS if n < searcher.kind.lists] + [searcher.kind.lists]
    if searcher.kind.name == "ivf_flat":
        return _first([Effort(lists=n) for n in lists], measured, target)
    hardest, reached = _first([Effort(CANDIDATES[-1], n) for n in lists], measured, target)
    # More lists need fewer candidates: the cheapest of the next few is taken.
    start = lists.index(hardest.lists)
    best = hardest, reached
    per_list = len(searcher.vectors) / searcher.kind.lists
    for n in lists[start : start + 4]:
        found = _first([Effort(c, n) for c in CANDIDATES], measured, target)
        if found[1] >= target and _cost(found[0], per_list) < _cost(best[0], per_list):
            best = found
    return best


def _first(efforts, measured, target: float) -> tuple[Effort, float]:
    """The first of rising efforts that reaches the target, or the last."""
    for effort in efforts:
        reached = measured(effort)
        if reached >= target:
            break
    return effort, reached


def _cost(effort: Effort, per_list: float) -> float:
    return effort.lists * per_list + effort.candidates * _CANDIDATE_COST
