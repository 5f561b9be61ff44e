"""The flags of the training of the text embedder."""

import dataclasses

from model_code.runtime.settings import training_device
from schemas.console.flags import flag


@dataclasses.dataclass(frozen=True)
class Config:
    mined: str = flag("Mined dataset (beam_jobs.mining.mine_pairs).", role="input")
    output: str = flag("Dataset to write.", role="output")
    width: int = flag("Width of the embedding.", default=200, minimum=1, essential=True)
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
    epochs: int = flag("At most this many epochs.", default=20, minimum=1, essential=True)
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
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)
