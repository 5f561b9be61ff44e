"""The training loop that every model shares: early stopping, TensorBoard, exact resume."""

import dataclasses
import glob
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model_code.runtime.ahead import Ahead
from schemas.base import storage
from schemas.console import heartbeat
from schemas.console.progress import Progress

_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
)


@dataclasses.dataclass(frozen=True)
class History:
    """What a training run saw.

    Attributes:
      epochs: one mapping an epoch: `epoch`, `loss` and the metrics of `evaluate`.
      best_epoch: the epoch whose weights were kept, from 1.
      input_wait: of each epoch's steps, the share of time in which they waited for batches. A
        clock's value, so that it is no part of what two runs of the same work have in common.
    """

    epochs: list[dict[str, float]]
    best_epoch: int
    input_wait: list[float] = dataclasses.field(default_factory=list, compare=False)

    def to_json(self) -> str:
        return json.dumps({"epochs": self.epochs, "best_epoch": self.best_epoch}, indent=1)


def set_seed(seed: int) -> None:
    """Makes every op and initial weight of this process depend on `seed` alone."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The order in which an epoch visits rows: [rows] int64, the same after a resume."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


@dataclasses.dataclass
class Steps:
    """The steps of one epoch.

    Attributes:
      loss: mean over them.
      input_wait: the share of their time in which they waited for batches.
    """

    loss: float
    input_wait: float


def run_steps(
    batches: Iterator, step: Callable[..., tf.Tensor], done: Callable[[], None] = lambda: None
) -> Steps:
    """Takes a step with each batch, and measures how long the steps wait for them.

    A device may still work when `step` returns. Reading each loss one step later leaves it
    with work at all times and lets the host run ahead by one step only, so that what the
    host waits for is missing to the device too; a device that is faster than its input waits
    no longer than is said here.

    Args:
      batches: each a tuple of the arguments of `step`.
      step: returns the loss as a scalar.
      done: called after each step.
    """
    losses: list[float] = []
    waited, start, last = 0.0, time.perf_counter(), None
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        loss = step(*batch)
        if last is not None:
            losses.append(float(last))
        last = loss
        done()
    if last is not None:
        losses.append(float(last))
    seconds = time.perf_counter() - start
    return Steps(float(np.mean(losses)), waited / seconds)


def fit(
    label: str,
    folder: str,
    state: Mapping[str, Any],
    batches: Callable[[int], Iterable],
    step: Callable[..., tf.Tensor],
    *,
    evaluate: Callable[[], Mapping[str, float]],
    epochs: int,
    steps_per_epoch: int,
    monitor: str,
    patience: int,
    maximize: bool = True,
    after_epoch: Callable[[int], None] | None = None,
) -> History:
    """Trains to the best epoch by `monitor`, and leaves its weights in `state`.

    A run that was killed goes on after its last whole epoch and ends with the very
    weights of an undisturbed run, provided that `batches` and `step` depend on the
    state and the epoch alone: so random numbers come from `(seed, epoch, step)`
    or from seed generators inside `state`. Batches are made in a thread, a few ahead of the
    steps, and so must not depend on what the epoch's own steps change.

    Args:
      label: names the run in progress lines.
      folder: a local folder for checkpoints and TensorBoard logs of this very run.
      state: everything that changes: Keras models, variables and optimizers, tf.Variables, or
        tf.Modules that hold no Keras objects.
      batches: epoch (from 1) → the batches, each a tuple of `step`'s arguments.
      step: takes one batch, updates `state`, returns the loss as a scalar.
      evaluate: metrics on held-out rows.
      epochs: at most this many.
      steps_per_epoch: batches of an epoch, for the time left.
      monitor: the metric that picks the best epoch.
      patience: epochs without a better one before training stops.
      maximize: whether more of `monitor` is better.
      after_epoch: called with each finished epoch; tests use it to die.

    Returns:
      The history, with the epochs of earlier attempts.
    """
    os.makedirs(folder, exist_ok=True)
    folder = storage.plain_folder(folder)
    epoch_done = tf.Variable(0, dtype=tf.int64, trainable=False)
    parts = {name: _trackable(part) for name, part in state.items()}
    checkpoint = tf.train.Checkpoint(epoch=epoch_done, **parts)
    best = tf.train.Checkpoint(**parts)
    last = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=1, checkpoint_name="last")
    rows: list[dict[str, float]] = []
    waits: list[float] = []
    best_epoch = 0
    if last.latest_checkpoint:
        checkpoint.restore(last.latest_checkpoint).assert_existing_objects_matched()
        saved = _read_history(folder, int(epoch_done.numpy()))
        rows, best_epoch, waits = saved.epochs, saved.best_epoch, saved.input_wait
    writer = tf.summary.create_file_writer(os.path.join(folder, "tensorboard"))
    progress = Progress(label, steps_per_epoch * epochs, "steps", steps_per_epoch * len(rows))
    coming = None
    for epoch in range(len(rows) + 1, epochs + 1):
        if best_epoch and epoch - 1 - best_epoch >= patience:
            break
        taken = run_steps(coming or Ahead(batches(epoch)), step, lambda: progress.add(1))
        # The next epoch's first batches are made while this one is evaluated and saved.
        coming = Ahead(batches(epoch + 1)) if epoch < epochs else None
        waits.append(taken.input_wait)
        row = {"epoch": float(epoch), "loss": taken.loss}
        with heartbeat.doing(f"{label}, evaluates epoch {epoch}"):
            row |= {name: float(value) for name, value in evaluate().items()}
        sign = 1 if maximize else -1
        if not best_epoch or sign * row[monitor] > sign * rows[best_epoch - 1][monitor]:
            best.write(os.path.join(folder, f"best-{epoch}"))
            best_epoch = epoch
        rows.append(row)
        epoch_done.assign(epoch)
        # The history of epoch n is there before checkpoint n is: a kill between leaves n - 1.
        with open(_history_path(folder, epoch), "w", encoding="utf-8") as f:
            json.dump(dataclasses.asdict(History(rows, best_epoch, waits)), f)
        last.save(checkpoint_number=epoch)
        _remove_stale(folder, epoch, best_epoch)
        _write_scalars(writer, epoch, row | {"input_wait": taken.input_wait})
        if after_epoch:
            after_epoch(epoch)
    if coming:
        coming.close()
    progress.close(
        f"best epoch {best_epoch} of {len(rows)}, {np.mean(waits or [0.0]):.1%} waiting for input"
    )
    writer.close()
    if best_epoch:
        best.read(os.path.join(folder, f"best-{best_epoch}")).assert_existing_objects_matched()
    return History(rows, best_epoch, waits)


def write_logs(history: History, folder: str, output: str) -> None:
    """Puts history.json and tensorboard/ of a run of `fit` in `folder` into a model's folder."""
    os.makedirs(output, exist_ok=True)
    with open(os.path.join(output, "history.json"), "w", encoding="utf-8") as f:
        f.write(history.to_json())
    logs = os.path.join(output, "tensorboard")
    shutil.rmtree(logs, ignore_errors=True)
    shutil.copytree(os.path.join(folder, "tensorboard"), logs)


