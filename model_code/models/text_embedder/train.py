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
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from model_code.metrics.evaluation import without_nan
from model_code.models.text_embedder import evaluate as text_evaluation
from model_code.models.text_embedder.batches import Batches, BatchRules, split_words
from model_code.models.text_embedder.data import Associations, HeldOut, hold_out, load_associations
from model_code.runtime.settings import training_device
from schemas.base import fingerprint
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.runs import command
from schemas.runs.stage import Stage

if TYPE_CHECKING:
    from model_code.models.text_embedder.held_out import Bags

MODULES = ("model_code.models.text_embedder.train",)
_DENSE_LEARNING_RATE = 1e-3
_UNSEEN = 1e-3  # counts for an n-gram of no query


@dataclasses.dataclass(frozen=True)
class Config:
    mined: str = flag("Mined dataset (beam_jobs.mining.mine_pairs).", role="input")
    output: str = flag("Dataset to write.", role="output")
    width: int = flag("Width of the embedding.", default=200, minimum=1)
    buckets: int = flag(
        "Hash values of n-grams; a collision makes two n-grams one.", default=2**18, minimum=1
    )
    max_tokens: int = flag("N-grams kept of a query, words first.", default=64, minimum=1)
    char_trigrams: bool = flag("Add the character trigrams of words.", default=False)
    attention: bool = flag("Weight n-grams by a learned score; plain mean if not.", default=True)
    frequency_power: float = flag(
        "Attention starts where an n-gram weighs as the number of queries that hold it to this "
        "power, so that what is rare does not blur a query; 0 starts it at equal weights.",
        default=0.0,
        minimum=0,
    )
    dense: bool = flag("Add a fully connected layer after the bag.", default=False)
    initial_scale: float = flag(
        "Length of an n-gram's vector before training; the less, the less do n-grams that "
        "training never saw blur the others.",
        default=1.0,
        above=0,
    )
    epochs: int = flag("At most this many epochs.", default=20, minimum=1)
    patience: int = flag("Epochs without a better one before stopping.", default=3, minimum=1)
    min_steps_per_epoch: int = flag(
        "An epoch has at least this many batches.", default=1, minimum=1
    )
    max_steps_per_epoch: int = flag(
        "An epoch ends after this many batches.", default=1000, minimum=1
    )
    batch_size: int = flag("Pairs in a batch.", default=512, minimum=1)
    learning_rate: float = flag("Of Adagrad on the table of n-grams.", default=0.1, above=0)
    temperature: float = flag("Divides cosines in the softmax.", default=0.05, above=0)
    token_dropout: float = flag(
        "Share of n-grams left out in training.", default=0.25, minimum=0, below=1
    )
    self_pairs_share: float = flag(
        "Share of a batch that pairs a query with itself.", default=0.25, minimum=0, maximum=1
    )
    shared_words: float = flag(
        "Share of words that both sides of a query paired with itself keep; each of the others "
        "is on one side, so that words of one query come together. 1 keeps all on both.",
        default=1.0,
        minimum=0,
        maximum=1,
    )
    debias: bool = flag(
        "Take the logarithm of how often a query is in a batch from its logits, so that popular "
        "queries are not pushed away.",
        default=True,
    )
    language_balance: float = flag(
        "0 draws associations alike, 1 draws each combination of two languages alike.",
        default=0.0,
        minimum=0,
        maximum=1,
    )
    weight_power: float = flag(
        "An association counts as its weight to this power; 0 makes all equal.",
        default=0.5,
        minimum=0,
    )
    held_out_share: float = flag(
        "Share of associations kept for evaluation.", default=0.05, minimum=0, below=1
    )
    held_out_queries: float = flag(
        "Share of queries kept, with all their associations, for evaluation.",
        default=0.03,
        minimum=0,
        below=1,
    )
    hard_negatives: int = flag(
        "At most so many queries whose typers refused the image of a query of the batch are "
        "added to it, to be told apart.",
        default=512,
        minimum=0,
    )
    seed: int = flag("Of weights, batches and dropout.", default=0, minimum=0, maximum=2**32 - 1)
    device: str = training_device()
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")


def _work(config: Config, stage: Stage) -> int:
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
        start_attention(model, bags.ids[held.queries], config.frequency_power)
    step, state = training_step(model, config)
    rules = {field.name: getattr(config, field.name) for field in dataclasses.fields(BatchRules)}
    batches = Batches(held.train, held.queries, BatchRules(**rules))
    steps = min(max(batches.steps(), config.min_steps_per_epoch), config.max_steps_per_epoch)
    history = training.fit(
        "train_text_embedder",
        stage.scratch,
        state,
        lambda epoch: step_inputs(batches, bags, config, epoch, steps),
        step,
        text_held_out.monitor(model, bags, everything, held, config.seed),
        epochs=config.epochs,
        steps_per_epoch=steps,
        monitor="score",
        patience=config.patience,
    )
    local = stage.empty_folder("model")
    text_embedder.export(model, os.path.join(local, "saved_model"), **bag)
    description = bag | {
        "width": config.width,
        "attention": config.attention,
        "dense": config.dense,
    }
    evaluation = text_held_out.evaluate(model, bags, everything, held, config.max_tokens)
    contents = {"config": description, "evaluation": without_nan(evaluation)}
    for name, content in contents.items():
        with open(os.path.join(local, f"{name}.json"), "w", encoding="utf-8") as f:
            json.dump(content, f, indent=1)
    training.write_logs(history, stage.scratch, local)
    counters = _counters(everything, held)
    weights = [np.asarray(v) for v in model.get_weights()]
    stage.commit_files("model", local, counters, fingerprint.of_arrays(description, weights))
    for kind, found in evaluation.items():
        title = f"{kind.replace('_', ' ')}, 1 of {found['candidates']:,}"
        print(text_evaluation.table(title, found["methods"]))
    trained = counters["associations.out"]
    print(f"train_text_embedder: {len(everything.texts):,} queries, {trained:,} associations")
    print(
        f"next: ./run.sh embed_phrases --mined {config.mined} "
        f"--text_embedder {config.output} …  (see its --help)"
    )
    return 0


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


def start_attention(model, ids: np.ndarray, power: float) -> None:
    """Starts the score of each n-gram at the logarithm of a power of its frequency.

    The softmax of the scores then weighs it in proportion to that power.

    Args:
      model: a network with attention.
      ids: [texts, length] int64: the bags that frequencies are counted in.
      power: of the number of texts that hold an n-gram.
    """
    table = model.get_layer("ngrams").table
    bags = np.sort(ids, axis=1)
    is_first = np.diff(bags, axis=1, prepend=0) > 0
    frequency = np.bincount(bags[is_first], minlength=table.shape[0])
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
    log_counts = np.zeros(len(bags.ids), np.float32)
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
        _work,
        lambda config: {"mined": config.mined},
        MODULES,
    )


if __name__ == "__main__":
    sys.exit(run())
