"""The training loop: exact resume, early stopping, the best epoch's weights."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_code.runtime import saved_models, training
from model_code.runtime.ahead import Ahead
from schemas.base import storage


class Run:
    """A small regression with dropout, batch normalisation and momentum: all that has state."""

    def __init__(self):
        training.set_seed(1)
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(24, 3)).astype(np.float32)
        self.y = self.x.sum(1, keepdims=True)
        layers = keras.layers
        self.model = keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(8, "relu"),
                layers.BatchNormalization(),
                layers.Dropout(0.3),
                layers.Dense(1),
            ]
        )
        self.scale = keras.Variable(1.0)
        self.count = tf.Variable(0)
        self.trained = [*self.model.trainable_variables, self.scale]
        self.optimizer = keras.optimizers.AdamW(1e-2)
        self.optimizer.build(self.trained)

    def batches(self, epoch):
        order = training.epoch_order(1, epoch, 24)
        return [(self.x[rows], self.y[rows]) for rows in order.reshape(3, 8)]

    @tf.function
    def step(self, x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.scale * self.model(x, training=True) - y) ** 2)
        variables = [variable.value for variable in self.trained]
        self.optimizer.apply(tape.gradient(loss, variables), self.trained)
        self.count.assign_add(1)
        return loss

    def fit(self, folder, epochs=6, metrics=None, patience=9, **options):
        self.seen = []

        def evaluate():
            self.seen.append(self.weights())
            if metrics is not None:
                return {"metric": metrics[int(self.count.numpy()) // 3 - 1]}
            return {"metric": -float(tf.reduce_mean((self.model(self.x) - self.y) ** 2))}

        state = {
            "model": self.model,
            "scale": self.scale,
            "optimizer": self.optimizer,
            "count": self.count,
        }
        return training.fit(
            "test",
            str(folder),
            state,
            self.batches,
            self.step,
            evaluate=evaluate,
            epochs=epochs,
            steps_per_epoch=3,
            monitor="metric",
            patience=patience,
            **options,
        )

    def weights(self):
        return [np.array(w) for w in (*self.model.get_weights(), self.scale.numpy())]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("death", "name"), [(1, "b"), (4, "b [1] *?,{c}"), (6, "b\\[")])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, death, name):
    undisturbed = Run()
    history = undisturbed.fit(tmp_path / "a")

    def die(epoch):
        if epoch == death:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run().fit(tmp_path / name, after_epoch=die)
    resumed = Run()
    again = resumed.fit(tmp_path / name)
    assert again == history
    assert len(resumed.seen) == 6 - death
    assert len(list((tmp_path / name).glob("last-*.index"))) == 1
    assert same(resumed.weights(), undisturbed.weights())


def test_what_a_killed_write_of_weights_left_is_removed(tmp_path):
    """TensorFlow writes into folders beside the files that it then renames."""
    undisturbed = Run()
    history = undisturbed.fit(tmp_path / "a")

    def die(epoch):
        if epoch == 3:
            for name in ("best-3_temp", "best-9_temp", "last-4_temp"):
                (tmp_path / "b" / name).mkdir()
                (tmp_path / "b" / name / "part-00000-of-00001").write_bytes(b"half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run().fit(tmp_path / "b", after_epoch=die)
    resumed = Run()
    assert resumed.fit(tmp_path / "b") == history
    assert same(resumed.weights(), undisturbed.weights())
    assert not list((tmp_path / "b").glob("best-*_temp"))


def test_death_within_an_epoch_costs_that_epoch_only(tmp_path):
    undisturbed = Run()
    history = undisturbed.fit(tmp_path / "a", epochs=3)
    dying = Run()
    whole = dying.batches

    def batches(epoch):
        yield from whole(epoch)[: 2 if epoch == 2 else 3]
        if epoch == 2:
            raise KeyboardInterrupt

    dying.batches = batches
    with pytest.raises(KeyboardInterrupt):
        dying.fit(tmp_path / "b", epochs=3)
    resumed = Run()
    assert resumed.fit(tmp_path / "b", epochs=3) == history
    assert same(resumed.weights(), undisturbed.weights())


def test_stops_after_patience_and_keeps_the_best(tmp_path):
    run = Run()
    history = run.fit(tmp_path, metrics=[1, 5, 3, 4, 9, 9], patience=2)
    assert (history.best_epoch, len(history.epochs)) == (2, 4)
    assert same(run.weights(), run.seen[1])
    # A run that had finished but was killed before its commit does nothing more.
    again = Run()
    assert again.fit(tmp_path, metrics=[0] * 6, patience=2) == history
    assert again.seen == []
    assert same(again.weights(), run.weights())


def test_minimises_when_told_so(tmp_path):
    history = Run().fit(tmp_path, metrics=[3, 1, 2, 1, 4, 4], maximize=False)
    assert history.best_epoch == 2


def test_logs_are_written_once(tmp_path):
    history = Run().fit(tmp_path / "run", epochs=2)
    for _ in range(2):
        training.write_logs(history, str(tmp_path / "run"), str(tmp_path / "model"))
    assert (tmp_path / "model" / "history.json").read_text() == history.to_json()
    assert len(list((tmp_path / "model" / "tensorboard").iterdir())) == 1


def test_epoch_order_is_a_permutation_of_its_own():
    orders = [training.epoch_order(0, epoch, 50) for epoch in (1, 2, 1)]
    assert sorted(orders[0]) == list(range(50))
    assert orders[0].tolist() == orders[2].tolist() != orders[1].tolist()


def test_batches_made_ahead_are_the_same_in_the_same_order():
    for count in (1, 2, 9):
        assert list(Ahead(range(5), count)) == [0, 1, 2, 3, 4]
    assert list(Ahead([], 2)) == []

    def dying():
        yield from (1, 2)
        raise ValueError("the disk is gone")

    seen = []
    with pytest.raises(ValueError, match="the disk is gone"):
        seen.extend(iter(Ahead(dying(), 3)))
    made = []
    batches = Ahead((made.append(n) or n for n in range(9)), 2)
    assert next(batches) == 0
    batches.close()
    assert list(batches) == []
    assert made == list(range(len(made)))
    assert len(made) <= 3  # Nothing goes on in the thread once nobody asks.


@pytest.mark.parametrize(("batch_seconds", "step_seconds"), [(3, 0), (0, 3), (1, 3)])
def test_input_wait_is_the_share_of_time_without_a_batch(monkeypatch, batch_seconds, step_seconds):
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def batches():
        for n in range(12):
            now[0] += batch_seconds
            yield (n,)

    def step(n):
        now[0] += step_seconds
        return tf.constant(float(n))

    taken = training.run_steps(batches(), step)
    assert taken.loss == np.mean(range(12))
    assert taken.input_wait == pytest.approx(batch_seconds / (batch_seconds + step_seconds))


def test_next_batches_are_made_while_a_step_runs():
    made = [threading.Event() for _ in range(6)]

    def batches():
        for n, event in enumerate(made):
            event.set()
            yield (n,)

    def step(n):
        # Would never end if the next batch were made after the step.
        assert made[min(n + 1, 5)].wait(60)
        return tf.constant(0.0)

    training.run_steps(Ahead(batches()), step)


def test_waiting_is_kept_of_every_epoch_and_compared_of_none(tmp_path):
    def die(epoch):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run().fit(tmp_path, epochs=3, after_epoch=die)
    history = Run().fit(tmp_path, epochs=3)
    assert len(history.input_wait) == len(history.epochs) == 3
    assert all(0 <= share <= 1 for share in history.input_wait)
    assert history == training.History(history.epochs, history.best_epoch)
    assert "input_wait" not in history.to_json()


def test_a_saved_model_is_read_below_a_folder_whose_name_would_be_a_pattern(tmp_path):
    module = tf.Module()
    module.weight = tf.Variable(3.0)
    module.double = tf.function(
        lambda x: module.weight * x, input_signature=[tf.TensorSpec([], tf.float32)]
    )
    folder = str(tmp_path / "run [2] of *")
    tf.saved_model.save(module, folder)
    with storage.local_copy(folder) as path:
        loaded = saved_models.load(path)
    assert float(loaded.double(2.0)) == 6.0
