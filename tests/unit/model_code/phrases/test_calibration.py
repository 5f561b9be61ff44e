"""One scale for weights and prototypes: recovered from clicks that were drawn with a known one."""

import dataclasses

import numpy as np
import pytest

from model_code.phrases import calibration, likelihood
from model_code.phrases.likelihood import Clicks
from model_code.phrases.query_vectors import Calibration, Queries, query_vectors, unit
from tests.support.inputs.drawn_clicks import TAU, WIDTH, click, misfit, unit_rows


@pytest.mark.parametrize("unsure", [1.0, 2.0])
@pytest.mark.parametrize(("centring", "scale"), [(0.0, 1.0), (0.5, 0.6), (1.0, 1.6)])
def test_calibration_recovers_a_known_misfit(centring, scale, unsure):
    """Also where the generator's temperature is not that of these images."""
    clicks = misfit(1, centring, scale)
    clicks = dataclasses.replace(clicks, temperature=TAU / unsure)
    tail = ~clicks.queries.has_weight
    found = calibration.fit_tail(clicks, tail, Calibration())
    assert found.centring == pytest.approx(centring, abs=0.13)
    assert found.scale == pytest.approx(scale, rel=0.1)
    true = Calibration(centring=centring, scale=scale)
    least = likelihood.cross_entropy(clicks, tail, true, TAU)
    loss, temperature = likelihood.best_temperature(clicks, tail, found)
    assert loss < least + 1e-3
    assert temperature == pytest.approx(TAU, rel=0.1)
    before, _ = likelihood.best_temperature(clicks, tail, Calibration())
    assert before - loss > (0.01 if scale != 1 else -1e-9)


def test_head_has_its_share_of_the_top_again():
    clicks = misfit(2, 0.5, 0.5)
    found, figures = calibration.fit(clicks, "weight")
    before, after = figures["head_share_of_top_10"]
    _, queries, _ = clicks.clicked.pairs()
    assert figures["head_share_of_clicks"] == pytest.approx(np.mean(queries < 30))
    nll = figures["nll"]
    assert nll[1] < nll[0]
    # Prototypes that are too near to every image push the head out of the top.
    assert before < after
    assert figures["fitted_on"] == "tail queries"
    vectors, _ = query_vectors(clicks.queries, clicks.mean, found)
    scores = clicks.image_embs @ vectors.T
    top = np.argsort(-scores, axis=1)[:, :10]
    assert after == pytest.approx(np.mean(top < 30))
    # Where s is best, equation (1) gives the tail all the score that its clicks have.
    p = np.exp(scores / figures["temperature"][1])
    p /= p.sum(1, keepdims=True)
    expected = (p * scores)[:, 30:].sum() / clicks.images
    clicked = scores[np.arange(clicks.images), queries][queries >= 30].sum() / clicks.images
    assert expected == pytest.approx(clicked, abs=2e-3)


def test_scale_and_temperature_are_the_best_of_all():
    clicks = misfit(5, 0.25, 0.8, images=300)
    tail = ~clicks.queries.has_weight
    found = calibration.fit_tail(clicks, tail, Calibration(centring=0.25), (0.25,))
    loss, temperature = likelihood.best_temperature(clicks, tail, found)
    losses = {
        (scale, tau): likelihood.cross_entropy(
            clicks, tail, Calibration(centring=0.25, scale=scale), tau
        )
        for scale in found.scale * np.linspace(0.8, 1.2, 9)
        for tau in temperature * np.linspace(0.8, 1.2, 9)
    }
    assert loss <= min(losses.values()) + 1e-6
    best = min(losses, key=losses.__getitem__)
    np.testing.assert_allclose(best, (found.scale, temperature), rtol=1e-6)


def head_only(seed: int, noise_of_weights: float, noise_of_means: float) -> Clicks:
    """40 head queries whose weights and prototypes are their true vectors and noise."""
    rng = np.random.default_rng(seed)
    true, embs = unit_rows(rng, 40), unit_rows(rng, 3000)
    weights, means = (
        unit(true + noise * unit_rows(rng, 40)) for noise in (noise_of_weights, noise_of_means)
    )
    yes = np.ones(40, bool)
    queries = Queries(np.arange(40) * 7919, weights.astype(np.float32), means, yes, yes)
    return Clicks(embs, click(rng, embs, true, 0.05), queries, np.ones(40), np.zeros(WIDTH), 0.05)


@pytest.mark.parametrize(
    ("noise_of_weights", "noise_of_means", "head"),
    [(0.0, 0.8, "weight"), (0.8, 0.0, "prototype"), (0.7, 0.7, "mix"), (0.0, 0.0, "weight")],
)
def test_head_is_the_best_form_on_validation(noise_of_weights, noise_of_means, head):
    clicks = head_only(0, noise_of_weights, noise_of_means)
    found, mrr = calibration.choose_head(clicks, Calibration(head="auto"))
    assert found.head == head
    # The mean reciprocal rank of weights, by sorting.
    scores = clicks.image_embs @ clicks.queries.weights.T
    ranks = [
        1 + np.flatnonzero(np.argsort(-row) == query)[0]
        for row, query in zip(scores, clicks.clicked.queries, strict=True)
    ]
    assert mrr["weight"] == pytest.approx(np.mean(1 / np.array(ranks)), abs=1e-3)
    assert set(mrr) == {"weight", "prototype", "mix_0.75", "mix_0.5", "mix_0.25"}


@pytest.mark.parametrize("head", ["weight", "prototype", "mix"])
def test_what_is_asked_for_stands_for_the_head(head):
    clicks = head_only(0, 0.5, 0.5)
    found, figures = calibration.fit(clicks, head)
    assert found.head == head
    assert figures["fitted_on"] == "half of the head queries"
    assert all(name.startswith(head) for name in figures["head_mrr"])


def test_half_of_the_head_plays_the_tail():
    """Prototypes that lean to the mean of all images are recovered without any tail query."""
    rng = np.random.default_rng(6)
    true = unit_rows(rng, 60)
    embs = unit(unit_rows(rng, 6000) + 0.7 * unit_rows(rng, 1)).astype(np.float32)
    mean, yes = embs.astype(float).mean(0), np.ones(60, bool)
    queries = Queries(np.arange(60) * 7919, true, 0.7 * true + 0.75 * mean, yes, yes)
    clicks = Clicks(embs, click(rng, embs, true), queries, np.ones(60), mean, TAU)
    found, figures = calibration.fit(clicks, "auto")
    assert (found.head, found.centring) == ("weight", pytest.approx(0.75, abs=0.13))
    assert found.scale == pytest.approx(1, rel=0.1)
    assert figures["nll"][1] < figures["nll"][0]
    half = calibration.half_of(queries.ids)
    assert 15 < half.sum() < 45


@pytest.mark.parametrize("images", [0, calibration.MIN_IMAGES - 1])
@pytest.mark.parametrize(("asked", "used"), [("auto", "weight"), ("mix", "mix")])
def test_few_validation_images_change_nothing(images, asked, used):
    clicks = misfit(7, 0.5, 0.5).on(np.ones(60, bool), limit=images)
    assert clicks.images == images
    found, figures = calibration.fit(clicks, asked)
    assert found == Calibration(head=used)
    assert figures["fitted_on"].startswith("nothing")
