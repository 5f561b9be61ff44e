"""The training loop that every model shares: early stopping, TensorBoard, exact resume."""

import dataclasses
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model_code.progress import Progress

_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
)


@dataclasses.dataclass(frozen=True)
class History:
    """What a training run saw.

    Attributes:
      epochs: one mapping an epoch: `epoch`, `loss` and the metrics of `evaluate`.
      best_epoch: the epoch whose weights were kept, from 1.
    """

    epochs: list[dict[str, float]]
    best_epoch: int

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)


def set_seed(seed: int) -> None:
    """Makes every op and initial weight of this process depend on `seed` alone."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The order in which an epoch visits rows: [rows] int64, the same after a resume."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def fit(
    label: str,
    folder: str,
    state: Mapping[str, Any],
    batches: Callable[[int], Iterable],
    step: Callable[..., tf.Tensor],
    evaluate: Callable[[], Mapping[str, float]],
    *,
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
    or from seed generators inside `state`.

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
    epoch_done = tf.Variable(0, dtype=tf.int64, trainable=False)
    parts = {name: _trackable(part) for name, part in state.items()}
    checkpoint = tf.train.Checkpoint(epoch=epoch_done, **parts)
    best = tf.train.Checkpoint(**parts)
    last = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=1, checkpoint_name="last")
    rows: list[dict[str, float]] = []
    best_epoch = 0
    if last.latest_checkpoint:
        checkpoint.restore(last.latest_checkpoint).assert_existing_objects_matched()
        with open(_history_path(folder, int(epoch_done.numpy()))) as f:
            saved = json.load(f)
        rows, best_epoch = saved["epochs"], saved["best_epoch"]
    writer = tf.summary.create_file_writer(os.path.join(folder, "tensorboard"))
    progress = Progress(label, steps_per_epoch * epochs, "steps")
    progress.done = steps_per_epoch * len(rows)
    for epoch in range(len(rows) + 1, epochs + 1):
        if best_epoch and epoch - 1 - best_epoch >= patience:
            break
        losses = []
        for batch in batches(epoch):
            losses.append(step(*batch))
            progress.add(1)
        row = {"epoch": float(epoch), "loss": float(np.mean([float(loss) for loss in losses]))}
        row |= {name: float(value) for name, value in evaluate().items()}
        sign = 1 if maximize else -1
        if not best_epoch or sign * row[monitor] > sign * rows[best_epoch - 1][monitor]:
            best.write(os.path.join(folder, f"best-{epoch}"))
            best_epoch = epoch
        rows.append(row)
        epoch_done.assign(epoch)
        # The history of epoch n is there before checkpoint n is: a kill between leaves n - 1.
        with open(_history_path(folder, epoch), "w") as f:
            f.write(History(rows, best_epoch).to_json())
        last.save(checkpoint_number=epoch)
        _remove_stale(folder, epoch, best_epoch)
        with writer.as_default(step=epoch):
            for name, value in row.items():
                # What tf.summary.scalar writes; that one wants the TensorBoard package.
                tf.summary.write(name, tf.constant(value, tf.float32), metadata=_SCALAR)
        if after_epoch:
            after_epoch(epoch)
    progress.close(f"best epoch {best_epoch} of {len(rows)}")
    writer.close()
    if best_epoch:
        best.read(os.path.join(folder, f"best-{best_epoch}")).assert_existing_objects_matched()
    return History(rows, best_epoch)


def write_logs(history: History, folder: str, output: str) -> None:
    """Puts history.json and tensorboard/ of a run of `fit` in `folder` into a model's folder."""
    os.makedirs(output, exist_ok=True)
    with open(os.path.join(output, "history.json"), "w") as f:
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


def _history_path(folder: str, epoch: int) -> str:
    return os.path.join(folder, f"history-{epoch}.json")


def _remove_stale(folder: str, epoch: int, best_epoch: int) -> None:
    for path in glob.glob(os.path.join(folder, "history-*.json")):
        if path != _history_path(folder, epoch):
            os.remove(path)
    for path in glob.glob(os.path.join(folder, "best-*")):
        if not os.path.basename(path).startswith(f"best-{best_epoch}."):
            os.remove(path)
