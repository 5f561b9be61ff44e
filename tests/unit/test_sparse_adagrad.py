import numpy as np
import tensorflow as tf

from model_code.sparse_adagrad import SparseAdagrad


def test_it_is_adagrad_on_the_sum_of_a_rows_gradients():
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(6, 3)).astype(np.float32)
    accumulator = np.full((6, 3), 0.1, np.float32)
    table = tf.Variable(expected)
    optimizer = SparseAdagrad(table.shape, learning_rate=0.5)
    for indices in ([4, 1, 4], [0, 0, 0], [5, 4, 1]):
        values = rng.normal(size=(3, 3)).astype(np.float32)
        optimizer.apply(table, tf.IndexedSlices(tf.constant(values), tf.constant(indices)))
        gradient = np.zeros((6, 3), np.float32)
        np.add.at(gradient, indices, values)
        accumulator += gradient**2
        expected = expected - 0.5 * gradient / (np.sqrt(accumulator) + 1e-7)
        np.testing.assert_allclose(table.numpy(), expected, rtol=1e-5)
