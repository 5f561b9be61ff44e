"""The training loop: exact resume, early stopping, the best epoch's weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model_code import training


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
            evaluate,
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


@pytest.mark.parametrize("death", [1, 4, 6])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, death):
    undisturbed = Run()
    history = undisturbed.fit(tmp_path / "a")

    def die(epoch):
        if epoch == death:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run().fit(tmp_path / "b", after_epoch=die)
    resumed = Run()
    again = resumed.fit(tmp_path / "b")
    assert again == history
    assert len(resumed.seen) == 6 - death
    assert same(resumed.weights(), undisturbed.weights())


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
