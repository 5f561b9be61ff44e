"""Trains the text embedder, a siamese network over bags of words and word pairs.

Reads the queries and the query–query associations of a mined dataset. Two queries that
people used for the same thing are drawn together, against the other queries of their
batch; so is every query and itself with some n-grams left out, which alone makes a
useful space when associations are few. Hard negatives come on top: queries whose people
were shown an image that was chosen for a query of the batch, and refused it. Some
associations are held out, to see after each epoch how high a query ranks its partner
among other queries, and to stop in time.

Writes a dataset with the table "model": saved_model/ (texts → unit vectors), config.json,
history.json, tensorboard/.

  python -m model_code.train_text_embedder --mined work/mined --output work/text_embedder
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from model_code import command
from model_code.query_pairs import Associations, PairSet, RefusedPairs, load_associations
from schemas import fingerprint
from schemas.config import flag
from schemas.manifest import Dataset
from schemas.stage import Stage

MODULES = ("model_code.train_text_embedder",)
_EVALUATED_PAIRS = 1000
_DENSE_LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Config:
    mined: str = flag("Mined dataset (beam_jobs.mine_pairs).", role="input")
    output: str = flag("Dataset to write.", role="runtime")
    width: int = flag("Width of the embedding.", default=200)
    buckets: int = flag("Hash values of n-grams; a collision makes two n-grams one.", default=2**18)
    max_tokens: int = flag("N-grams kept of a query, words first.", default=64)
    char_trigrams: bool = flag("Add the character trigrams of words.", default=False)
    attention: bool = flag("Weight n-grams by a learned score; plain mean if not.", default=True)
    dense: bool = flag("Add a fully connected layer after the bag.", default=False)
    epochs: int = flag("At most this many epochs.", default=20)
    patience: int = flag("Epochs without a better one before stopping.", default=3)
    max_steps_per_epoch: int = flag("An epoch ends after this many batches.", default=1000)
    batch_size: int = flag("Pairs in a batch.", default=512)
    learning_rate: float = flag("Of Adagrad on the table of n-grams.", default=0.1)
    temperature: float = flag("Divides cosines in the softmax.", default=0.05)
    token_dropout: float = flag("Share of n-grams left out in training.", default=0.25)
    self_pairs_share: float = flag("Share of a batch that pairs a query with itself.", default=0.25)
    weight_power: float = flag(
        "An association counts as its weight to this power; 0 makes all equal.", default=0.5
    )
    held_out_share: float = flag("Share of associations kept for evaluation.", default=0.05)
    hard_negatives: int = flag(
        "At most so many queries whose typers refused the image of a query of the batch are "
        "added to it, to be told apart.",
        default=512,
    )
    seed: int = flag("Of weights, batches and dropout.", default=0)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")


def batches(
    epoch: int,
    train: Associations,
    known: PairSet,
    refused: RefusedPairs,
    config: Config,
    steps: int,
) -> Iterator[tuple[np.ndarray, ...]]:
    """The batches of an epoch: associations first, then queries paired with themselves.

    Yields:
      a [batch] int64, b [batch] int64, hard [hard] int64: indices of queries;
      not_negative [2, batch, batch + hard] bool: of a with b and hard, of b with a and hard;
      weights [batch] float32, of mean 1 over the associations; seed [2] int32.
    """
    from model_code.training import epoch_order

    per_batch = _pairs_per_batch(train, config)
    selves_per_batch = config.batch_size - per_batch
    edges = np.resize(epoch_order(config.seed, epoch, len(train.pairs)), steps * per_batch)
    selves = np.resize(epoch_order(config.seed, epoch, len(train.texts)), steps * selves_per_batch)
    weights = train.weights.astype(np.float64) ** config.weight_power
    weights = (weights / weights.mean() if len(weights) else weights).astype(np.float32)
    for step in range(steps):
        edge = edges[step * per_batch : (step + 1) * per_batch]
        self_pair = selves[step * selves_per_batch : (step + 1) * selves_per_batch]
        a = np.concatenate([train.pairs[edge, 0], self_pair])
        b = np.concatenate([train.pairs[edge, 1], self_pair])
        weight = np.concatenate([weights[edge], np.ones(len(self_pair), np.float32)])
        rng = np.random.default_rng([config.seed, epoch, step])
        seed = rng.integers(0, 2**31, 2).astype(np.int32)
        hard = refused.draw(np.concatenate([a, b]), config.hard_negatives, rng)
        sides = ((a, np.concatenate([b, hard])), (b, np.concatenate([a, hard])))
        not_negative = np.stack([known.matrix(*side) for side in sides])
        yield a, b, hard, not_negative, weight, seed


def _pairs_per_batch(train: Associations, config: Config) -> int:
    if not len(train.pairs):
        return 0
    return max(1, round(config.batch_size * (1 - config.self_pairs_share)))


def steps_per_epoch(train: Associations, config: Config) -> int:
    """Batches until every association and, if any are drawn, every query was seen once."""
    pairs = _pairs_per_batch(train, config)
    steps = [1]
    if pairs:
        steps.append(-(-len(train.pairs) // pairs))
    if config.batch_size > pairs:
        steps.append(-(-len(train.texts) // (config.batch_size - pairs)))
    return min(max(steps), config.max_steps_per_epoch)


def ranks(
    anchor_embs: np.ndarray, candidate_embs: np.ndarray, targets: np.ndarray, excluded: np.ndarray
) -> np.ndarray:
    """The place of each anchor's target among the candidates by cosine, from 1.

    Args:
      anchor_embs: [anchors, width] unit rows.
      candidate_embs: [candidates, width] unit rows.
      targets: [anchors] int64 index of a candidate.
      excluded: [anchors, candidates] bool: true partners too, which may rank above.

    Returns:
      [anchors] int64; equals count as above.
    """
    scores = anchor_embs @ candidate_embs.T
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    above = (scores >= own) & ~excluded
    np.put_along_axis(above, targets[:, None], True, axis=1)
    return above.sum(axis=1)


def _work(config: Config, stage: Stage) -> int:
    import tensorflow as tf

    from model_code import text_embedder, training

    training.set_seed(config.seed)
    everything = load_associations(Dataset(config.mined))
    held = everything.keys < np.uint64(int(config.held_out_share * (2**64 - 1)))
    train, held_out = everything.select(~held), everything.select(held)
    bag: dict[str, Any] = {
        "buckets": config.buckets,
        "max_tokens": config.max_tokens,
        "char_trigrams": config.char_trigrams,
    }
    ids = np.asarray(text_embedder.ngram_ids(tf.constant(everything.texts), **bag))
    lengths = (ids != text_embedder.PADDING).sum(axis=1)
    model = text_embedder.build(config.buckets, config.width, config.attention, config.dense)
    step, state = training_step(model, config)
    evaluate = _evaluation(model, ids, train, held_out, everything, config)
    known = PairSet(train.pairs, len(train.texts))
    refused = RefusedPairs(train.refused, len(train.texts))
    steps = steps_per_epoch(train, config)

    def epoch_batches(epoch: int) -> Iterator[tuple]:
        for a, b, hard, *rest in batches(epoch, train, known, refused, config, steps):
            rows = np.concatenate([a, b, hard])
            yield ids[rows, : max(1, lengths[rows].max())], *rest

    history = training.fit(
        "train_text_embedder",
        stage.scratch,
        state,
        epoch_batches,
        step,
        evaluate,
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
    with open(os.path.join(local, "config.json"), "w") as f:
        json.dump(description, f, indent=1)
    training.write_logs(history, stage.scratch, local)
    counters = {
        "queries": len(train.texts),
        "associations.in": len(everything.pairs),
        "associations.out": len(train.pairs),
        "associations.dropped_held_out": len(held_out.pairs),
        "refused_pairs": len(train.refused),
    }
    weights = [np.asarray(v) for v in model.get_weights()]
    stage.commit_files("model", local, counters, fingerprint.of_arrays(description, weights))
    best = history.epochs[history.best_epoch - 1]
    print(
        f"train_text_embedder: {len(train.texts):,} queries, {len(train.pairs):,} associations; "
        f"held out: recall@1 {best['recall_at_1']:.3f}, recall@10 {best['recall_at_10']:.3f}"
    )
    print(
        f"next: python -m beam_jobs.embed_phrases --mined {config.mined} "
        f"--text_embedder {config.output} …  (see its --help)"
    )
    return 0


def training_step(model, config: Config):
    """The compiled step of `training.fit`, and the state that it changes."""
    import keras
    import tensorflow as tf

    from model_code.sparse_adagrad import SparseAdagrad
    from model_code.text_embedder import drop_tokens, in_batch_loss

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
            tf.TensorSpec([2], tf.int32),
        ]
    )
    def step(ids, not_negative, weights, seed):
        ids = drop_tokens(ids, config.token_dropout, seed)
        with tf.GradientTape() as tape:
            embs = model(ids, training=True)
            loss = in_batch_loss(embs, not_negative, weights, config.temperature)
        grads = tape.gradient(loss, [table, *rest])
        state["table_optimizer"].apply(table, grads[0])
        if rest:
            state["optimizer"].apply(grads[1:], rest)
        return loss

    return step, state


def _evaluation(model, ids, train: Associations, held_out: Associations, everything, config):
    """How high held-out partners rank; with none held out, how high half-dropped queries do."""
    import tensorflow as tf

    from model_code.text_embedder import drop_tokens

    pairs = held_out.pairs[:_EVALUATED_PAIRS]
    if len(pairs):
        anchors = np.concatenate([pairs[:, 0], pairs[:, 1]])
        partners = np.concatenate([pairs[:, 1], pairs[:, 0]])
        anchor_ids = ids[anchors]
        excluded_pairs = PairSet(everything.pairs, len(everything.texts))
    else:
        anchors = np.random.default_rng(config.seed).permutation(len(train.texts))
        anchors = partners = anchors[:_EVALUATED_PAIRS]
        anchor_ids = np.asarray(drop_tokens(tf.constant(ids[anchors]), 0.5, seed=(config.seed, 0)))
        excluded_pairs = PairSet(train.pairs, len(train.texts))
    candidates = np.unique(partners)
    targets = np.searchsorted(candidates, partners)
    excluded = excluded_pairs.matrix(anchors, candidates)

    def evaluate() -> Mapping[str, float]:
        anchor_embs, candidate_embs = (
            np.asarray(model(anchor_ids)),
            np.asarray(model(ids[candidates])),
        )
        found = ranks(anchor_embs, candidate_embs, targets, excluded)
        mrr = float(np.mean(1 / found))
        cosine = float(np.mean(np.sum(anchor_embs * candidate_embs[targets], axis=1)))
        return {
            "recall_at_1": float(np.mean(found <= 1)),
            "recall_at_10": float(np.mean(found <= 10)),
            "mrr": mrr,
            "cosine": cosine,
            # Few pairs are soon all found: then the nearer, the better.
            "score": mrr + 1e-3 * cosine,
        }

    return evaluate


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
