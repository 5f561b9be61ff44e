"""Prepares the pixel embedder: the bottleneck of a network that knows images.

With --weights it is that network as it comes, and nothing is trained. Without, the network
and a bottleneck learn to classify the labelled training images of a mined dataset, stop when
the validation images say so, and lose their classifier.

  ./run.sh train pixel_embedder --mined=work/mined --output=work/pixel_embedder \\
      --weights=mobilenet.weights.h5
  ./run.sh train pixel_embedder --mined=work/mined --output=work/pixel_embedder \\
      --backbone=small_resnet --epochs=30
"""

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from model_code.metrics.labelling import task_of
from model_code.models.fusion.few_labels import keep_first
from model_code.runtime.settings import BACKBONES, training_device
from schemas.base import fingerprint
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.runs import command
from schemas.runs.stage import Stage

NAME = "train_pixel_embedder"


@dataclasses.dataclass(frozen=True)
class Config:
    mined: str = flag("Mined dataset.", role="input")
    output: str = flag("Dataset to write.", role="output")
    backbone: str = flag(
        "Network.",
        default="mobilenet",
        choices=BACKBONES,
    )
    weights: str = flag(
        "Its weights: a .weights.h5, .h5 or .keras file, local or gs://; 'imagenet' to download "
        "them; none to train on the labelled images.",
        default="",
        role="input",
    )
    image_size: int = flag(
        "Side of the images in pixels; 0 for the network's own.", default=0, minimum=0
    )
    small_resnet_width: int = flag("Channels of small_resnet's first stage.", default=16, minimum=1)
    pixel_width: int = flag(
        "Dimensions of the bottleneck that is trained; with --weights they are the network's.",
        default=1024,
        minimum=1,
    )
    labels_per_class: int = flag(
        "Train on the first n labelled images of each class; 0 for all.", default=0, minimum=0
    )
    epochs: int = flag("Epochs, at most.", default=30, minimum=1)
    batch_size: int = flag("Images a step.", default=64, minimum=1)
    learning_rate: float = flag("First learning rate (AdamW).", default=1e-3, above=0)
    weight_decay: float = flag("Weight decay.", default=1e-2, minimum=0)
    patience: int = flag("Epochs without a better one before training stops.", default=8, minimum=1)
    augment: bool = flag("Flip, crop and tint training images.", default=True)
    seed: int = flag("Seed of all randomness.", default=0, minimum=0, maximum=2**32 - 1)
    cache_bytes: int = flag(
        "Keep decoded images in memory up to this many bytes, else stream them.",
        default=4 << 30,
        role="runtime",
        minimum=0,
    )
    device: str = training_device()
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")


@dataclasses.dataclass(frozen=True)
class Labelled:
    """The labelled images of one split.

    Attributes:
      keep: [rows of the images table] bool, which they are.
      targets: [images, classes] float32, 1 for the classes of an image; where an image has one
        class, those of several share the 1.
    """

    keep: np.ndarray
    targets: np.ndarray


def load_labels(config: Config) -> tuple[list[str], str, Labelled, Labelled]:
    """The classes, the task (see `task_of`), and the labelled training and validation images.

    Raises:
      PhraseLensError: fewer than two classes are labelled in the training images.
    """
    images = Dataset(config.mined).table("images", ["image_id", "split", "labels"])
    labels, split = images["labels"].to_pylist(), np.array(images["split"].to_pylist())
    ids = images["image_id"].to_pylist()
    chosen = [of if of and part == "train" else [] for of, part in zip(labels, split, strict=True)]
    train = keep_first(chosen, ids, config.labels_per_class)
    classes = sorted({label for row in np.flatnonzero(train) for label in labels[row]})
    if len(classes) < 2:
        raise PhraseLensError(
            f"table 'images' of {config.mined}",
            f"labelled training images of two classes, found {len(classes)}",
            "Give --labels to mine_pairs, or --weights to this command.",
        )
    task = task_of(sum(len(of) > 1 for of in labels), sum(bool(of) for of in labels))
    place = {label: column for column, label in enumerate(classes)}
    known = np.array([any(label in place for label in of) for of in labels])

    def labelled(keep: np.ndarray) -> Labelled:
        targets = np.zeros((int(keep.sum()), len(classes)), np.float32)
        for row, image in enumerate(np.flatnonzero(keep)):
            targets[row, [place[label] for label in labels[image] if label in place]] = 1
        if task == "single":
            targets /= targets.sum(axis=1, keepdims=True)
        return Labelled(keep, targets)

    return classes, task, labelled(train), labelled(known & (split == "validation"))


