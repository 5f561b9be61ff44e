"""One scale for trained weights w_c and prototypes φ_c, so that one index compares them.

A softmax trains the weights of head queries; the prototype of a tail query is a mean of image
vectors, whose cosines with images run higher: all images have something in common, which says
nothing about queries. A tail query therefore gets the vector s · unit(φ_c − λμ), with μ the mean
of all training images: λ takes out what they have in common, s sets the length. Both are those
with which equation (1) of CN112204575A / US11907337B2 explains the clicks of validation images
best. As they change the vector, and not the score, an index of the same width serves both.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from model_code.metrics.ranks import best_ranks
from model_code.phrases.likelihood import Clicks, best_temperature, softmax_of, vectors_as_tail
from model_code.phrases.query_vectors import Calibration, query_vectors
from schemas.base.fingerprint import mix

HEADS = ("auto", "weight", "prototype", "mix")
# Fewer images than this say too little: vectors stay as they are.
MIN_IMAGES = 30
_SCORES = 1 << 25  # scores in memory at once
# s is a multiple of this, and λ and α come from lists: the last bits of a matrix product, which
# differ between processors, must not decide a vector.
_SCALE_UNIT = 1 / 256
_MAX_SCALE = 4.0
_CENTRINGS = (0.0, 0.25, 0.5, 0.75, 1.0)
_CENTRING_STEP = 0.125
_ALPHAS = (0.75, 0.5, 0.25)
_HALVES = np.array([0x68616C76], np.int64)  # key of the hash that halves the head


def fit_tail(
    clicks: Clicks,
    tail: np.ndarray,
    calibration: Calibration,
    centrings: Sequence[float] = _CENTRINGS,
) -> Calibration:
    """Finds λ and s by the least cross-entropy; λ coarsely, then around the best.

    A temperature common to head and tail is found with them and left out: a generator is
    surer of its training images than of others, and s must not make up for that on one
    side only.

    Args:
      clicks, tail, calibration: see `cross_entropy`.
      centrings: the values of λ; a single one is kept.
    """
    found: dict[float, tuple[float, float]] = {}
    factors = np.full(2, 1 / clicks.temperature)

    def least(values: Sequence[float]) -> float:
        nonlocal factors
        for value in values:
            softmax = softmax_of(clicks, tail, dataclasses.replace(calibration, centring=value))
            # Those of the λ before are near.
            loss, factors = softmax.least(factors)
            scale = factors[1] / max(factors[0], 1e-9)
            found[value] = loss, float(np.clip(scale, _SCALE_UNIT, _MAX_SCALE))
        return min(found, key=lambda value: (found[value][0], value))

    best = least(centrings)
    if len(centrings) > 1:
        near = (best - _CENTRING_STEP, best + _CENTRING_STEP)
        best = least([value for value in near if 0 <= value <= 1])
    scale = round(found[best][1] / _SCALE_UNIT) * _SCALE_UNIT
    return dataclasses.replace(calibration, centring=best, scale=scale)


def choose_head(clicks: Clicks, calibration: Calibration) -> tuple[Calibration, dict[str, float]]:
    """Chooses what stands for head queries: the best mean reciprocal rank among themselves.

    Another form than the weight must be better by more than one standard error of the
    difference over the images (the one-standard-error rule of Breiman et al., 1984).

    Args:
      clicks: on queries that all have a weight.
      calibration: gives λ; `head` is one of HEADS, and what it names is tried.

    Returns:
      The calibration with `head` and `alpha`, and the mean reciprocal rank of each form tried.
    """
    tried = {name: [name] for name in ("weight", "prototype", "mix")}
    tried["auto"] = ["weight", "prototype", "mix"]
    forms = [
        dataclasses.replace(calibration, head=head, alpha=alpha)
        for head in tried[calibration.head]
        for alpha in (_ALPHAS if head == "mix" else (calibration.alpha,))
    ]
    found = []
    for form in forms:
        vectors, _ = query_vectors(clicks.queries, clicks.mean, form)
        found.append(1 / best_ranks(clicks.image_embs, vectors, clicks.clicked, 1 / clicks.rates))
    best = 0
    for place in range(1, len(forms)):
        if found[place].mean() > found[best].mean():
            best = place
    if calibration.head == "auto":
        gain = found[best] - found[0]
        if gain.mean() <= gain.std() / np.sqrt(len(gain)):
            best = 0
    names = [f"mix_{form.alpha}" if form.head == "mix" else form.head for form in forms]
    return forms[best], {
        name: float(ranks.mean()) for name, ranks in zip(names, found, strict=True)
    }


def half_of(ids: np.ndarray) -> np.ndarray:
    """A random half of queries, the same on every run: [Q] int64 → [Q] bool."""
    return mix(ids, np.broadcast_to(_HALVES, ids.shape)) < 0


def head_share(clicks: Clicks, vectors: np.ndarray, tail: np.ndarray, count: int = 10) -> float:
    """The share of head queries among the `count` nearest queries of each image."""
    count = min(count, len(vectors))
    head, step = 0, max(1, _SCORES // max(len(vectors), 1))
    for start in range(0, clicks.images, step):
        scores = clicks.image_embs[start : start + step] @ vectors.T
        nearest = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        head += int((~tail[nearest]).sum())
    return head / max(clicks.images * count, 1)


def fit(clicks: Clicks, head: str) -> tuple[Calibration, dict]:
    """Finds the calibration.

    λ and s are fitted on the clicks of tail queries. Where there are too few, half of the
    head queries, drawn by a hash of their ids, stand in: they play the tail with φ_c
    instead of w_c.

    Args:
      clicks: validation images.
      head: one of HEADS.

    Returns:
      The calibration, and figures for people: on what it was fitted; before and after,
      cross-entropy `nll` at the `temperature` that is best for it, and head's share of the
      ten nearest; head's share of the clicks; the mean reciprocal ranks that decided over
      the head's vectors.
    """
    queries = clicks.queries
    fallback = Calibration(head="weight" if head == "auto" else head)
    both = queries.has_weight & queries.has_mean
    tail = ~queries.has_weight & queries.has_mean
    sample, name = clicks.on(queries.has_weight | tail), "tail queries"
    as_tail = tail[queries.has_weight | tail]
    if not _enough(sample, as_tail):
        sample, name = clicks.on(queries.has_weight), "half of the head queries"
        as_tail = (both & half_of(queries.ids))[queries.has_weight]
    if not _enough(sample, as_tail):
        few = {"fitted_on": f"nothing: fewer than {MIN_IMAGES} validation images of head or tail"}
        return fallback, few
    limit = max(MIN_IMAGES, _SCORES // len(as_tail))
    everything = np.ones(len(as_tail), bool)
    fitted_on = sample.on(everything, limit)
    before = Calibration()
    found = fit_tail(fitted_on, as_tail, before)
    found, ranks = choose_head(clicks.on(queries.has_weight), dataclasses.replace(found, head=head))
    if found.head != "weight":
        found = fit_tail(fitted_on, as_tail, found, (found.centring,))
    _, clicked, shares = sample.clicked.pairs()
    fits = [best_temperature(fitted_on, as_tail, c) for c in (before, found)]
    figures = {
        "fitted_on": name,
        "fitted_images": fitted_on.images,
        "nll": [loss for loss, _ in fits],
        "temperature": [temperature for _, temperature in fits],
        "head_share_of_top_10": [
            head_share(fitted_on, vectors_as_tail(fitted_on, as_tail, c), as_tail)
            for c in (before, found)
        ],
        "head_share_of_clicks": float(shares[~as_tail[clicked]].sum() / sample.images),
        "head_mrr": ranks,
    }
    return found, figures


def _enough(clicks: Clicks, tail: np.ndarray) -> bool:
    """Whether enough images were clicked for tail queries, and enough for head queries."""
    image, query, _ = clicks.clicked.pairs()
    return all(len(np.unique(image[tail[query] == side])) >= MIN_IMAGES for side in (True, False))
