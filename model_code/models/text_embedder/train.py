"""Trains the text embedder, a siamese network over bags of words and word pairs.

Reads the queries and the query–query associations of a mined dataset. Two queries that
people used for the same thing are drawn together, against the other queries of their
batch; so is every query and itself with some n-grams left out, which alone makes a
useful space when associations are few. Hard negatives come on top: queries whose people
were shown an image that was chosen for a query of the batch, and refused it. Some
associations and all those of some queries are held out, to see after each epoch how high a
query ranks its partner among other queries, to stop in time, and to compare at the end with
tf-idf and with the mean of the words.

Writes a dataset with the table "model": saved_model/ (texts → unit vectors), config.json,
history.json, evaluation.json, tensorboard/.

  ./run.sh train text_embedder --mined work/mined --output work/text_embedder
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from model_code.metrics.evaluation import without_nan
from model_code.models.text_embedder import evaluate as text_evaluation
from model_code.models.text_embedder.batches import Batches, BatchRules, split_words
from model_code.models.text_embedder.data import Associations, HeldOut, hold_out, load_associations
from model_code.models.text_embedder.settings import Config
from schemas.base import fingerprint
from schemas.console import program
from schemas.datasets.dataset import Dataset
from schemas.runs import command
from schemas.runs.run import Run

if TYPE_CHECKING:
    from model_code.models.text_embedder.held_out import Bags

MODULES = ("model_code.models.text_embedder.train",)
_DENSE_LEARNING_RATE = 1e-3
_UNSEEN = 1e-3  # counts for an n-gram of no query


def _work(config: Config, run: Run) -> int:
    from model_code.models.text_embedder import held_out as text_held_out
    from model_code.models.text_embedder import network as text_embedder
    from model_code.runtime import training
    from model_code.runtime.devices import open_device

    open_device(config.device)
    training.set_seed(config.seed)
    bag = {name: getattr(config, name) for name in ("buckets", "max_tokens", "char_trigrams")}
    everything = load_associations(Dataset(config.mined))
    held = hold_out(everything, config.held_out_share, config.held_out_queries)
    bags = text_held_out.make_bags(everything.texts, **bag)
    model = text_embedder.build(
        config.buckets, config.width, config.attention, config.dense, config.initial_scale
    )
    if config.attention and config.frequency_power:
        start_attention(model, bags, held.queries, config.frequency_power)
    step, state = training_step(model, config)
    rules = {field.name: getattr(config, field.name) for field in dataclasses.fields(BatchRules)}
    batches = Batches(held.train, held.queries, BatchRules(**rules))
    steps = min(max(batches.steps(), config.min_steps_per_epoch), config.max_steps_per_epoch)
    history = training.fit(
        "train_text_embedder",
        run.scratch,
        state,
        lambda epoch: step_inputs(batches, bags, config, epoch, steps),
        step,
        evaluate=text_held_out.monitor(model, bags, everything, held, config.seed),
        epochs=config.epochs,
        steps_per_epoch=steps,
        monitor="score",
        patience=config.patience,
    )
    evaluation = text_held_out.evaluate(model, bags, everything, held, config.max_tokens)
    local = run.empty_folder("model")
    training.write_logs(history, run.scratch, local)
    identity = _write(local, model, bag, evaluation, config)
    counters = _counters(everything, held)
    run.commit_files("model", local, counters, identity)
    for kind, found in evaluation.items():
        title = f"{kind.replace('_', ' ')}, 1 of {found['candidates']:,}"
        print(text_evaluation.table(title, found["methods"]))
    trained = counters["associations.out"]
    print(f"train_text_embedder: {len(everything.texts):,} queries, {trained:,} associations")
    following = program.command(
        "embed_phrases",
        mined=config.mined,
        generator=program.beside(config.output, "text_generator"),
        text_embedder=config.output,
        output=program.beside(config.output, "phrases"),
    )
    print(f"next: {following}")
    return 0


def _write(local: str, model, bag: Mapping, evaluation: Mapping, config: Config) -> str:
    """Writes the exported network, config.json and evaluation.json; returns their fingerprint."""
    from model_code.models.text_embedder import network as text_embedder

    text_embedder.export(model, os.path.join(local, "saved_model"), **bag)
    kept = {name: getattr(config, name) for name in ("width", "attention", "dense")}
    description = {**bag, **kept}
    contents = {"config": description, "evaluation": without_nan(evaluation)}
    for name, content in contents.items():
        with open(os.path.join(local, f"{name}.json"), "w", encoding="utf-8") as f:
            json.dump(content, f, indent=1)
    return fingerprint.of_arrays(description, [np.asarray(v) for v in model.get_weights()])


def _counters(everything: Associations, held: HeldOut) -> dict[str, int]:
    every, trained = len(everything.pairs), len(held.train.pairs)
    return {
        "queries": len(everything.texts),
        "queries_held_out": len(everything.texts) - len(held.queries),
        "associations.in": every,
        "associations.out": trained,
        "associations.dropped_held_out": every - trained,
        "refused_pairs": len(everything.refused),
    }


def start_attention(model, bags: "Bags", rows: np.ndarray, power: float) -> None:
    """Starts the score of each n-gram at the logarithm of a power of its frequency.

    The softmax of the scores then weighs it in proportion to that power.

    Args:
      model: a network with attention.
      bags: of all texts.
      rows: [n] int64: those that frequencies are counted in.
      power: of the number of texts that hold an n-gram.
    """
    table = model.get_layer("ngrams").table
    frequency = np.zeros(table.shape[0], np.int64)
    for some in np.array_split(rows, len(rows) // 65_536 + 1):
        ids = np.sort(bags.rows(some), axis=1)
        is_first = np.diff(ids, axis=1, prepend=0) > 0
        frequency += np.bincount(ids[is_first], minlength=table.shape[0])
    values = np.array(table)
    values[:, -1] = power * np.log(np.maximum(frequency, _UNSEEN))
    table.assign(values)


def step_inputs(
    batches: Batches, bags: "Bags", config: Config, epoch: int, steps: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """The arguments of the training step, batch by batch of an epoch.

    Yields:
      ids [2 · batch + hard, length] int64 of a, b and the hard negatives; not_negative
      [2, batch, batch + hard] bool; log_counts [2 · batch + hard] float32; weights [batch]
      float32; seed [2] int32.
    """
    log_counts = np.zeros(len(bags), np.float32)
    if config.debias:
        log_counts = np.log(np.maximum(batches.expected_counts(), 1e-12)).astype(np.float32)
    for batch in batches.epoch(epoch, steps):
        rows = np.concatenate([batch.a, batch.b, batch.hard])
        ids, size = bags.rows(rows), len(batch.a)
        selves = np.arange(size - batch.selves, size)
        if config.shared_words < 1 and len(selves):
            rng = np.random.default_rng(batch.seed)
            parts = split_words(ids[selves], bags.words[rows[selves]], config.shared_words, rng)
            ids[selves], ids[selves + size] = parts
        yield ids, batch.not_negative, log_counts[rows], batch.weights, batch.seed


def training_step(model, config: Config):
    """The compiled step of `training.fit`, and the state that it changes."""
    import keras
    import tensorflow as tf

    from model_code.models.text_embedder.network import drop_tokens, in_batch_loss
    from model_code.runtime.sparse_adagrad import SparseAdagrad

    table = model.get_layer("ngrams").table.value
    rest = [v.value for v in model.trainable_variables if v.value is not table]
    state: dict = {"model": model}
    # The gradients of rows are as small as bags are long: start low, or nothing moves.
    state["table_optimizer"] = SparseAdagrad(table.shape, config.learning_rate, 1e-6)
    if rest:
        state["optimizer"] = keras.optimizers.Adam(_DENSE_LEARNING_RATE)
        state["optimizer"].build(rest)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.int64),
            tf.TensorSpec([2, None, None], tf.bool),
            tf.TensorSpec([None], tf.float32),
            tf.TensorSpec([None], tf.float32),
            tf.TensorSpec([2], tf.int32),
        ],
        autograph=False,  # it branches on no tensor
    )
    def step(ids, not_negative, log_counts, weights, seed):
        ids = drop_tokens(ids, config.token_dropout, seed)
        with tf.GradientTape() as tape:
            embs = model(ids, training=True)
            loss = in_batch_loss(embs, not_negative, weights, config.temperature, log_counts)
        grads = tape.gradient(loss, [table, *rest])
        state["table_optimizer"].apply(table, grads[0])
        if rest:
            state["optimizer"].apply(grads[1:], rest)
        return loss

    return step, state


def run(argv: Sequence[str] | None = None) -> int:
    return command.main(
        "train_text_embedder",
        Config,
        __doc__,
        argv,
        work=_work,
        datasets=lambda config: {"mined": config.mined},
        modules=MODULES,
    )


if __name__ == "__main__":
    sys.exit(run())
