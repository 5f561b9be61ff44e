"""Whether a classifier got worse: against scikit-learn, and where the answer is known."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from model_code.gate import evaluation as gate_evaluation
from model_code.report.data import Case

LABELS = tuple("abcdefghij")


def cases(count, error_rate, seed, first=0):
    rng = np.random.default_rng(seed)
    found = []
    for i in range(first, first + count):
        true = LABELS[i % len(LABELS)]
        scores = rng.dirichlet(np.ones(len(LABELS)))
        scores[LABELS.index(true)] += 0 if rng.random() < error_rate else 1
        best = sorted(zip(LABELS, scores, strict=True), key=lambda item: -item[1])
        found.append(Case(f"{i:032x}", (true,), (), {"fused": tuple(best)}))
    return found


def accuracy(of):
    return np.mean([case.right("fused") for case in of])


def test_equal_models_drop_nothing():
    old = cases(100, 0.3, 0)
    drops = gate_evaluation.compare(old, old)
    assert [(d.drop, d.error) for d in drops.values()] == [(0, 0), (0, 0)]


def test_top1_is_compared_pair_by_pair_on_shared_images():
    old, new = cases(200, 0.1, 0), cases(200, 0.5, 1, first=40)
    drop = gate_evaluation.compare(old, new)["top1"]
    pairs = [a.right("fused") - b.right("fused") for a, b in zip(old[40:], new, strict=False)]
    assert drop.drop == pytest.approx(accuracy(old[40:]) - accuracy(new[:160]))
    assert drop.error == pytest.approx(np.std(pairs, ddof=1) / np.sqrt(160))
    assert drop.on == "160 shared test images"
    assert drop.drop - 2 * drop.error > 0.1


def test_without_shared_images_each_model_is_judged_on_its_own():
    old, new = cases(300, 0.1, 0), cases(200, 0.4, 1, first=1000)
    drop = gate_evaluation.compare(old, new)["top1"]
    assert drop.drop == pytest.approx(accuracy(old) - accuracy(new))
    p, q = accuracy(old), accuracy(new)
    assert drop.error == pytest.approx(np.sqrt(p * (1 - p) / 299 + q * (1 - q) / 199))


def test_shared_images_are_judged_by_the_new_labels():
    new = cases(40, 0.0, 0)
    wrong = LABELS[1:] + LABELS[:1]
    old = [dataclasses.replace(case, true=(wrong[i % 10],)) for i, case in enumerate(new)]
    assert gate_evaluation.compare(old, new)["top1"].drop == 0


def test_average_precision_is_scikit_learns_where_all_labels_are_kept():
    of = cases(120, 0.5, 3)
    scores = np.array([[dict(c.predictions["fused"]).get(k, 0) for k in LABELS] for c in of])
    truth = np.array([[k in c.true for k in LABELS] for c in of])
    expected = [average_precision_score(truth[:, i], scores[:, i]) for i in range(len(LABELS))]
    found = gate_evaluation.average_precisions(of, LABELS, "fused")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_fall_of_map_is_paired_over_labels():
    old, new = cases(200, 0.1, 0), cases(200, 0.6, 1)
    drop = gate_evaluation.compare(old, new)["map"]
    areas = [gate_evaluation.average_precisions(of, LABELS, "fused") for of in (old, new)]
    assert drop.drop == pytest.approx(areas[0].mean() - areas[1].mean())
    assert drop.error == pytest.approx((areas[0] - areas[1]).std(ddof=1) / np.sqrt(10))
    assert drop.on == "10 labels of 200 shared test images"


def test_map_of_few_labels_is_not_compared():
    few = [case for case in cases(200, 0.1, 0) if case.true != ("a",)]
    assert set(gate_evaluation.compare(few, few)) == {"top1"}
