"""Candidates, their probabilities, and the loss, against plain NumPy in float64."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from model_code.metrics.clicked_queries import ClickedQueries
from model_code.models.text_generator import sampled_softmax
from model_code.models.text_generator.sampled_softmax import Candidates

TAU, ONE = 0.07, 1 << 40
NO_IDS = tf.zeros([0], tf.int64)
WEIGHTS = st.lists(st.floats(0, 1e6), min_size=2, max_size=30).filter(lambda w: max(w) > 1e-3)


def unit(rng, rows, width):
    x = rng.normal(size=(rows, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def samples(weights, size):
    """Every sample that systematic sampling can draw, with its exact probability."""
    ends = np.cumsum(sampled_softmax.inclusion(np.asarray(weights, float), size))
    cuts = np.unique([0, ONE, *(ends % ONE)])
    for start, stop in itertools.pairwise(cuts):
        ids = sampled_softmax.systematic(tf.constant(ends), size, tf.constant(start)).numpy()
        last = sampled_softmax.systematic(tf.constant(ends), size, tf.constant(stop - 1)).numpy()
        np.testing.assert_array_equal(ids, last)
        yield ids, int(stop - start)


def plain_inclusion(weights, size):
    """Probabilities by the definition: p · S over what is left, until none passes 1."""
    probabilities = np.zeros(len(weights))
    left = list(range(len(weights)))
    while True:
        total = sum(weights[i] for i in left)
        full = [i for i in left if (size - (len(weights) - len(left))) * weights[i] >= total]
        if not full:
            break
        for i in full:
            probabilities[i] = 1
            left.remove(i)
    for i in left:
        probabilities[i] = (size - (len(weights) - len(left))) * weights[i] / total
    return probabilities


@given(WEIGHTS, st.data())
@settings(max_examples=60, deadline=None)
def test_every_sample_is_distinct_and_inclusion_is_exact(weights, data):
    size = data.draw(st.integers(1, len(weights) - 1))
    units = sampled_softmax.inclusion(np.array(weights), size)
    assert units.sum() == size * ONE
    assert units.min() > 0
    assert units.max() <= ONE
    held = np.zeros(len(weights), np.int64)
    for ids, width in samples(weights, size):
        assert len(ids) == size
        assert (np.diff(ids) > 0).all()
        held[ids] += width
    np.testing.assert_array_equal(held, units)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=30), st.data())
@settings(max_examples=60, deadline=None)
def test_inclusion_is_proportional_below_one(weights, data):
    size = data.draw(st.integers(1, len(weights) - 1))
    units = sampled_softmax.inclusion(np.array(weights), size)
    np.testing.assert_allclose(units / ONE, plain_inclusion(weights, size), atol=1e-9)


def test_log_uniform_is_a_distribution():
    p = sampled_softmax.log_uniform(12)
    np.testing.assert_allclose(p, np.log((np.arange(12) + 2) / (np.arange(12) + 1)) / np.log(13))
    assert p.sum() == pytest.approx(1)


@pytest.mark.parametrize("images", [[1, 2, 5, 0, 4], [3, 3, 1, 6, 2]])
def test_log_absent_counts_the_batches_without_a_query(images):
    rows, batch = 7, 4
    found = np.exp(sampled_softmax.log_absent(np.array(images), rows, batch))
    for count, p in zip(images, found, strict=True):
        # Image 0 has not the query; images 1 … count have it.
        batches = list(itertools.combinations(range(1, rows), batch - 1))
        without = sum(min(others) > count for others in batches)
        assert p == pytest.approx(without / len(batches), abs=1e-12)


def test_a_step_draws_a_sample_and_its_probabilities():
    weights = sampled_softmax.log_uniform(50)
    chosen = Candidates(weights, 10)
    units = sampled_softmax.inclusion(weights, 10)
    drawn = set()
    for step in range(50):
        ids, log_included = chosen.draw([3, step], NO_IDS)
        assert len(ids) == 10
        np.testing.assert_allclose(np.exp(log_included), units[ids.numpy()] / ONE, rtol=1e-6)
        drawn.add(tuple(ids.numpy()))
        np.testing.assert_array_equal(chosen.draw([3, step], NO_IDS)[0], ids)
    assert len(drawn) > 20


@pytest.mark.parametrize("size", [0, 12, 99])
def test_all_queries_are_candidates_of_the_full_softmax(size):
    ids, log_included = Candidates(np.ones(12), size).draw([0, 0], NO_IDS)
    assert ids.numpy().tolist() == list(range(12))
    assert not log_included.numpy().any()


def test_kinds_of_candidates():
    clicks, images = np.array([90.0, 9.0, 5.0, 1.0]), np.array([9, 5, 4, 1])
    trained_on = {"clicks": clicks, "images": images, "rows": 10, "batch_size": 4}
    by_clicks = sampled_softmax.candidates("frequency", 2, 0.5, **trained_on)
    by_rank = sampled_softmax.candidates("log_uniform", 2, 0.5, **trained_on)
    mixed = sampled_softmax.candidates("mixed", 2, 0.5, **trained_on)
    expected = {
        "frequency": plain_inclusion(clicks**0.5, 2),
        "log_uniform": plain_inclusion(sampled_softmax.log_uniform(4), 2),
    }
    for step in range(5):
        for name, chosen in (("frequency", by_clicks), ("log_uniform", by_rank)):
            ids, log_included = chosen.draw([0, step], tf.constant([3], tf.int64))
            assert len(ids) == 2
            np.testing.assert_allclose(np.exp(log_included), expected[name][ids.numpy()], rtol=1e-6)
        ids, log_included = mixed.draw([0, step], tf.constant([3, 1, 3]))
        alone, _ = by_rank.draw([0, step], NO_IDS)
        assert ids.numpy().tolist() == sorted({1, 3, *alone.numpy().tolist()})
        absent = np.exp(sampled_softmax.log_absent(images, 10, 4))
        both = 1 - (1 - expected["log_uniform"]) * absent
        np.testing.assert_allclose(np.exp(log_included), both[ids.numpy()], rtol=1e-5)


def test_corrected_sum_is_unbiased():
    """Over all samples the mean of Σ exp(s) / P(sampled) is the sum over all queries, exactly."""
    rng = np.random.default_rng(0)
    for weights in (sampled_softmax.log_uniform(40), rng.random(40) ** 6):
        units = sampled_softmax.inclusion(weights, 7)
        terms = np.exp(rng.normal(size=40) * 3)
        mean = sum(width / ONE * (terms / units * ONE)[i].sum() for i, width in samples(weights, 7))
        assert mean == pytest.approx(terms.sum(), rel=1e-12)


def test_corrected_sum_of_mixed_candidates_is_unbiased():
    """Over all samples and all batches that hold image 0, of what is not its own."""
    rng = np.random.default_rng(1)
    owned = rng.random((6, 9)) < 0.3  # images × queries
    owned[:, 0] = True
    terms, batch = np.where(owned[0], 0, np.exp(rng.normal(size=9))), 3
    weights = sampled_softmax.log_uniform(9)
    absent = np.exp(sampled_softmax.log_absent(owned.sum(0), 6, batch))
    included = 1 - (1 - sampled_softmax.inclusion(weights, 2) / ONE) * absent
    others = list(itertools.combinations(range(1, 6), batch - 1))
    mean = 0.0
    for images in others:
        present = owned[list(images)].any(0)
        for ids, width in samples(weights, 2):
            union = np.union1d(np.flatnonzero(present), ids)
            mean += width / ONE / len(others) * (terms / included)[union].sum()
    assert mean == pytest.approx(terms.sum(), rel=1e-12)


class Problem:
    """Five images, twelve queries, one to three clicked queries an image."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.x, self.w = unit(rng, 5, 8), unit(rng, 12, 8)
        self.targets = np.zeros((5, 12))
        for row in range(5):
            queries = rng.choice(12, 1 + row % 3, replace=False)
            self.targets[row, queries] = rng.dirichlet(np.ones(len(queries)))
        self.rows, self.ids = np.nonzero(self.targets)

    def loss(self, candidates, log_included, own_queries="share") -> float:
        weights = self.targets[self.rows, self.ids].astype(np.float32)
        return float(
            sampled_softmax.softmax_loss(
                self.x,
                pair_rows=self.rows,
                pair_ids=self.ids,
                pair_weights=weights,
                pair_vectors=self.w[self.ids],
                candidate_ids=tf.constant(candidates, tf.int64),
                candidate_vectors=self.w[np.asarray(candidates)],
                log_included=tf.constant(log_included, tf.float32),
                temperature=TAU,
                own_queries=own_queries,
            )
        )

    def plain(self, candidates, included, own_queries="share") -> float:
        """The loss by its definition, image by image and query by query."""
        p = np.exp(-(1 - self.x.astype(np.float64) @ self.w.T) / TAU)  # Equation (1), unscaled.
        total = 0.0
        for x in range(5):
            own = np.flatnonzero(self.targets[x])
            others = sum(
                p[x, k] / pi for k, pi in zip(candidates, included, strict=True) if k not in own
            )
            for o in own:
                z = others + (p[x, o] if own_queries == "apart" else p[x, own].sum())
                total -= self.targets[x, o] * np.log(p[x, o] / z)
        return total / 5


