import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_code.models.text_embedder import batches as text_batches
from model_code.models.text_embedder.batches import Batches, BatchRules
from tests.support.datasets.associations import associations

RULES = BatchRules(
    batch_size=16,
    self_pairs_share=0.25,
    hard_negatives=4,
    weight_power=0.5,
    language_balance=0.0,
    seed=3,
)


def rules(**changes) -> BatchRules:
    return BatchRules(**(RULES.__dict__ | changes))


def toy(count: int = 60, pairs: int = 90, refused: int = 20):
    """Associations of which a few queries have most."""
    rng = np.random.default_rng(1)
    drawn = np.minimum(rng.geometric(0.1, (20 * pairs, 2)), count) - 1
    drawn = np.unique(np.sort(drawn[drawn[:, 0] != drawn[:, 1]], axis=1), axis=0)
    drawn = rng.permutation(drawn)
    return associations(count, drawn[:pairs], drawn[pairs : pairs + refused])


def test_an_epoch_draws_every_association_once_and_every_query_with_itself():
    train = toy(pairs=96, count=32)
    batches = Batches(train, np.arange(32), RULES)
    assert batches.steps() == 8
    drawn = list(batches.epoch(1, 8))
    found = np.concatenate([np.stack([d.a, d.b], axis=1)[: -d.selves] for d in drawn])
    np.testing.assert_array_equal(
        np.unique(np.sort(found, axis=1), axis=0), np.unique(train.pairs, axis=0)
    )
    assert len(found) == len(train.pairs)
    selves = np.concatenate([d.a[-d.selves :] for d in drawn])
    np.testing.assert_array_equal(np.sort(selves), np.arange(32))
    assert all((d.a[-d.selves :] == d.b[-d.selves :]).all() for d in drawn)
    assert 0 < np.mean(found[:, 0] > found[:, 1]) < 1, "either query of a pair on either side"
    again = list(batches.epoch(1, 8))
    for first, second in zip(drawn, again, strict=True):
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(drawn[0].a, next(batches.epoch(2, 8)).a)


def test_no_known_association_is_a_negative_of_a_batch():
    train = toy()
    true = {frozenset(pair) for pair in train.pairs.tolist()}
    for batch in Batches(train, np.arange(60), RULES).epoch(3, 4):
        assert 0 < len(batch.hard) <= 4
        assert batch.weights.shape == (16,)
        for way, (anchors, partners) in enumerate(((batch.a, batch.b), (batch.b, batch.a))):
            expected = [
                [x == y or frozenset((x, y)) in true for y in [*partners, *batch.hard]]
                for x in anchors
            ]
            np.testing.assert_array_equal(batch.not_negative[way], expected)


def test_without_hard_negatives_none_are_drawn():
    drawn = Batches(toy(), np.arange(60), rules(hard_negatives=0)).epoch(3, 2)
    assert [len(batch.hard) for batch in drawn] == [0, 0]


@pytest.mark.parametrize("changes", [{}, {"hard_negatives": 0}, {"self_pairs_share": 0.5}])
def test_expected_counts_are_what_batches_hold_on_average(changes):
    train, steps = toy(), 4000
    batches = Batches(train, np.arange(40), rules(**changes))
    found = np.zeros(60)
    for batch in batches.epoch(1, steps):
        for side in (batch.a, batch.b):
            np.add.at(found, side, 0.5 / steps)
        np.add.at(found, batch.hard, 1 / steps)
    expected = batches.expected_counts()
    hard = np.unique(train.refused) if rules(**changes).hard_negatives else []
    exact = np.setdiff1d(np.arange(60), hard)
    np.testing.assert_allclose(found[exact], expected[exact], rtol=0.1, atol=0.01)
    # How many hard negatives there are in a batch, and whether all fit, is only modelled.
    np.testing.assert_allclose(found[hard], expected[hard], rtol=0.35, atol=0.1)


def test_balance_draws_each_two_languages_alike():
    languages = ["en"] * 40 + ["de"] * 15 + ["fr"] * 5
    train = associations(60, toy().pairs, languages=languages)
    for balance in (0.0, 0.5, 1.0):
        found = collections.Counter()
        probabilities = text_batches.pair_probabilities(train, balance)
        sizes = collections.Counter()
        for (a, b), p in zip(train.pairs.tolist(), probabilities, strict=True):
            found[frozenset((languages[a], languages[b]))] += p
            sizes[frozenset((languages[a], languages[b]))] += 1
        assert sum(found.values()) == pytest.approx(1)
        total = sum(size ** (1 - balance) for size in sizes.values())
        for kind, share in found.items():
            assert share == pytest.approx(sizes[kind] ** (1 - balance) / total)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8), st.integers(1, 40), st.integers(0, 9))
def test_draws_come_as_often_as_expected(weights, size, seed):
    probabilities = np.array(weights) / np.sum(weights)
    drawn = text_batches.draw_in_proportion(probabilities, size, np.random.default_rng(seed))
    counts = np.bincount(drawn, minlength=len(weights))
    assert counts.sum() == size
    assert (np.abs(counts - size * probabilities) < 1 + 1e-6).all()


def test_of_nothing_nothing_is_drawn():
    assert len(text_batches.draw_in_proportion(np.zeros(0), 5, np.random.default_rng(0))) == 0


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(0, 9))
def test_the_parts_of_a_bag_share_no_word(words, seed):
    length = max(1, 2 * max(words) - 1) + 2
    ids = np.zeros((len(words), length), np.int64)
    for row, n in enumerate(words):
        ids[row, : max(2 * n - 1, 0)] = np.arange(1, max(2 * n, 1))
        ids[row, max(2 * n - 1, 0)] = 99 if n else 0  # such as a trigram
    counts = np.array(words)
    a, b = text_batches.split_words(ids, counts, 0.0, np.random.default_rng(seed))
    for row, n in enumerate(words):
        if n < 2:
            np.testing.assert_array_equal(a[row], ids[row])
            np.testing.assert_array_equal(b[row], ids[row])
            continue
        sides = []
        for part in (a[row], b[row]):
            own = {int(g) for g in part[part > 0]}
            singles = {g for g in own if g <= n}
            # Pair n + i is of the words i and i + 1: there if and only if both are.
            expected = {n + i for i in range(1, n) if {i, i + 1} <= singles}
            assert own - singles == expected
            sides.append(singles)
        assert not sides[0] & sides[1]
        assert sides[0] | sides[1] == set(range(1, n + 1))
        assert abs(len(sides[0]) - len(sides[1])) <= 1


def test_all_words_shared_leaves_bags_whole():
    ids = np.array([[1, 2, 3, 4, 5, 0], [1, 0, 0, 0, 0, 0]])
    a, b = text_batches.split_words(ids, np.array([3, 1]), 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(a, ids)
    np.testing.assert_array_equal(b, ids)