def _trackable(part: Any) -> Any:
    """What tf.train.Checkpoint should save of a part of the state.

    Of a Keras model it would find all but the state of random generators, such as dropout's.
    """
    if isinstance(part, keras.Variable):
        return part.value
    if isinstance(part, keras.layers.Layer | keras.optimizers.Optimizer):
        return [variable.value for variable in part.variables]
    return part


def _write_scalars(writer: tf.summary.SummaryWriter, epoch: int, row: Mapping[str, float]) -> None:
    with writer.as_default(step=epoch):
        for name, value in row.items():
            # What tf.summary.scalar writes; that one wants the TensorBoard package.
            tf.summary.write(name, tf.constant(value, tf.float32), metadata=_SCALAR)


def _read_history(folder: str, epoch: int) -> History:
    with open(_history_path(folder, epoch), encoding="utf-8") as f:
        return History(**json.load(f))


def _history_path(folder: str, epoch: int) -> str:
    return os.path.join(folder, f"history-{epoch}.json")


def _remove_stale(folder: str, epoch: int, best_epoch: int) -> None:
    for path in glob.glob(os.path.join(folder, "history-*.json")):
        if path != _history_path(folder, epoch):
            os.remove(path)
    for path in glob.glob(os.path.join(folder, "best-*")):
        if os.path.isdir(path):  # in which TensorFlow was writing one when it was killed
            shutil.rmtree(path)
        elif not os.path.basename(path).startswith(f"best-{best_epoch}."):
            os.remove(path)
