"""The flags of the training of the text generator, free of TensorFlow: `--help` takes no time."""

import dataclasses

from model_code.runtime.settings import BACKBONES, training_device
from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag


@dataclasses.dataclass(frozen=True)
class Config:
    pairs: str = flag("Dataset of prepare_pairs.", role="input")
    output: str = flag("Dataset to write.", role="output")
    backbone: str = flag(
        "Network; none for the one that the pairs were prepared for.",
        default="",
        choices=("", *BACKBONES),
        essential=True,
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
    epochs: int = flag("Epochs, at most.", default=20, minimum=1, essential=True)
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
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)

    def __post_init__(self):
        """Raises PhraseLensError where layers or devices are no numbers."""
        for name, texts, others in (
            ("head_hidden", self.head_hidden, ()),
            ("devices", (self.devices,), ("all",)),
        ):
            if not all(text in others or text.isdecimal() for text in texts):
                expected = " or ".join(("whole numbers", *others))
                raise PhraseLensError(f"--{name}={','.join(texts)}", expected, "Correct it.")
