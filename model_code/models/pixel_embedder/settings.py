"""The flags of the training of the pixel embedder."""

import dataclasses

from model_code.runtime.settings import BACKBONES, training_device
from schemas.console.flags import flag


@dataclasses.dataclass(frozen=True)
class Config:
    mined: str = flag("Mined dataset.", role="input")
    output: str = flag("Dataset to write.", role="output")
    backbone: str = flag("Network.", default="mobilenet", choices=BACKBONES, essential=True)
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
    epochs: int = flag("Epochs, at most.", default=30, minimum=1, essential=True)
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
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)
