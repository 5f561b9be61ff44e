"""Trains the text generator: a network that predicts which queries people would click an image for.

Reads what prepare_pairs wrote; writes the network, a vector for each of the best supported queries,
and the history with the retrieval of held-out images' queries. The first command is the documented
default; the second trains only a head on frozen pretrained features, in seconds an epoch. The
network and the size of its images are those that the pairs were prepared for.

  ./run.sh train text_generator --pairs work/training_pairs --output work/text_generator
  ./run.sh train text_generator --pairs work/training_pairs --output work/text_generator \\
      --weights mobilenet.weights.h5 --trainable head --head_hidden 512
"""

import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from model_code.models.text_generator.settings import Config
from schemas.base import fingerprint
from schemas.console import program
from schemas.runs import command
from schemas.runs.run import Run
from schemas.tables.arrays import load_array

if TYPE_CHECKING:
    from model_code.models.text_generator.data import FeatureSource, Pairs, PairSource
    from model_code.models.text_generator.network import Network
    from model_code.models.text_generator.query_table import Devices
    from model_code.models.text_generator.trainer import Trainer

NAME = "train_text_generator"
MODULES = ("model_code.models.text_generator.train",)


def work(config: Config, run: Run) -> int:
    # TensorFlow takes seconds to load; --help and a finished stage need none of it.
    from model_code.models.text_generator.data import open_pairs

    # Where only the head is trained, images are read once and pixels are kept nowhere.
    cache_bytes = config.cache_bytes if config.trainable == "all" else 0
    with open_pairs(config.pairs, cache_bytes) as pairs:
        return train_generator(config, run, pairs)


def train_generator(config: Config, run: Run, pairs: "Pairs") -> int:
    """Trains on opened pairs and commits the model; returns the exit status."""
    from model_code.models.text_generator import network as networks
    from model_code.models.text_generator import query_table
    from model_code.models.text_generator.evaluate import evaluate
    from model_code.runtime import training
    from model_code.runtime.devices import open_device

    open_device(config.device)
    devices = query_table.devices(config.devices)
    scratch = devices.own_folder(run.scratch)
    training.set_seed(config.seed)
    print(
        f"{pairs.vocabulary.num_rows:,} head queries on {pairs.train.rows:,} training and "
        f"{pairs.validation.rows:,} validation images",
        flush=True,
    )
    network = networks.build(config, pairs.backbone, pairs.image_size)
    network.check_devices(devices.count)
    train, held_out = _inputs(config, pairs, network, scratch)
    batch_size = devices.equal_parts(min(config.batch_size, train.rows))
    steps = train.rows // batch_size
    trainer = _new_trainer(config, network, pairs, batch_size, devices)

    def batches(epoch: int) -> Iterator[tuple]:
        shuffled = train.shuffled(
            batch_size, config.seed, epoch, config.max_positives, devices.part
        )
        for step, batch in enumerate(shuffled):
            yield *batch, np.array([config.seed, epoch * steps + step], np.int32)

    clicked, searched = pairs.validation.clicked(), pairs.validation.texts
    queries = pairs.vocabulary["query"]
    history = training.fit(
        NAME,
        scratch,
        trainer.state,
        batches,
        trainer.step,
        evaluate=functools.partial(evaluate, trainer, held_out, clicked, searched, queries),
        epochs=config.epochs,
        steps_per_epoch=steps,
        monitor="word_f1" if held_out.rows else "loss",
        maximize=held_out.rows > 0,
        patience=config.patience,
    )
    if devices.part[0]:
        trainer.save_vectors(os.devnull)  # Its part of the first process's, which commits them.
        return 0
    local = run.empty_folder("model")
    training.write_logs(history, scratch, local)
    _commit(run, local, pairs, network, trainer)
    best = history.epochs[history.best_epoch - 1]
    shown = ", ".join(f"{k} {v:.3f}" for k, v in best.items() if k != "epoch")
    print(f"{NAME}: epoch {history.best_epoch} of {len(history.epochs)} is best: {shown}")
    following = program.command(
        "train text_embedder",
        mined=program.beside(config.pairs, "mined"),
        output=program.beside(config.output, "text_embedder"),
    )
    print(f"next: {following}")
    return 0


def _inputs(
    config: Config, pairs: "Pairs", network: "Network", scratch: str
) -> "tuple[PairSource, PairSource] | tuple[FeatureSource, FeatureSource]":
    """The images of training and of validation, as the network's tower takes them."""
    if config.trainable == "head":
        return pairs.features(network.encoder(), network.features, scratch)
    pairs.train.load()
    return pairs.train, pairs.validation


def _new_trainer(
    config: Config, network: "Network", pairs: "Pairs", batch_size: int, devices: "Devices"
) -> "Trainer":
    """A trainer that has taken no step."""
    from model_code.models.text_generator import sampled_softmax
    from model_code.models.text_generator.trainer import Trainer

    num_queries, images = pairs.vocabulary.num_rows, pairs.train.rows
    candidates = sampled_softmax.candidates(
        config.candidates,
        config.sampled_queries if num_queries > config.full_softmax_max else 0,
        config.candidate_power,
        clicks=pairs.vocabulary["clicks"].to_numpy(),
        images=pairs.vocabulary["images"].to_numpy(),
        rows=images,
        batch_size=batch_size,
    )
    return Trainer(
        network.tower,
        network.prepare,
        num_queries,
        sampled_queries=candidates,
        temperature=config.temperature,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        query_learning_rate=config.query_learning_rate,
        steps=config.epochs * (images // batch_size),
        seed=config.seed,
        own_queries=config.own_queries,
        devices=devices,
    )


def _commit(run: Run, local: str, pairs: "Pairs", network: "Network", trainer: "Trainer") -> None:
    """Writes what was learned beside the logs in the folder `local`, and commits it."""
    vectors_path = os.path.join(local, "query_vectors.npy")
    trainer.save_vectors(vectors_path)
    vectors = load_array(vectors_path, mmap_mode="r")
    query_ids = pairs.vocabulary["query_id"].to_numpy()
    np.save(os.path.join(local, "query_ids.npy"), query_ids)
    network.save(local)
    description = network.describe() | {
        "width": vectors.shape[1],
        "head_queries": len(query_ids),
        "temperature": trainer.temperature,
    }
    with open(os.path.join(local, "config.json"), "w", encoding="utf-8") as f:
        json.dump(description, f, indent=1)
    counters = {
        "queries": len(query_ids),
        "training_images": pairs.train.rows,
        "training_pairs": pairs.training_pairs,
        "validation_images": pairs.validation.rows,
    }
    arrays = [*network.weights(), query_ids, vectors]
    run.commit_files("model", local, counters, fingerprint.of_arrays(description, arrays))


def run(argv: Sequence[str] | None = None) -> int:
    return command.main(
        NAME,
        Config,
        __doc__,
        argv,
        work=work,
        datasets=lambda config: {"pairs": config.pairs},
        modules=MODULES,
        raw_inputs=lambda config: command.weights_input(config.weights),
    )


if __name__ == "__main__":
    sys.exit(run())