@pytest.fixture(scope="module")
def problem():
    return Problem()


def test_logits_make_equation_1(problem):
    cosine = problem.x @ problem.w.T
    p = tf.nn.softmax(sampled_softmax.logits(cosine, TAU)).numpy()
    expected = np.exp(-(1 - cosine) / TAU)
    np.testing.assert_allclose(p, expected / expected.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("own_queries", sampled_softmax.OWN_QUERIES)
def test_full_loss(problem, own_queries):
    found = problem.loss(np.arange(12), np.zeros(12), own_queries)
    assert found == pytest.approx(problem.plain(range(12), np.ones(12), own_queries), rel=1e-5)


@pytest.mark.parametrize("own_queries", sampled_softmax.OWN_QUERIES)
@pytest.mark.parametrize("step", range(3))
def test_sampled_loss(problem, own_queries, step):
    ids, log_included = Candidates(sampled_softmax.log_uniform(12), 5).draw([0, step], NO_IDS)
    found = problem.loss(ids.numpy(), log_included, own_queries)
    expected = problem.plain(ids.numpy(), np.exp(np.float64(log_included)), own_queries)
    assert found == pytest.approx(expected, rel=1e-5)


def test_shared_loss_is_the_cross_entropy_with_equation_1(problem):
    p = np.exp(-(1 - problem.x.astype(np.float64) @ problem.w.T) / TAU)
    p /= p.sum(1, keepdims=True)
    expected = -(problem.targets * np.log(p)).sum() / 5
    assert problem.loss(np.arange(12), np.zeros(12)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("own_queries", sampled_softmax.OWN_QUERIES)
def test_own_queries_are_never_candidates(problem, own_queries):
    for row in range(5):
        mine = problem.ids[problem.rows == row]
        one = Problem()
        one.x, one.targets = problem.x[[row] * 5], problem.targets[[row] * 5]
        one.rows, one.ids = np.nonzero(one.targets)
        without = np.setdiff1d(np.arange(12), mine)
        assert one.loss(without, np.zeros(len(without)), own_queries) == pytest.approx(
            one.loss(np.arange(12), np.zeros(12), own_queries), rel=1e-6
        )


@pytest.mark.parametrize("own_queries", sampled_softmax.OWN_QUERIES)
@pytest.mark.parametrize("limit", [1, 3])
def test_drawn_targets_have_the_loss_and_gradients_of_all_in_expectation(own_queries, limit):
    """Thousands of draws of one image's targets, side by side in one batch."""
    draws, own, rng = 4000, 6, np.random.default_rng(4)
    w, shares = unit(rng, 9, 4), np.array([0.6, 0.3, 0.05, 0.03, 0.015, 0.005])
    pairs = np.repeat(np.arange(draws), own), np.tile(np.arange(own), draws)
    clicked = ClickedQueries.from_pairs(*pairs, np.tile(shares, draws), draws)
    x, table = tf.constant(unit(rng, 1, 4)), tf.constant(w)

    def loss_and_gradients(targets):
        rows, ids, weights = targets.pairs()
        with tf.GradientTape() as tape:
            tape.watch([x, table])
            loss = sampled_softmax.softmax_loss(
                tf.repeat(x, targets.rows, 0),
                pair_rows=rows,
                pair_ids=ids,
                pair_weights=weights,
                pair_vectors=tf.gather(table, ids),
                candidate_ids=tf.range(9, dtype=tf.int64),
                candidate_vectors=table,
                log_included=tf.zeros(9),
                temperature=TAU,
                own_queries=own_queries,
            )
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, [x, table])]
        return float(loss), np.concatenate(gradients)

    drawn = clicked.targets(limit, 1, 2)
    assert (drawn.weights > 0).sum() == limit * draws
    loss, gradients = loss_and_gradients(drawn)
    expected, expected_gradients = loss_and_gradients(clicked.select(np.array([0])))
    assert loss == pytest.approx(expected, rel=0.02)
    np.testing.assert_allclose(gradients, expected_gradients, atol=0.03 * np.abs(gradients).max())


