"""The table of queries: what a step touches, and that devices do not change what is learnt."""

import functools
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from model_code.models.text_generator import network, query_table
from model_code.models.text_generator import trainer as text_generator
from model_code.models.text_generator.query_table import Devices, QueryTable
from schemas.base.errors import PhraseLensError
from tests.support.processes import forked, train_on_devices
from tests.support.processes.ports import free_ports

COMMAND = [sys.executable, "-m", "tests.support.processes.train_on_devices"]


def trainer_of(queries, sampled=0, **more):
    head = network.build_head(4, [], 3)
    return text_generator.Trainer(
        head,
        lambda x, seed: x,
        queries,
        sampled_queries=sampled,
        temperature=0.1,
        learning_rate=1e-3,
        weight_decay=0.0,
        query_learning_rate=0.05,
        steps=10,
        seed=0,
        **more,
    )


def test_vectors_are_unit_rows_of_the_table(monkeypatch, tmp_path):
    monkeypatch.setattr(query_table, "_CHUNK", 4)
    table = QueryTable(11, 3, 0.1, 5, Devices())
    raw = table.shards[0].numpy()
    np.testing.assert_allclose(
        table.vectors(), raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-5
    )
    table.save(tmp_path / "vectors.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), table.vectors())
    assert len(np.unique(raw)) == 33
    again = QueryTable(11, 3, 0.1, 5, Devices())
    np.testing.assert_array_equal(again.shards[0].numpy(), raw)


def test_a_step_touches_the_rows_it_names_and_no_others():
    trainer = trainer_of(500, 20)
    table, seed = trainer.table, np.array([0, 3], np.int32)
    before, first = table.shards[0].numpy(), table.optimizers[0].accumulator.numpy()
    ids = np.array([7, 499, 7])
    x, rows = np.ones((2, 4), np.float32) * [[1], [-2]], np.array([0, 0, 1])
    trainer.step(np.float32(x), rows, ids, np.float32([0.5, 0.5, 1]), seed)
    drawn, _ = trainer._candidates.draw(seed, tf.constant(ids))
    named = np.union1d(ids, drawn.numpy())
    others = np.setdiff1d(np.arange(500), named)
    assert len(others) > 450
    np.testing.assert_array_equal(table.shards[0].numpy()[others], before[others])
    np.testing.assert_array_equal(table.optimizers[0].accumulator.numpy()[others], first[others])
    assert (table.shards[0].numpy()[ids] != before[ids]).any(1).all()


def test_no_tensor_of_a_step_is_as_large_as_the_table():
    """Gradients stay sparse: in the whole graph of a step only variables have K rows."""
    queries = 12_345
    trainer = trainer_of(queries, 20)
    x, one = np.ones((2, 4), np.float32), np.array([0, 1])
    step = trainer.step.get_concrete_function(
        x, one, one, np.float32([1, 1]), np.array([0, 1], np.int32)
    )
    shapes = [tensor.shape for op in step.graph.get_operations() for tensor in op.outputs]
    # What is drawn from has K places, and is searched: [K] and, as the search wants it, [1, K].
    wide = [shape for shape in shapes if shape.rank == 2 and shape.as_list() == [queries, 3]]
    assert len(shapes) > 100
    assert not wide
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(trainer.table.rows(0, tf.constant([5, 5, 9], tf.int64)) ** 3)
    assert isinstance(tape.gradient(loss, trainer.table.shards[0]), tf.IndexedSlices)


@pytest.mark.parametrize("wanted", ["0", "some", "-1"])
def test_devices_that_are_no_number(wanted):
    with pytest.raises(PhraseLensError, match="a number from 1"):
        query_table.devices(wanted)


def log_of(folder):
    return f"{folder}.log"


def start(folder, *flags, **environment):
    folder.mkdir(exist_ok=True)
    return forked.start([*COMMAND, str(folder), *flags], log_of(folder), **environment)


def finish(folder, *processes):
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0, Path(log_of(folder)).read_text()


def result(folder, part=0):
    with np.load(folder / f"done-{part}.npz") as found:
        return found["losses"], found["vectors"]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """Losses and vectors of a run on one device, by its flags."""

    @functools.cache
    def run(flags):
        folder = tmp_path_factory.mktemp("one_device")
        train_on_devices.run([str(folder), *flags])
        losses, vectors = result(folder)
        assert len(losses) >= 20
        assert losses[-5:].mean() < losses[:5].mean() - 0.1
        return losses, vectors

    return run


SHARE = ("--own_queries=share", "--kind=mixed")
APART = ("--own_queries=apart", "--kind=log_uniform")


def assert_same(found, expected):
    """Sums in another order differ in their last bits, which every step carries on."""
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(found[1], expected[1], atol=2e-3)


@pytest.mark.parametrize("flags", [SHARE, pytest.param(APART, marks=pytest.mark.slow)])
def test_two_devices_of_one_process_learn_as_one(flags, one_device, tmp_path):
    finish(tmp_path, start(tmp_path, "--devices=2", *flags))
    assert_same(result(tmp_path), one_device(flags))


@pytest.mark.parametrize("flags", [APART, pytest.param(SHARE, marks=pytest.mark.slow)])
def test_two_processes_learn_as_one(flags, one_device, tmp_path):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    configs = [json.dumps({"cluster": cluster, "task": task}) for task in tasks]
    finish(tmp_path, *(start(tmp_path, *flags, TF_CONFIG=config) for config in configs))
    for part in range(2):
        assert_same(result(tmp_path, part), one_device(flags))
        # Each process keeps the checkpoint of its own rows.
        assert (tmp_path / f"part-{part}" / "checkpoint").exists()


@pytest.mark.slow
def test_killed_on_two_devices_it_goes_on(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = start(killed, "--devices=2", *APART, "--kill_at=15")
    first.join()
    assert first.exitcode == -signal.SIGKILL
    finish(killed, start(killed, "--devices=2", *APART))
    finish(whole, start(whole, "--devices=2", *APART))
    for found, expected in zip(result(killed), result(whole), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
