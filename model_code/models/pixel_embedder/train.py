"""Prepares the pixel embedder: the bottleneck of a network that knows images.

With --weights it is that network as it comes, and nothing is trained. Without, the network
and a bottleneck learn to classify the labelled training images of a mined dataset, stop when
the validation images say so, and lose their classifier.

  ./run.sh train pixel_embedder --mined=work/mined --output=work/pixel_embedder \\
      --weights=mobilenet.weights.h5
  ./run.sh train pixel_embedder --mined=work/mined --output=work/pixel_embedder \\
      --backbone=small_resnet --epochs=30
"""

import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from model_code.models.pixel_embedder.data import load_labels
from model_code.models.pixel_embedder.settings import Config
from schemas.base import fingerprint
from schemas.console import program
from schemas.datasets.dataset import Dataset
from schemas.runs import command
from schemas.runs.run import Run

NAME = "train_pixel_embedder"
MODULES = ("model_code.models.pixel_embedder.train",)


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
            yield pixels, train.targets.of(rows), seed

    predict = backbones.encoder(classifier, preprocessing)
    history = training.fit(
        NAME,
        scratch,
        {"classifier": classifier, "optimizer": optimizer},
        batches,
        network.training_step(classifier, optimizer, task, preprocessing, augment=config.augment),
        evaluate=functools.partial(
            network.evaluate, predict, held_out_images, held_out.targets, task
        ),
        epochs=config.epochs,
        steps_per_epoch=steps,
        monitor="validation_loss" if held_out_images.rows else "loss",
        maximize=False,
        patience=config.patience,
    )
    return embedder, history


def work(config: Config, run: Run) -> int:
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
    local = run.empty_folder("model")
    name = config.backbone
    if not config.weights:
        embedder, history = train_bottleneck(config, run.scratch, embedder, size)
        training.write_logs(history, run.scratch, local)
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
    run.commit_files("model", local, {}, model)
    print(f"{NAME}: {name} at {size} px, {description['width']} dimensions")
    following = program.command(
        "embed_images",
        mined=config.mined,
        generator=program.beside(config.output, "text_generator"),
        pixel_embedder=config.output,
        phrases=program.beside(config.output, "phrases"),
        output=program.beside(config.output, "features"),
    )
    print(f"next: {following}")
    return 0


def run(argv: Sequence[str] | None = None) -> int:
    return command.main(
        NAME,
        Config,
        __doc__,
        argv,
        work=work,
        # Pretrained weights alone make the model: new images do not change it.
        datasets=lambda config: {} if config.weights else {"mined": config.mined},
        modules=MODULES,
        raw_inputs=lambda config: command.weights_input(config.weights),
    )


if __name__ == "__main__":
    sys.exit(run())
