import numpy as np
import pytest
import tensorflow as tf

from model_code.runtime.sparse_adagrad import SparseAdagrad


@pytest.mark.parametrize("row_wise", [False, True])
def test_it_is_adagrad_on_the_sum_of_a_rows_gradients(row_wise):
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(6, 3)).astype(np.float32)
    accumulator = np.full((6, 1 if row_wise else 3), 0.1, np.float32)
    table = tf.Variable(expected)
    optimizer = SparseAdagrad(table.shape, learning_rate=0.5, row_wise=row_wise)
    assert optimizer.accumulator.shape == ([6] if row_wise else [6, 3])
    for indices in ([4, 1, 4], [0, 0, 0], [5, 4, 1]):
        values = rng.normal(size=(3, 3)).astype(np.float32)
        optimizer.apply(table, tf.IndexedSlices(tf.constant(values), tf.constant(indices)))
        gradient = np.zeros((6, 3), np.float32)
        np.add.at(gradient, indices, values)
        squares = gradient**2
        accumulator += squares.mean(1, keepdims=True) if row_wise else squares
        expected = expected - 0.5 * gradient / (np.sqrt(accumulator) + 1e-7)
        np.testing.assert_allclose(table.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("row_wise", [False, True])
def test_rows_that_a_gradient_does_not_name_keep_every_bit(row_wise):
    table = tf.Variable(tf.random.stateless_normal([9, 4], [0, 0]))
    before = table.numpy()
    optimizer = SparseAdagrad(table.shape, 0.5, row_wise=row_wise)
    first = optimizer.accumulator.numpy()
    optimizer.apply(table, tf.IndexedSlices(tf.ones([2, 4]), tf.constant([7, 2])))
    others = [0, 1, 3, 4, 5, 6, 8]
    np.testing.assert_array_equal(table.numpy()[others], before[others])
    np.testing.assert_array_equal(optimizer.accumulator.numpy()[others], first[others])
    assert (table.numpy()[[2, 7]] != before[[2, 7]]).all()
