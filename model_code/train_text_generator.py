"""Trains the text generator: a network that predicts which queries people would click an image for.

Reads a mined dataset; writes the network, a vector for each of the best supported queries, and the
history with the retrieval of held-out images' queries. The first command is the documented
default; the second trains only a head on frozen pretrained features, in seconds an epoch.

  python -m model_code.train_text_generator --mined=work/mined --output=work/text_generator
  python -m model_code.train_text_generator --mined=work/mined --output=work/text_generator \\
      --backbone=mobilenet --weights=mobilenet.weights.h5 --trainable=head --head_hidden=512
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code import command
from model_code.clicked_queries import ClickedQueries, head_queries
from schemas import fingerprint
from schemas.config import flag
from schemas.errors import PhraseLensError
from schemas.manifest import Dataset
from schemas.stage import Stage

NAME = "train_text_generator"


@dataclasses.dataclass(frozen=True)
class Config:
    mined: str = flag("Mined dataset.", role="input")
    output: str = flag("Dataset to write.", role="runtime")
    backbone: str = flag(
        "Network: resnet101, resnet50, mobilenet, densenet121, convnext_base or small_resnet.",
        default="resnet101",
    )
    weights: str = flag(
        "Its first weights: a .weights.h5, .h5 or .keras file, local or gs://; 'imagenet' to "
        "download them; none for random ones.",
        default="",
        role="input",
    )
    image_size: int = flag("Side of the images in pixels; 0 for the network's own.", default=0)
    small_resnet_width: int = flag("Channels of small_resnet's first stage.", default=16)
    trainable: str = flag(
        "Train the whole network, or its head only, on features computed once.",
        default="all",
        choices=("all", "head"),
    )
    head_hidden: tuple[str, ...] = flag(
        "Hidden layers between features and query space: their units; 0 for none.", default=()
    )
    width: int = flag("Dimensions of the query space (M).", default=64)
    head_queries: int = flag("Queries with a weight of their own, at most (K).", default=4_000_000)
    min_query_images: int = flag("Training images that such a query needs.", default=1)
    max_positives: int = flag("Queries of an image that are targets in one epoch.", default=64)
    temperature: float = flag("Fixed temperature τ; 0 to learn it.", default=0.0)
    full_softmax_max: int = flag("Sample the softmax when K is larger.", default=20_000)
    sampled_queries: int = flag("Draws a step for the sampled softmax.", default=8192)
    epochs: int = flag("Epochs, at most.", default=20)
    batch_size: int = flag("Images a step.", default=256)
    learning_rate: float = flag("First learning rate of the network (AdamW).", default=1e-3)
    weight_decay: float = flag("Weight decay of the network.", default=1e-4)
    query_learning_rate: float = flag("Of the queries' vectors (sparse Adagrad).", default=0.05)
    patience: int = flag("Epochs without a better one before training stops.", default=5)
    augment: bool = flag(
        "Flip, crop and tint training images; with --trainable=head they stay as they are.",
        default=True,
    )
    validation_images: int = flag("Held-out images for the retrieval metrics.", default=10_000)
    seed: int = flag("Seed of all randomness.", default=0)
    cache_bytes: int = flag(
        "Keep decoded images in memory up to this many bytes, else stream them.",
        default=4 << 30,
        role="runtime",
    )
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")


@dataclasses.dataclass(frozen=True)
class Clicks:
    """What the trainer takes from a mined dataset.

    Attributes:
      query_ids: [K] int64 head queries.
      queries: [K] their texts.
      train: their clicks on training images.
      held_out: their clicks on those validation images of `in_held_out` that have any.
      in_train, in_held_out: [rows of the images table] bool, which images are trained on, and
        which validation images were clicked at all.
      has_head: [validation images] bool, which of them are rows of `held_out`.
      searched: [validation images] the texts of all their clicked queries.
    """

    query_ids: np.ndarray
    queries: list[str]
    train: ClickedQueries
    held_out: ClickedQueries
    in_train: np.ndarray
    in_held_out: np.ndarray
    has_head: np.ndarray
    searched: list[list[str]]


def load_clicks(config: Config) -> Clicks:
    """Reads the pairs of head queries.

    Raises:
      PhraseLensError: there is no training image with a clicked head query.
    """
    dataset = Dataset(config.mined)
    columns = ["query_id", "query", "train_clicks", "train_images", "head"]
    table = dataset.table("queries", columns)
    query_ids = head_queries(table, config.head_queries, config.min_query_images)
    texts = table["query"].to_pylist()
    image_ids = dataset.table("images", ["image_id"])["image_id"]
    pairs = dataset.table("pairs", ["image_id", "query_id", "split", "weight"])
    train, in_train = ClickedQueries.from_pairs(pairs, "train", image_ids, query_ids)
    every, in_held_out = ClickedQueries.from_pairs(
        pairs, "validation", image_ids, table["query_id"].to_numpy(), config.validation_images
    )
    chosen = image_ids.filter(pa.array(in_held_out))
    pairs = pairs.filter(pc.is_in(pairs["image_id"], value_set=chosen))
    held_out, in_head = ClickedQueries.from_pairs(pairs, "validation", image_ids, query_ids)
    if not train.rows:
        raise PhraseLensError(
            f"table 'pairs' of {config.mined}",
            "training images with clicked queries",
            "Check the click log, its image keys, and --min_query_images.",
        )
    searched = [[texts[i] for i in every.of(np.array([row]))[1]] for row in range(every.rows)]
    places = pc.index_in(pa.array(query_ids), table["query_id"]).to_pylist()
    return Clicks(
        query_ids,
        [texts[place] for place in places],
        train,
        held_out,
        in_train,
        in_held_out,
        in_head[in_held_out],
        searched,
    )


def work(config: Config, stage: Stage) -> int:
    # TensorFlow takes seconds to load; --help and a finished stage need none of it.
    import keras

    from model_code import backbones, image_ops, text_generator, training
    from model_code.image_source import ArraySource, ImageSource, features_of

    training.set_seed(config.seed)
    spec = backbones.spec(config.backbone)
    clicks, mined = load_clicks(config), Dataset(config.mined)
    print(
        f"{len(clicks.query_ids):,} head queries on {clicks.train.rows:,} training and "
        f"{len(clicks.searched):,} validation images",
        flush=True,
    )
    size = config.image_size or spec.image_size
    backbone = backbones.pretrained(
        config.backbone, size, config.weights, "--weights", config.small_resnet_width
    )
    features = backbone.output_shape[1]
    hidden = [int(units) for units in config.head_hidden if int(units)]
    head = text_generator.build_head(features, hidden, config.width)
    images = [
        ImageSource(mined, keep, size, config.cache_bytes, f"decode {split} images")
        for keep, split in ((clicks.in_train, "training"), (clicks.in_held_out, "validation"))
    ]
    train: ImageSource | ArraySource
    held_out: ImageSource | ArraySource
    train, held_out = images
    if config.trainable == "head":
        encode = backbones.encoder(backbone, spec.preprocessing)
        train, held_out = (
            features_of(source, encode, features, stage.scratch, f"{split} features")
            for source, split in zip(images, ("training", "validation"), strict=True)
        )
        tower = head

        def prepare(inputs, seed):
            return inputs
    else:
        if config.weights:
            backbones.freeze_batch_norm(backbone)
        tower = keras.Model(backbone.inputs, head(backbone.output))

        def prepare(inputs, seed):
            if config.augment and seed is not None:
                inputs = image_ops.augment(inputs, seed)
            return image_ops.preprocess(spec.preprocessing, inputs)

    batch_size = min(config.batch_size, train.rows)
    steps = train.rows // batch_size
    trainer = text_generator.Trainer(
        tower,
        prepare,
        len(clicks.query_ids),
        config.sampled_queries if len(clicks.query_ids) > config.full_softmax_max else 0,
        config.temperature,
        config.learning_rate,
        config.weight_decay,
        config.query_learning_rate,
        config.epochs * steps,
        config.seed,
    )

    def batches(epoch: int) -> Iterator[tuple]:
        targets = clicks.train.targets(config.max_positives, config.seed, epoch)
        for step, (rows, inputs) in enumerate(train.shuffled(batch_size, config.seed, epoch)):
            yield inputs, *targets.of(rows), np.array([config.seed, epoch * steps + step], np.int32)

    def evaluate() -> dict[str, float]:
        if not held_out.rows:
            return {"temperature": trainer.temperature}
        embs = np.concatenate([trainer.embed(x).numpy() for x in held_out.in_order(256)])
        top = text_generator.top_queries(embs, trainer.vectors(), 3)
        phrases = [[clicks.queries[query] for query in row] for row in top]
        metrics = {"word_f1": text_generator.word_f1(phrases, clicks.searched)}
        if clicks.held_out.rows:
            ranks = text_generator.best_ranks(
                embs[clicks.has_head], trainer.vectors(), clicks.held_out
            )
            metrics |= text_generator.retrieval_metrics(ranks)
        return metrics | {"temperature": trainer.temperature}

    history = training.fit(
        NAME,
        stage.scratch,
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
        "backbone": config.backbone,
        "backbone_fingerprint": backbones.fingerprint_of(config.backbone, backbone),
        "image_size": size,
        "preprocessing": spec.preprocessing,
        "width": config.width,
        "head_queries": len(clicks.query_ids),
        "temperature": trainer.temperature,
    }
    vectors = trainer.vectors()
    local = stage.empty_folder("model")
    training.write_logs(history, stage.scratch, local)
    backbone.save(os.path.join(local, "backbone.keras"))
    head.save(os.path.join(local, "head.keras"))
    np.save(os.path.join(local, "query_ids.npy"), clicks.query_ids)
    np.save(os.path.join(local, "query_vectors.npy"), vectors)
    with open(os.path.join(local, "config.json"), "w") as f:
        json.dump(description, f, indent=1)
    arrays = [*backbone.get_weights(), *head.get_weights(), clicks.query_ids, vectors]
    counters = {
        "queries": len(clicks.query_ids),
        "training_images": clicks.train.rows,
        "training_pairs": len(clicks.train.queries),
        "validation_images": len(clicks.searched),
    }
    stage.commit_files("model", local, counters, fingerprint.of_arrays(description, arrays))
    best = history.epochs[history.best_epoch - 1]
    shown = ", ".join(f"{k} {v:.3f}" for k, v in best.items() if k != "epoch")
    print(f"{NAME}: epoch {history.best_epoch} of {len(history.epochs)} is best: {shown}")
    print(
        f"next: python -m beam_jobs.embed_phrases --mined={config.mined} "
        f"--generator={config.output} …  (see its --help)"
    )
    return 0


def run(argv: Sequence[str] | None = None) -> int:
    return command.main(
        NAME,
        Config,
        __doc__,
        argv,
        work,
        lambda config: {"mined": config.mined},
        ["model_code.train_text_generator"],
        lambda config: command.weights_input(config.weights),
    )


if __name__ == "__main__":
    sys.exit(run())
