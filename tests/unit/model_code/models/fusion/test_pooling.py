import keras
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from model_code.models.fusion import network, pooling
from model_code.models.fusion.family import INPUTS

ROWS, LABELS = 40, 5


def _case(multi: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of three classifiers, the first of which knows most and the last nothing."""
    rng = np.random.default_rng(seed)
    if multi:
        truth = rng.random((ROWS, LABELS)) < 0.3
    else:
        truth = np.eye(LABELS)[rng.integers(0, LABELS, ROWS)] > 0
    noise = rng.normal(size=(3, ROWS, LABELS))
    return (noise + np.array([2, 1, 0])[:, None, None] * truth).astype(np.float32), truth


def _loss(weights, logits, truth, multi, prior):
    pooled = np.tensordot(weights, logits.astype(float), 1)
    if multi:
        losses = -np.where(truth, np.log(expit(pooled)), np.log(expit(-pooled)))
    else:
        losses = -np.where(truth, log_softmax(pooled, axis=1), 0)
    return losses.sum() / len(truth) + ((weights - prior) ** 2).sum() / 2 / len(truth)


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_weights_equal_those_of_a_general_optimiser(multi, seed):
    logits, truth = _case(multi, seed)
    prior = np.array([0.0, 0.0, 1.0])
    expected = minimize(
        _loss, prior, (logits, truth, multi, prior), "L-BFGS-B", bounds=[(0, None)] * 3
    )
    found = pooling.fit_weights(logits, truth, multi, prior)
    np.testing.assert_allclose(found, expected.x, atol=2e-3)
    assert _loss(found, logits, truth, multi, prior) <= expected.fun + 1e-6
    assert (found >= 0).all()


def test_who_says_the_opposite_is_not_heard():
    logits, truth = _case(False, 0)
    logits[1] = -logits[0]
    found = pooling.fit_weights(logits, truth, False, np.array([0.0, 1.0, 0.0]))
    assert found[1] == 0
    assert found[0] > 0.5


def test_weights_stay_finite_where_rows_are_few_and_without_rows_are_the_prior():
    logits, truth = _case(False, 1)
    prior = np.array([0.0, 0.0, 1.0])
    right = np.argmax(logits[0], axis=1) == truth.argmax(axis=1)
    found = pooling.fit_weights(logits[:, right][:, :3], truth[right][:3], False, prior)
    assert np.isfinite(found).all()
    assert found.max() < 10
    for multi in (False, True):
        nothing = pooling.fit_weights(logits[:, :0], truth[:0], multi, prior)
        np.testing.assert_array_equal(nothing, prior)


def test_a_row_whose_label_training_has_not_says_nothing():
    logits, truth = _case(False, 2)
    prior = np.ones(3)
    more = np.concatenate([logits, 100 * logits[:, :5]], axis=1)
    unlabelled = np.concatenate([truth, np.zeros((5, LABELS), bool)])
    np.testing.assert_array_equal(
        pooling.fit_weights(more, unlabelled, False, prior),
        pooling.fit_weights(logits, truth, False, prior),
    )


@pytest.mark.parametrize("multi", [False, True])
def test_a_pool_adds_up_logits_and_can_be_saved(multi, tmp_path):
    widths = {"text_emb": 3, "pixel_emb": 4}
    keras.utils.set_random_seed(0)
    settings = network.Settings((8,), 0.001, 0.1, 0.0, pixel_scale=0.3)
    members = {
        name: network.build({part: (widths[part],) for part in parts}, LABELS, multi, settings)
        for name, parts in INPUTS.items()
    }
    weights = {"pixel": 0.5, "text": 0.0, "fused": 1.25}
    pooling.pool(members, weights, multi).save(tmp_path / "pool.keras")
    pool = keras.models.load_model(tmp_path / "pool.keras")
    rng = np.random.default_rng(0)
    seen = {part: rng.normal(size=(6, width)).astype(np.float32) for part, width in widths.items()}
    expected = sum(
        weights[name] * pooling.scorer(member)({part: seen[part] for part in INPUTS[name]}).numpy()
        for name, member in members.items()
    )
    np.testing.assert_allclose(pooling.scorer(pool)(seen).numpy(), expected, atol=1e-5)
    p = expit(expected) if multi else np.exp(log_softmax(expected, axis=1))
    np.testing.assert_allclose(pool(seen).numpy(), p, atol=1e-5)
