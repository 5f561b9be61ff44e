"""Pooling: several classifiers heard together, each weighed by how far it can be trusted.

A logarithmic opinion pool (Genest & Zidek, Statistical Science 1986, section 3): the logits of
the pool are a weighted sum of its members'. The weights are fitted on images that neither the
classifiers nor the text generator trained on, where phrases are only as good as for new images.
"""

from collections.abc import Mapping

import keras
import numpy as np

_STEPS = 100
_TOLERANCE = 1e-9


def fit_weights(
    logits: np.ndarray, truth: np.ndarray, multi: bool, prior: np.ndarray
) -> np.ndarray:
    """The weights of least cross-entropy, by Newton's method kept to weights of 0 and more.

    A row of one label that has none says nothing. The prior counts as much as one row, so that
    a handful of rows, which some weights fit perfectly, cannot make them infinite.

    Args:
      logits: [members, rows, labels] float32.
      truth: [rows, labels] bool.
      multi: sigmoid for any number of labels, softmax for one.
      prior: [members] float64, the weights without any row.

    Returns:
      [members] float64.
    """
    if not multi:
        known = truth.any(axis=1)
        logits, truth = logits[:, known], truth[known]
    rows = max(truth.shape[0], 1)
    logits = logits.astype(np.float64)
    weights = prior.astype(np.float64)
    value = _loss(weights, logits, truth, multi) + _penalty(weights, prior) / rows
    for _ in range(_STEPS):
        gradient, hessian = _derivatives(weights, logits, truth, multi)
        gradient += (weights - prior) / rows
        hessian += np.eye(len(weights)) / rows
        free = (weights > 0) | (gradient < 0)
        step = np.zeros_like(weights)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        for size in 0.5 ** np.arange(30):
            candidate = np.maximum(weights - size * step, 0)
            new = _loss(candidate, logits, truth, multi) + _penalty(candidate, prior) / rows
            if new < value:
                break
        if value - new < _TOLERANCE:
            break
        weights, value = candidate, new
    return weights


def _penalty(weights: np.ndarray, prior: np.ndarray) -> float:
    return float(((weights - prior) ** 2).sum() / 2)


def _probabilities(weights: np.ndarray, logits: np.ndarray, multi: bool) -> np.ndarray:
    pooled = np.tensordot(weights, logits, 1)
    if multi:
        return 0.5 * (1 + np.tanh(pooled / 2))
    pooled = np.exp(pooled - pooled.max(axis=1, keepdims=True))
    return pooled / pooled.sum(axis=1, keepdims=True)


def _loss(weights: np.ndarray, logits: np.ndarray, truth: np.ndarray, multi: bool) -> float:
    """Cross-entropy in nats, summed over labels, a mean over rows."""
    pooled = np.tensordot(weights, logits, 1)
    if multi:
        losses = np.logaddexp(0, pooled) - pooled * truth
    else:
        top = pooled.max(axis=1, keepdims=True, initial=-np.inf)
        total = np.log(np.exp(pooled - top).sum(axis=1, keepdims=True)) + top
        losses = (total - pooled) * truth
    return float(losses.sum() / max(len(truth), 1))


def _derivatives(
    weights: np.ndarray, logits: np.ndarray, truth: np.ndarray, multi: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient [members] and Hessian [members, members] of `_loss`."""
    rows = max(len(truth), 1)
    p = _probabilities(weights, logits, multi)
    counts = 1 if multi else truth.sum(axis=1, keepdims=True)
    gradient = np.einsum("krl,rl->k", logits, counts * p - truth) / rows
    if multi:
        return gradient, np.einsum("krl,jrl,rl->kj", logits, logits, p * (1 - p)) / rows
    means = np.einsum("krl,rl->kr", logits, p)
    centred = logits - means[..., np.newaxis]
    return gradient, np.einsum("krl,jrl,rl->kj", centred, centred, counts * p) / rows


def scorer(model: keras.Model, name: str | None = None) -> keras.Model:
    """The part of a classifier that ends in its logits."""
    return keras.Model(model.input, model.get_layer("logits").output, name=name)


def pool(
    members: Mapping[str, keras.Model], weights: Mapping[str, float], multi: bool
) -> keras.Model:
    """One classifier of several.

    Args:
      members: name → classifier, from a dict of inputs; see `fit.build`.
      weights: name → its weight.
      multi: sigmoid for any number of labels, softmax for one.

    Returns:
      A model from all of their inputs to probabilities [batch, labels] float32; its layer
      "logits" holds what they are made of.
    """
    inputs = {
        name: keras.Input(tensor.shape[1:], name=name)
        for member in members.values()
        for name, tensor in member.input.items()
    }
    weighed = [
        keras.layers.Rescaling(weights[name], name=f"weigh_{name}")(
            scorer(member, name)({part: inputs[part] for part in member.input})
        )
        for name, member in members.items()
    ]
    logits = keras.layers.Add(name="logits")(weighed)
    activation = "sigmoid" if multi else "softmax"
    return keras.Model(inputs, keras.layers.Activation(activation, name="probabilities")(logits))