def test_only_apart_own_queries_do_not_push_each_other():
    """Image 0 has queries 0 and 1; how near 1 is matters to the loss of 0 only if they share."""
    x, w = np.eye(3, dtype=np.float32)[:1], np.eye(3, dtype=np.float32)
    pairs = {
        "pair_rows": [0, 0],
        "pair_ids": tf.constant([0, 1], tf.int64),
        "pair_weights": tf.constant([1.0, 0.0]),
    }
    for own_queries, moved in (("share", True), ("apart", False)):
        vectors = tf.Variable(w[:2])
        with tf.GradientTape() as tape:
            loss = sampled_softmax.softmax_loss(
                x,
                **pairs,
                pair_vectors=vectors,
                candidate_ids=tf.range(3, dtype=tf.int64),
                candidate_vectors=w,
                log_included=tf.zeros(3),
                temperature=0.5,
                own_queries=own_queries,
            )
        gradient = tape.gradient(loss, vectors).numpy()
        assert gradient[0].any()
        assert gradient[1].any() == moved


def test_no_candidate_but_own_queries_gives_finite_gradients(problem):
    for own_queries in sampled_softmax.OWN_QUERIES:
        x = tf.Variable(problem.x[:1])
        with tf.GradientTape() as tape:
            loss = sampled_softmax.softmax_loss(
                x,
                pair_rows=[0],
                pair_ids=tf.constant([2], tf.int64),
                pair_weights=tf.constant([1.0]),
                pair_vectors=problem.w[2:3],
                candidate_ids=tf.constant([2], tf.int64),
                candidate_vectors=problem.w[2:3],
                log_included=tf.zeros(1),
                temperature=TAU,
                own_queries=own_queries,
            )
        assert float(loss) == pytest.approx(0, abs=1e-6)
        np.testing.assert_allclose(tape.gradient(loss, x), 0, atol=1e-5)


