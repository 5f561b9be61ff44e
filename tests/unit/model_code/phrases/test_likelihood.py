"""The likelihood of clicks, against equation (1) as it is read."""

import dataclasses

import numpy as np
import pytest

from model_code.phrases import likelihood
from model_code.phrases.likelihood import Clicks
from model_code.phrases.query_vectors import Calibration, query_vectors
from tests.support.inputs.drawn_clicks import TAU, misfit


def plain_cross_entropy(clicks: Clicks, vectors: np.ndarray) -> float:
    """Equation (1) and its cross-entropy, written down as it is read."""
    losses = []
    for row in range(clicks.images):
        distances = 1 - vectors.astype(float) @ clicks.image_embs[row].astype(float)
        p = np.exp(-distances / clicks.temperature) / clicks.rates
        _, queries, shares = clicks.clicked.of(np.array([row]))
        own = np.exp(-distances[queries] / clicks.temperature)
        losses.append(-(shares * np.log(own / p.sum())).sum())
    return float(np.mean(losses))


@pytest.mark.parametrize("settings", [{}, {"centring": 0.5, "scale": 0.7}])
def test_cross_entropy_is_that_of_equation_1(settings):
    clicks = misfit(3, 0.5, 0.8, images=50)
    made = Calibration(**settings)
    vectors, _ = query_vectors(clicks.queries, clicks.mean, made)
    found = likelihood.cross_entropy(clicks, ~clicks.queries.has_weight, made, TAU)
    assert found == pytest.approx(plain_cross_entropy(clicks, vectors), rel=1e-5)


def test_sampled_queries_stand_for_those_that_are_left_out():
    clicks = misfit(4, 0.5, 0.8, images=40)
    unclicked = np.setdiff1d(np.arange(60), clicks.clicked.queries)
    assert len(unclicked) > 3
    rates = np.ones(60)
    rates[unclicked] = 1 / 3
    sampled = dataclasses.replace(clicks, rates=rates)
    # The same in full: each of the unclicked three times over.
    copies = np.concatenate([np.arange(60), unclicked, unclicked])
    whole = dataclasses.replace(
        clicks, queries=clicks.queries.take(copies), rates=np.ones(len(copies))
    )
    for on in (sampled, whole):
        tail = ~on.queries.has_weight
        assert likelihood.cross_entropy(on, tail, Calibration(), TAU) == pytest.approx(
            plain_cross_entropy(whole, query_vectors(whole.queries, clicks.mean, Calibration())[0]),
            rel=1e-5,
        )
