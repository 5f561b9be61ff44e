"""Devices by name, and networks in less precision."""

import dataclasses
import functools
import importlib
import multiprocessing
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_code.images import backbones
from model_code.images import ops as image_ops
from model_code.runtime import devices
from schemas.base.errors import PhraseLensError
from tests.support.datasets.mined_dataset import COLOURS, jpeg
from tests.support.processes import forked

no_gpu = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="this machine has a GPU"
)
needs_gpu = pytest.mark.skipif(
    not tf.config.list_physical_devices("GPU"), reason="this machine has no GPU"
)


@no_gpu
def test_auto_is_the_cpu_where_there_is_nothing_else():
    assert devices.open_device("auto").name == "/CPU:0"
    assert devices.open_device("cpu").name == "/CPU:0"


@no_gpu
def test_a_gpu_that_is_not_there_is_named_with_a_remedy():
    with pytest.raises(PhraseLensError, match=r"--device=gpu: expected a GPU.*setup --gpu"):
        devices.open_device("gpu")


def test_a_tpu_that_is_not_there_is_named_with_a_remedy():
    with pytest.raises(PhraseLensError, match=r"--device=tpu.*docs/operate/workers.md"):
        devices.open_device("tpu")


@needs_gpu
def test_a_gpu_computes_what_the_cpu_does():
    pixels = tf.zeros([2, 4, 4, 3], tf.uint8)
    run = devices.open_device("gpu").compiled(
        lambda x: tf.cast(x, tf.float32) + 1, tf.TensorSpec([None, 4, 4, 3], tf.uint8)
    )
    assert "GPU" in run(pixels).device
    np.testing.assert_array_equal(run(pixels), np.ones((2, 4, 4, 3)))


def open_with_threads(found):
    devices.open_device("cpu", 1)
    tf.zeros([2])
    devices.open_device("cpu", 3)
    threads = tf.config.threading
    found.send(
        (threads.get_intra_op_parallelism_threads(), threads.get_inter_op_parallelism_threads())
    )


def test_threads_are_those_that_were_asked_for():
    # In a process of its own: they cannot be changed once TensorFlow has started.
    found, there = multiprocessing.Pipe(duplex=False)
    process = forked.server().Process(target=open_with_threads, args=(there,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert found.recv() == (1, 1)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_less_precision_gives_almost_the_same_vectors(policy):
    keras.utils.set_random_seed(3)
    model = backbones.build("small_resnet", 32, 8)
    files = [jpeg(colour, seed) for seed in range(4) for colour in COLOURS.values()]
    pixels = image_ops.decode_and_resize(tf.constant(files), 32)
    inputs = image_ops.preprocess("tf", pixels)
    exact = model(inputs, training=False).numpy()
    found = devices.with_precision(model, policy)(inputs, training=False)
    assert found.dtype == policy.removeprefix("mixed_")
    found = tf.cast(found, tf.float32).numpy()
    cosine = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
    # bfloat16 keeps 8 bits of a number and float16 keeps 11, in each of ten convolutions.
    assert cosine.min() > {"mixed_bfloat16": 0.999, "mixed_float16": 0.99999}[policy]
    assert np.abs(found - exact).max() > 0  # It did compute in another precision.
    assert all(weight.dtype == "float32" for weight in model.weights)


def test_full_precision_is_the_network_itself():
    model = backbones.build("small_resnet", 16, 4)
    assert devices.with_precision(model, "float32") is model


@no_gpu
@pytest.mark.parametrize("name", ["fusion", "pixel_embedder", "text_embedder", "text_generator"])
def test_training_says_that_there_is_no_gpu(name):
    module = importlib.import_module(f"model_code.models.{name}.train")
    if name == "text_generator":
        work = functools.partial(module.train_generator, pairs=None)
    else:
        work = getattr(module, "work", None) or module._work
    flags = {field.name: "" for field in dataclasses.fields(module.Config)} | {"device": "gpu"}
    with pytest.raises(PhraseLensError, match=r"--device=gpu"):
        work(types.SimpleNamespace(**flags), None)