@pytest.mark.parametrize("own_queries", sampled_softmax.OWN_QUERIES)
@pytest.mark.parametrize("kind", ["log_uniform", "frequency"])
def test_sampled_gradients_are_those_of_the_full_softmax_in_expectation(kind, own_queries):
    """The corrected sum Ẑ is unbiased, its logarithm is by about −Var(Ẑ) / 2Z².

    So the mean gradient must lie within a few standard errors of the mean plus that share
    of the full gradient; the uncorrected loss lies far outside.
    """
    rng, trials, size = np.random.default_rng(2), 600, 100
    queries, width, batch = 300, 8, 6
    clicks = 900 / np.arange(1, queries + 1)
    images = np.minimum(clicks, 50).astype(int)
    x, w = unit(rng, batch, width), tf.Variable(unit(rng, queries, width))
    rows = np.repeat(np.arange(batch), 2)
    ids = rng.permutation(queries)[: 2 * batch]
    chosen = sampled_softmax.candidates(
        kind, size, 0.75, clicks=clicks, images=images, rows=100, batch_size=batch
    )

    @tf.function(reduce_retracing=True)
    def gradient(candidate_ids, log_included):
        with tf.GradientTape() as tape:
            loss = sampled_softmax.softmax_loss(
                x,
                pair_rows=rows,
                pair_ids=tf.constant(ids, tf.int64),
                pair_weights=tf.fill([2 * batch], 0.5),
                pair_vectors=tf.gather(w, ids),
                candidate_ids=candidate_ids,
                candidate_vectors=tf.gather(w, candidate_ids),
                log_included=log_included,
                temperature=0.5,
                own_queries=own_queries,
            )
        return tf.convert_to_tensor(tape.gradient(loss, w))

    full = gradient(tf.range(queries, dtype=tf.int64), tf.zeros(queries)).numpy()
    drawn = [chosen.draw([9, trial], NO_IDS) for trial in range(trials)]
    found = np.stack([gradient(*sample).numpy() for sample in drawn])
    terms = np.exp((x @ w.numpy().T - 1) / 0.5)
    sums = np.stack([(terms[:, i.numpy()] / np.exp(log)).sum(1) for i, log in drawn])
    bias = (sums.var(0) / sums.mean(0) ** 2).max() * np.linalg.norm(full)
    error = np.linalg.norm(found.std(0)) / np.sqrt(trials)
    allowed = 3 * error + bias
    assert allowed < 0.05 * np.linalg.norm(full)
    assert np.linalg.norm(found.mean(0) - full) < allowed
    wrong = np.stack([gradient(i, tf.zeros_like(log)).numpy() for i, log in drawn]).mean(0)
    assert np.linalg.norm(wrong - full) > 2 * allowed
