"""Trains the text generator: a network that predicts which queries people would click an image for.

Reads what prepare_pairs wrote; writes the network, a vector for each of the best supported queries,
and the history with the retrieval of held-out images' queries. The first command is the documented
default; the second trains only a head on frozen pretrained features, in seconds an epoch. The
network and the size of its images are those that the pairs were prepared for.

  ./run.sh train text_generator --pairs work/training_pairs --output work/text_generator
  ./run.sh train text_generator --pairs work/training_pairs --output work/text_generator \\
      --weights mobilenet.weights.h5 --trainable head --head_hidden 512
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from model_code.runtime.settings import BACKBONES, training_device
from schemas.base import fingerprint
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.runs import command
from schemas.runs.stage import Stage
from schemas.tables.arrays import load_array

if TYPE_CHECKING:
    from model_code.models.text_generator.data import Pairs

NAME = "train_text_generator"


@dataclasses.dataclass(frozen=True)
class Config:
    pairs: str = flag("Dataset of prepare_pairs.", role="input")
    output: str = flag("Dataset to write.", role="output")
    backbone: str = flag(
        "Network; none for the one that the pairs were prepared for.",
        default="",
        choices=("", *BACKBONES),
    )
    weights: str = flag(
        "Its first weights: a .weights.h5, .h5 or .keras file, local or gs://; 'imagenet' to "
        "download them; none for random ones.",
        default="",
        role="input",
    )
    image_size: int = flag(
        "Side of the images in pixels, if the pairs must not be of another; 0 takes theirs.",
        default=0,
        minimum=0,
    )
    small_resnet_width: int = flag("Channels of small_resnet's first stage.", default=16, minimum=1)
    trainable: str = flag(
        "Train the whole network, or its head only, on features computed once.",
        default="all",
        choices=("all", "head"),
    )
    head_hidden: tuple[str, ...] = flag(
        "Hidden layers between features and query space: their units; 0 for none.",
        default=(),
        numbers=int,
        minimum=0,
    )
    head_dropout: float = flag(
        "Share of the units of hidden layers dropped.", default=0.0, minimum=0, below=1
    )
    width: int = flag("Dimensions of the query space (M).", default=64, minimum=1)
    max_positives: int = flag(
        "Queries of an image that are targets in one epoch, at most; drawn by their shares of its "
        "clicks, and weighed so that each is learned as its share.",
        default=64,
        minimum=1,
    )
    temperature: float = flag("Fixed temperature τ; 0 to learn it.", default=0.0, minimum=0)
    full_softmax_max: int = flag("Sample the softmax when K is larger.", default=20_000, minimum=0)
    sampled_queries: int = flag(
        "Candidates a step of the sampled softmax.", default=8192, minimum=1
    )
    candidates: str = flag(
        "How they are drawn: by rank of clicks (Zipf), by training clicks, or by rank and with "
        "the queries of the batch's images.",
        default="log_uniform",
        choices=("log_uniform", "frequency", "mixed"),
    )
    candidate_power: float = flag(
        "Power of the clicks for --candidates=frequency.", default=0.75, minimum=0
    )
    own_queries: str = flag(
        "The clicked queries of an image share its probability, or are kept apart: no negatives "
        "of each other.",
        default="share",
        choices=("share", "apart"),
    )
    devices: str = flag(
        "Devices that share the queries' vectors and each batch: a number, or 'all' GPUs; where "
        "TF_CONFIG names several workers, all of theirs.",
        default="1",
    )
    epochs: int = flag("Epochs, at most.", default=20, minimum=1)
    batch_size: int = flag("Images a step.", default=256, minimum=1)
    learning_rate: float = flag(
        "First learning rate of the network (AdamW).", default=1e-3, above=0
    )
    weight_decay: float = flag("Weight decay of the network.", default=1e-4, minimum=0)
    query_learning_rate: float = flag(
        "Of the queries' vectors (sparse Adagrad).", default=0.05, above=0
    )
    patience: int = flag("Epochs without a better one before training stops.", default=5, minimum=1)
    augment: bool = flag(
        "Flip, crop and tint training images; with --trainable=head they stay as they are.",
        default=True,
    )
    seed: int = flag("Seed of all randomness.", default=0, minimum=0, maximum=2**32 - 1)
    cache_bytes: int = flag(
        "Keep decoded images in memory up to this many bytes, else stream them.",
        default=4 << 30,
        role="runtime",
        minimum=0,
    )
    device: str = training_device()
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")

    def __post_init__(self):
        """Raises PhraseLensError where layers or devices are no numbers."""
        for name, texts, others in (
            ("head_hidden", self.head_hidden, ()),
            ("devices", (self.devices,), ("all",)),
        ):
            if not all(text in others or text.isdecimal() for text in texts):
                expected = " or ".join(("whole numbers", *others))
                raise PhraseLensError(f"--{name}={','.join(texts)}", expected, "Correct it.")


def network_of(config: Config, prepared_for: str, image_size: int) -> str:
    """The name of the network to train.

    Args:
      prepared_for: the network that the pairs were prepared for.
      image_size: side of their images in pixels.

    Raises:
      PhraseLensError: their images have not the size that the flags ask for.
    """
    from model_code.images import backbones

    name = config.backbone or prepared_for
    own = image_size if name == prepared_for else backbones.spec(name).image_size
    wanted = config.image_size or own
    if wanted != image_size:
        raise PhraseLensError(
            f"images of {config.pairs}",
            f"{wanted} × {wanted} pixels for {name}, found {image_size} × {image_size}",
            f"Run prepare_pairs with --backbone={name} --image_size={wanted}, "
            f"or give --image_size={image_size} here.",
        )
    return name


def work(config: Config, stage: Stage) -> int:
    # TensorFlow takes seconds to load; --help and a finished stage need none of it.
    from model_code.models.text_generator.data import open_pairs

    # Where only the head is trained, images are read once and pixels are kept nowhere.
    cache_bytes = config.cache_bytes if config.trainable == "all" else 0
    with open_pairs(config.pairs, cache_bytes) as pairs:
        return train_generator(config, stage, pairs)


def train_generator(config: Config, stage: Stage, pairs: "Pairs") -> int:
    """Trains on opened pairs and commits the model; returns the exit status."""
    import keras

    from model_code.images import backbones
    from model_code.images import ops as image_ops
    from model_code.metrics import ranks as phrase_metrics
    from model_code.models.text_generator import query_table, sampled_softmax
    from model_code.models.text_generator import trainer as text_generator
    from model_code.models.text_generator.data import FeatureSource, PairSource
    from model_code.runtime import training
    from model_code.runtime.devices import open_device

    open_device(config.device)
    devices = query_table.devices(config.devices)
    scratch = devices.own_folder(stage.scratch)
    training.set_seed(config.seed)
    name, size = network_of(config, pairs.backbone, pairs.image_size), pairs.image_size
    spec = backbones.spec(name)
    vocabulary = pairs.vocabulary
    query_ids, num_queries = vocabulary["query_id"].to_numpy(), vocabulary.num_rows
    print(
        f"{num_queries:,} head queries on {pairs.train.rows:,} training and "
        f"{pairs.validation.rows:,} validation images",
        flush=True,
    )
    backbone = backbones.pretrained(
        name, size, config.weights, "--weights", config.small_resnet_width
    )
    features = backbone.output_shape[1]
    hidden = [int(units) for units in config.head_hidden if int(units)]
    head = text_generator.build_head(features, hidden, config.width, config.head_dropout)
    train: PairSource | FeatureSource = pairs.train
    held_out: PairSource | FeatureSource = pairs.validation
    if config.trainable == "head":
        encode = backbones.encoder(backbone, spec.preprocessing)
        train, held_out = (
            FeatureSource(source, encode, features, scratch, f"{split} features")
            for source, split in ((pairs.train, "training"), (pairs.validation, "validation"))
        )
        tower = head

        def prepare(inputs, seed):
            return inputs
    else:
        if config.weights:
            backbones.freeze_batch_norm(backbone)
        tower = keras.Model(backbone.inputs, head(backbone.output))
        pairs.train.load()

        def prepare(inputs, seed):
            if config.augment and seed is not None:
                inputs = image_ops.augment(inputs, seed)
            return image_ops.preprocess(spec.preprocessing, inputs)

    if devices.count > 1 and backbones.trains_batch_norm(tower):
        raise PhraseLensError(
            f"{name} with random weights on {devices.count} devices",
            "a network whose batch normalisation is frozen: each device would have its own",
            "Give --weights, which freezes it, or --trainable=head, or one device.",
        )
    batch_size = devices.equal_parts(min(config.batch_size, train.rows))
    steps = train.rows // batch_size
    trainer = text_generator.Trainer(
        tower,
        prepare,
        num_queries,
        sampled_softmax.candidates(
            config.candidates,
            config.sampled_queries if num_queries > config.full_softmax_max else 0,
            config.candidate_power,
            vocabulary["clicks"].to_numpy(),
            vocabulary["images"].to_numpy(),
            train.rows,
            batch_size,
        ),
        config.temperature,
        config.learning_rate,
        config.weight_decay,
        config.query_learning_rate,
        config.epochs * steps,
        config.seed,
        own_queries=config.own_queries,
        devices=devices,
    )

    def batches(epoch: int) -> Iterator[tuple]:
        shuffled = train.shuffled(
            batch_size, config.seed, epoch, config.max_positives, devices.part
        )
        for step, batch in enumerate(shuffled):
            yield *batch, np.array([config.seed, epoch * steps + step], np.int32)

    searched, clicked = pairs.validation.texts, pairs.validation.clicked()
    has_head = np.flatnonzero(clicked.counts)

    def evaluate() -> dict[str, float]:
        if not held_out.rows:
            return {"temperature": trainer.temperature}
        embs = np.concatenate([trainer.embed(x).numpy() for x in held_out.in_order(256)])
        vectors = trainer.vectors()
        top = text_generator.top_queries(embs, vectors, 3)
        texts = vocabulary["query"].take(pa.array(top.reshape(-1))).to_pylist()
        phrases = np.array(texts, object).reshape(top.shape).tolist()
        metrics = {"word_f1": text_generator.word_f1(phrases, searched)}
        if len(has_head):
            ranks = phrase_metrics.best_ranks(embs[has_head], vectors, clicked.select(has_head))
            metrics |= phrase_metrics.retrieval_metrics(ranks)
        return metrics | {"temperature": trainer.temperature}

    history = training.fit(
        NAME,
        scratch,
        trainer.state,
        batches,
        trainer.step,
        evaluate,
        epochs=config.epochs,
        steps_per_epoch=steps,
        monitor="word_f1" if held_out.rows else "loss",
        maximize=held_out.rows > 0,
        patience=config.patience,
    )
    description = {
        "backbone": name,
        "backbone_fingerprint": backbones.fingerprint_of(name, backbone),
        "image_size": size,
        "preprocessing": spec.preprocessing,
        "width": config.width,
        "head_queries": num_queries,
        "temperature": trainer.temperature,
    }
    if devices.part[0]:
        trainer.save_vectors(os.devnull)  # Its part of the first process's, which commits them.
        return 0
    local = stage.empty_folder("model")
    vectors_path = os.path.join(local, "query_vectors.npy")
    trainer.save_vectors(vectors_path)
    vectors = load_array(vectors_path, mmap_mode="r")
    training.write_logs(history, scratch, local)
    backbone.save(os.path.join(local, "backbone.keras"))
    head.save(os.path.join(local, "head.keras"))
    np.save(os.path.join(local, "query_ids.npy"), query_ids)
    with open(os.path.join(local, "config.json"), "w", encoding="utf-8") as f:
        json.dump(description, f, indent=1)
    arrays = [*backbone.get_weights(), *head.get_weights(), query_ids, vectors]
    counters = {
        "queries": num_queries,
        "training_images": pairs.train.rows,
        "training_pairs": pairs.training_pairs,
        "validation_images": pairs.validation.rows,
    }
    stage.commit_files("model", local, counters, fingerprint.of_arrays(description, arrays))
    best = history.epochs[history.best_epoch - 1]
    shown = ", ".join(f"{k} {v:.3f}" for k, v in best.items() if k != "epoch")
    print(f"{NAME}: epoch {history.best_epoch} of {len(history.epochs)} is best: {shown}")
    print(f"next: ./run.sh embed_phrases --generator={config.output} --mined=… (see its --help)")
    return 0


def run(argv: Sequence[str] | None = None) -> int:
    return command.main(
        NAME,
        Config,
        __doc__,
        argv,
        work,
        lambda config: {"pairs": config.pairs},
        ["model_code.models.text_generator.train"],
        lambda config: command.weights_input(config.weights),
    )


if __name__ == "__main__":
    sys.exit(run())
