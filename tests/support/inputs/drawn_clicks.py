"""Clicks that are drawn by equation (1), from vectors that are known."""

import numpy as np

from model_code.metrics.clicked_queries import ClickedQueries
from model_code.phrases.likelihood import Clicks
from model_code.phrases.query_vectors import Queries, unit

WIDTH, TAU = 8, 0.15


def unit_rows(rng, rows: int, width: int = WIDTH) -> np.ndarray:
    return unit(rng.normal(size=(rows, width))).astype(np.float32)


def click(rng, images: np.ndarray, vectors: np.ndarray, tau: float = TAU) -> ClickedQueries:
    """One click an image, drawn by equation (1), cosine distance without its constant."""
    logits = images.astype(float) @ vectors.astype(float).T / tau
    drawn = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    rows = np.arange(len(images))
    return ClickedQueries.from_pairs(rows, drawn, np.ones(len(rows)), len(rows))


def misfit(seed: int, centring: float, scale: float, images: int = 6000) -> Clicks:
    """30 head and 30 tail queries. People click as if a tail query's vector were of length
    `scale` and without the mean of all images; its prototype is neither."""
    rng = np.random.default_rng(seed)
    common = unit_rows(rng, 1)
    embs = unit(unit_rows(rng, images) + 0.7 * common).astype(np.float32)
    mean = embs.astype(float).mean(0)
    weights, tails = unit_rows(rng, 30), unit_rows(rng, 30)
    means = rng.uniform(0.5, 0.9, (30, 1)) * tails + centring * mean
    is_head = np.arange(60) < 30
    queries = Queries(
        np.arange(60) * 7919,
        np.concatenate([weights, np.zeros((30, WIDTH), np.float32)]),
        np.concatenate([np.zeros((30, WIDTH)), means]),
        is_head,
        ~is_head,
    )
    clicked = click(rng, embs, np.concatenate([weights, scale * tails]))
    return Clicks(embs, clicked, queries, np.ones(60), mean, TAU)
