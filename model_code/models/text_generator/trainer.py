"""The text generator: images and queries in one space, trained by a cosine softmax over queries.

Source: CN112204575A / US11907337B2, equation (1); its loss and samples: sampled_softmax.py.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from model_code.models.text_generator.query_table import Devices, QueryTable
from model_code.models.text_generator.sampled_softmax import Candidates, log_uniform, softmax_loss

_FIRST_TEMPERATURE = 0.1


class Trainer(tf.Module):
    """The training step and what it changes.

    Args:
      tower: what `prepare` returns → [B, M] unit rows.
      prepare: input of a batch and its seed (None outside training) → input of the tower.
      num_queries: K.
      sampled_queries: the candidates of a step, or how many log-uniform ones; 0 for the full
        softmax.
      temperature: τ; 0 to learn it.
      learning_rate, weight_decay: of AdamW on the tower and τ; the rate falls as a cosine.
      query_learning_rate: of row-wise Adagrad on the queries' vectors.
      steps: of the whole training.
      seed: of the first vectors.
      own_queries: "share" or "apart", see `softmax_loss`.
      devices: which hold the queries' vectors and share the images of a batch; one by default.
    """

    def __init__(
        self,
        tower: keras.Model,
        prepare: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor],
        num_queries: int,
        *,
        sampled_queries: int | Candidates,
        temperature: float,
        learning_rate: float,
        weight_decay: float,
        query_learning_rate: float,
        steps: int,
        seed: int,
        own_queries: str = "share",
        devices: Devices | None = None,
    ):
        if isinstance(sampled_queries, int):
            sampled_queries = Candidates(log_uniform(num_queries), sampled_queries)
        self.tower = tower
        self._prepare, self._candidates, self._own_queries = prepare, sampled_queries, own_queries
        self._devices = devices or Devices()
        self.table = QueryTable(
            num_queries, tower.output_shape[1], query_learning_rate, seed, self._devices
        )
        self.log_temperature = keras.Variable(
            np.log(temperature or _FIRST_TEMPERATURE), trainable=not temperature, dtype="float32"
        )
        self._trained = [*tower.trainable_variables]
        if not temperature:
            self._trained.append(self.log_temperature)
        self.optimizer = keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps), weight_decay
        )
        self.optimizer.exclude_from_weight_decay([self.log_temperature])
        self.optimizer.build(self._trained)

    @property
    def state(self) -> dict:
        """All that a step changes, for `training.fit`: of the table, this process's part."""
        return {
            "tower": self.tower,
            "temperature": self.log_temperature,
            "optimizer": self.optimizer,
            "table": self.table,
        }

    @property
    def temperature(self) -> float:
        return float(np.exp(self.log_temperature.numpy()))

    @tf.function(reduce_retracing=True, autograph=False)
    def step(self, inputs, pair_rows, pair_ids, pair_weights, seed) -> tf.Tensor:
        """Learns from one batch; see `softmax_loss`. The loss does not depend on the devices.

        Args:
          inputs: of the tower, for the images of the batch, as many for each device; where
            several processes train, of this one's images, which follow on those of the last.
          pair_rows, pair_ids, pair_weights: [n] the pairs of the whole batch.
          seed: [2] integer.
        """
        devices, table = self._devices, self.table
        pairs = tf.cast(pair_ids, tf.int64), tf.cast(pair_rows, tf.int64), pair_weights
        candidates = self._candidates.draw(seed, pairs[0])
        parts = tf.split(inputs, len(devices.local))

        def learn(local: int) -> list[tf.Tensor]:
            devices.check_same(seed)
            own, rows, weights = table.on_device(local, *pairs)
            others, log_included = table.on_device(local, *candidates)
            with tf.GradientTape() as tape:
                images = self._prepare(parts[local], devices.seed(seed))
                vectors = table.rows(local, tf.concat([own, others], 0))
                own_vectors, vectors = tf.split(vectors, [tf.size(own), tf.size(others)])
                loss = softmax_loss(
                    devices.gather(self.tower(images, training=True)),
                    pair_rows=rows,
                    pair_ids=own,
                    pair_weights=weights,
                    pair_vectors=own_vectors,
                    candidate_ids=others,
                    candidate_vectors=vectors,
                    log_included=log_included,
                    temperature=tf.exp(self.log_temperature.value),
                    own_queries=self._own_queries,
                    sum_logs=devices.sum_logs,
                )
            tower = [variable.value for variable in self._trained]
            gradients, rows_gradient = tape.gradient(loss, [tower, table.shards[local]])
            table.apply(local, rows_gradient)
            return devices.sum([loss, *gradients])

        loss, *gradients = devices.run(learn)[0]
        self.optimizer.apply(gradients, self._trained)
        return loss

    def vectors(self) -> np.ndarray:
        """w of every query: [K, M] float32 unit rows; all processes must call it together."""
        return self.table.vectors()

    def save_vectors(self, path: str) -> None:
        """See `QueryTable.save`."""
        self.table.save(path)

    @tf.function(reduce_retracing=True, autograph=False)
    def embed(self, inputs) -> tf.Tensor:
        """[B, …] → [B, M] unit rows."""
        return self.tower(self._prepare(inputs, None), training=False)
