"""CPU, GPU or TPU: what a process computes on, chosen before TensorFlow starts."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from schemas.base.errors import PhraseLensError
from schemas.console import program, quiet


@dataclasses.dataclass(frozen=True)
class Device:
    """What networks run on.

    Attributes:
      name: for `tf.device`.
      strategy: of TPUs, or None.
    """

    name: str
    strategy: Any = None

    def scope(self) -> Any:
        """The context in which networks are loaded."""
        return self.strategy.scope() if self.strategy else tf.device(self.name)

    def compiled(self, function: Callable, signature: tf.TensorSpec) -> Callable:
        """`function` of one tensor as a graph on the device.

        A TPU compiles a program for each shape: give it batches of one size.
        """
        if self.strategy is None:
            # Networks branch on no tensor: AutoGraph would only read Keras' code.
            graph = tf.function(function, input_signature=[signature], autograph=False)

            def on_device(tensor):
                with tf.device(self.name):
                    return graph(tensor)

            return on_device
        strategy = self.strategy

        @tf.function
        def on_tpu(tensor):
            return strategy.run(function, (tensor,))

        return on_tpu


def open_device(kind: str, threads: int = 0) -> Device:
    """The device of a flag `--device`; the first call of a process decides for all of it.

    Args:
      kind: auto, cpu, gpu or tpu. A TPU is the machine's own, or the one that the environment
        variable TPU_NAME names.
      threads: of TensorFlow in this process; 0 for one a core.

    Raises:
      PhraseLensError: the machine has no such device.
    """
    with quiet.loading("the device"):
        return _opened(kind, threads)


def _opened(kind: str, threads: int) -> Device:
    if threads:
        _set_threads(threads)
    if kind == "tpu":
        return _open_tpu()
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "gpu" and not gpus:
        raise PhraseLensError(
            "--device=gpu",
            "a GPU that TensorFlow finds",
            "Run ./run.sh setup --gpu on a machine with one, or give --device=cpu; "
            f"{program.command('doctor')} says what is there.",
        )
    if kind == "cpu" or not gpus:
        _hide(gpus)
        return Device("/CPU:0")
    for gpu in gpus:
        _before_start(tf.config.experimental.set_memory_growth, gpu, True)
    return Device("/GPU:0")


@functools.cache  # To start a TPU again deletes what it holds.
def _open_tpu() -> Device:
    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        topology = tf.tpu.experimental.initialize_tpu_system(resolver)
        # A batch goes to one core whole, as it would to one GPU.
        core = tf.tpu.experimental.DeviceAssignment.build(topology, num_replicas=1)
        strategy = tf.distribute.TPUStrategy(resolver, experimental_device_assignment=core)
    except (ValueError, OSError, tf.errors.OpError, RuntimeError) as error:
        raise PhraseLensError(
            f"--device=tpu ({str(error).splitlines()[0]})",
            "a Cloud TPU, on this machine or named by TPU_NAME",
            "See docs/operate/workers.md for its packages, or give --device=cpu.",
        ) from error
    return Device(strategy.extended.worker_devices[0], strategy)


def _hide(gpus: list) -> None:
    if gpus:
        _before_start(tf.config.set_visible_devices, [], "GPU")


def _set_threads(threads: int) -> None:
    _before_start(tf.config.threading.set_intra_op_parallelism_threads, threads)
    _before_start(tf.config.threading.set_inter_op_parallelism_threads, threads)


def _before_start(change: Callable, *args: Any) -> None:
    """Changes what TensorFlow fixes when it starts; a process that has started stays as it is."""
    try:
        change(*args)
    except RuntimeError as error:
        if "initializ" not in str(error):
            raise


def with_precision(model: keras.Model, policy: str) -> keras.Model:
    """The same network that computes in another precision; its weights stay float32.

    Args:
      model: of layers that Keras can make again from their config.
      policy: a Keras dtype policy: float32, mixed_float16 or mixed_bfloat16.
    """
    if policy == "float32":
        return model

    def again(layer: keras.layers.Layer) -> keras.layers.Layer:
        return layer.__class__.from_config(layer.get_config() | {"dtype": policy})

    clone = keras.models.clone_model(model, clone_function=again)
    clone.set_weights(model.get_weights())
    return clone