def train_bottleneck(config: Config, scratch: str, backbone: Any, size: int) -> tuple[Any, Any]:
    """Trains backbone, bottleneck and classifier on the labelled images.

    Args:
      scratch: folder for checkpoints.
      backbone: a Keras model with random weights; `size` is the side of its images.

    Returns:
      The Keras model from preprocessed images to the bottleneck, and the history.
    """
    import keras

    from model_code.images import backbones
    from model_code.images.source import ImageSource
    from model_code.models.pixel_embedder import network
    from model_code.runtime import training

    classes, task, train, held_out = load_labels(config)
    mined, preprocessing = Dataset(config.mined), backbones.spec(config.backbone).preprocessing
    images = ImageSource(mined, train.keep, size, config.cache_bytes, "decode training images")
    held_out_images = ImageSource(
        mined, held_out.keep, size, config.cache_bytes, "decode validation images"
    )
    embedder, classifier = network.build(backbone, config.pixel_width, len(classes))
    batch_size = min(config.batch_size, images.rows)
    steps = images.rows // batch_size
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.epochs * steps)
    optimizer = keras.optimizers.AdamW(schedule, config.weight_decay)
    optimizer.build(classifier.trainable_variables)

    def batches(epoch: int) -> Iterator[tuple]:
        for number, (rows, pixels) in enumerate(images.shuffled(batch_size, config.seed, epoch)):
            seed = np.array([config.seed, epoch * steps + number], np.int32)
            yield pixels, train.targets[rows], seed

    predict = backbones.encoder(classifier, preprocessing)
    history = training.fit(
        NAME,
        scratch,
        {"classifier": classifier, "optimizer": optimizer},
        batches,
        network.training_step(classifier, optimizer, task, preprocessing, augment=config.augment),
        functools.partial(network.evaluate, predict, held_out_images, held_out.targets, task),
        epochs=config.epochs,
        steps_per_epoch=steps,
        monitor="validation_loss" if held_out_images.rows else "loss",
        maximize=False,
        patience=config.patience,
    )
    return embedder, history


def work(config: Config, stage: Stage) -> int:
    # TensorFlow takes seconds to load; --help and a finished stage need none of it.
    from model_code.images import backbones
    from model_code.images.weights import pretrained
    from model_code.runtime import training
    from model_code.runtime.devices import open_device

    open_device(config.device)
    training.set_seed(config.seed)
    spec = backbones.spec(config.backbone)
    size = config.image_size or spec.image_size
    embedder = pretrained(
        config.backbone, size, config.weights, "--weights", config.small_resnet_width
    )
    local = stage.empty_folder("model")
    name = config.backbone
    if not config.weights:
        embedder, history = train_bottleneck(config, stage.scratch, embedder, size)
        training.write_logs(history, stage.scratch, local)
        name = f"{config.backbone}+bottleneck"
        best = history.epochs[history.best_epoch - 1]
        shown = ", ".join(f"{k} {v:.3f}" for k, v in best.items() if k != "epoch")
        print(f"{NAME}: epoch {history.best_epoch} of {len(history.epochs)} is best: {shown}")
    description = {
        "backbone": name,
        "backbone_fingerprint": backbones.fingerprint_of(name, embedder),
        "image_size": size,
        "preprocessing": spec.preprocessing,
        "width": embedder.output_shape[1],
    }
    embedder.save(os.path.join(local, "backbone.keras"))
    with open(os.path.join(local, "config.json"), "w", encoding="utf-8") as f:
        json.dump(description, f, indent=1)
    model = fingerprint.of_arrays(description, embedder.get_weights())
    stage.commit_files("model", local, {}, model)
    print(f"{NAME}: {name} at {size} px, {description['width']} dimensions")
    print(
        f"next: ./run.sh embed_images --mined={config.mined} "
        f"--pixel_embedder={config.output} …  (see its --help)"
    )
    return 0


def run(argv: Sequence[str] | None = None) -> int:
    return command.main(
        NAME,
        Config,
        __doc__,
        argv,
        work,
        # Pretrained weights alone make the model: new images do not change it.
        lambda config: {} if config.weights else {"mined": config.mined},
        ["model_code.models.pixel_embedder.train"],
        lambda config: command.weights_input(config.weights),
    )


if __name__ == "__main__":
    sys.exit(run())
