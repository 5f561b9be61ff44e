"""Batches within rows and bytes, and smaller ones after memory ran out."""

import itertools
import threading

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from model_code.runtime.batches import BatchLimit, out_of_memory, run_in_batches

SIZES = st.lists(st.integers(0, 50), max_size=60)


class Machine:
    """Has room for so many bytes and rows at once."""

    def __init__(self, rows, bytes_, sizes):
        self.rows, self.bytes, self.sizes = rows, bytes_, sizes
        self.tried = []

    def run(self, start, end, at_once):
        self.tried.append(at_once)
        if at_once > self.rows or sum(self.sizes[start:end]) > self.bytes:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return list(range(start, end))


@given(SIZES, st.integers(1, 40), st.integers(1, 300))
def test_batches_hold_as_much_as_is_allowed_and_no_more(sizes, rows, bytes_):
    machine = Machine(10**6, 10**9, sizes)
    parts = run_in_batches(machine.run, sizes, BatchLimit(rows, bytes_))
    assert [row for part in parts for row in part] == list(range(len(sizes)))
    for part in parts:
        assert len(part) == 1 or (len(part) <= rows and sum(sizes[row] for row in part) <= bytes_)
    for part, following in itertools.pairwise(parts):  # It could not have taken one more.
        used = sum(sizes[row] for row in part)
        assert len(part) == rows or used + sizes[following[0]] > bytes_


@given(SIZES, st.integers(1, 40), st.integers(50, 300))
def test_no_row_is_lost_when_memory_runs_out(sizes, room, bytes_):
    machine, limit = Machine(room, bytes_, sizes), BatchLimit(32, 1000)
    parts = run_in_batches(machine.run, sizes, limit)
    assert [row for part in parts for row in part] == list(range(len(sizes)))


def test_a_batch_stays_half_as_large():
    machine, limit = Machine(9, 10**9, [1] * 100), BatchLimit(64)
    run_in_batches(machine.run, machine.sizes, limit)
    assert machine.tried == [64, 32, 16, *[8] * 12, 4]
    assert limit.rows == 8
    machine.tried.clear()
    run_in_batches(machine.run, machine.sizes[:16], limit)
    assert machine.tried == [8, 8]


def test_one_row_that_does_not_fit_is_an_error():
    machine = Machine(10, 40, [1, 50, 1])
    with pytest.raises(tf.errors.ResourceExhaustedError):
        run_in_batches(machine.run, machine.sizes, BatchLimit(8))


@pytest.mark.parametrize("rows", [1, 3, 200, 256, 300])
def test_a_batch_that_is_filled_up_is_as_large_as_the_limit(rows):
    """Few new images, as of a day: the limit falls to what fits, and none of them dies."""
    machine, limit = Machine(128, 10**9, [1] * rows), BatchLimit(256, 10**6)
    parts = run_in_batches(machine.run, machine.sizes, limit, filled=True)
    assert [row for part in parts for row in part] == list(range(rows))
    assert (machine.tried[0], limit.rows) == (256, 128)
    assert set(machine.tried[1:]) == {128}
    assert limit.bytes == (10**6 if rows < 256 else 128)


@given(SIZES, st.integers(1, 40), st.integers(50, 300))
def test_no_row_is_lost_of_batches_that_are_filled_up(sizes, room, bytes_):
    machine, limit = Machine(room, bytes_, sizes), BatchLimit(32, 1000)
    parts = run_in_batches(machine.run, sizes, limit, filled=True)
    assert [row for part in parts for row in part] == list(range(len(sizes)))


def test_other_errors_do_not_make_batches_smaller():
    limit = BatchLimit(8)

    def run(*_):
        raise ValueError("a broken image")

    with pytest.raises(ValueError, match="a broken image"):
        run_in_batches(run, [1] * 8, limit)
    assert limit.rows == 8


def test_threads_that_run_out_together_halve_once():
    limit, together = BatchLimit(64), threading.Barrier(4)

    def run_out():
        together.wait()
        limit.halve(64, 0)

    threads = [threading.Thread(target=run_out) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit.rows == 32


@pytest.mark.slow  # TensorFlow waits ten seconds for memory.
def test_tensorflow_says_when_memory_ran_out():
    with pytest.raises(tf.errors.ResourceExhaustedError) as caught:
        tf.zeros([1 << 45], tf.float64)  # 256 TiB
    assert out_of_memory(caught.value)


def test_errors_that_say_that_memory_ran_out():
    assert out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"))
    assert out_of_memory(MemoryError())
    assert out_of_memory(tf.errors.InternalError(None, None, "CUDA: out of memory"))
    assert not out_of_memory(tf.errors.InvalidArgumentError(None, None, "not a JPEG"))
    assert not out_of_memory(ValueError("out of memory"))
