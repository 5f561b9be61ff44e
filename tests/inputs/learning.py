"""What training makes of test rows, and of images with many queries; claims of the docs."""

import dataclasses
import importlib
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from model_code.metrics.clicked_queries import ClickedQueries
from model_code.models.pixel_embedder import data, settings
from model_code.models.text_embedder import data as query_pairs
from model_code.models.text_generator import sampled_softmax
from schemas.datasets.dataset import Dataset
from schemas.tables import mined as tables
from schemas.tables.vectors import vectors_to_arrow
from tests.inputs.case import Case
from tests.support.datasets.mined_dataset import jpeg, write_colours, write_mined
from tests.support.inputs.poisoned import NEW_QUERY, poison
from transforms.phrases import prototypes
from transforms.training_data import known_queries, select
from transforms.training_data.known_queries import Limits

LEARNING, SAMPLED, CLAIMS = (
    "learning from the test split",
    "sampled positives",
    "claims of the docs",
)
DOCS = Path(__file__).resolve().parents[2] / "docs"


def worlds(folder: Path) -> tuple[Dataset, Dataset]:
    """Squares with their clicks, and the same with other test images."""
    first = write_colours(str(folder / "first"), per_colour=10, size=8)
    rows = [first.table(name).to_pylist() for name in ("images", "pairs", "queries")]
    changed = poison(*rows, lambda image: jpeg((128, 128, 128), len(image), size=8))
    return first, write_mined(str(folder / "second"), *changed, [])


def vocabulary(folder: Path) -> str:
    first, second = (
        known_queries.vocabulary(mined.table("queries"), Limits(5, 1, 9)).to_pylist()
        for mined in worlds(folder)
    )
    return "the head queries stay, in the same order" if first == second else "others"


def classes(folder: Path) -> str:
    found = [data.load_labels(settings.Config(mined.root, "")) for mined in worlds(folder)]
    names = [names for names, *_ in found]
    rows = [[part.keep.tolist() for part in parts] for _, _, *parts in found]
    assert names[0] == names[1]
    assert rows[0] == rows[1]
    return f"the pixel embedder learns {', '.join(names[1])}, from the same images"


def texts(folder: Path) -> str:
    found = query_pairs.load_associations(worlds(folder)[1]).texts
    return f"the text embedder trains on it: {NEW_QUERY in found.to_pylist()}"


def labels_of(*rows: tuple[str, str]) -> pa.Table:
    columns = [str(i) for i in range(len(rows))], *zip(*rows, strict=True)
    return pa.table([columns[0], columns[1], [[label] for label in columns[2]]], select.LABELLED)


def rare_label(_: Path) -> str:
    rows = [("train", "cat")] * 3 + [("train", "owl"), *[("test", "owl")] * 9]
    chosen = select.select(select.label_sets(labels_of(*rows)).items(), 2, "single").labels
    return f"classes: {', '.join(sorted(chosen))}"


def unknown_label(_: Path) -> str:
    rows = labels_of(("train", "cat"), ("test", "owl"))
    kept = "owl" in select.select(select.label_sets(rows).items(), 1, "single").labels
    return f"its images stay: {kept}; without a class of theirs they count as wrong"


def prototype(_: Path) -> str:
    vectors = np.eye(3, dtype=np.float32)
    splits = ["train", "test", "train"]
    embs = pa.table(
        [["a", "b", "c"], splits, vectors_to_arrow(vectors)],
        prototypes.image_embs_schema(3),
    )
    pairs = [
        {"image_id": image, "query_id": 7, "split": split, "score": 1.0}
        for image, split in zip("abc", splits, strict=True)
    ]
    mean = prototypes.means(
        prototypes.partial_sums(embs, pa.Table.from_pylist(pairs, tables.PAIRS))
    )
    return f"the prototype is the mean of the training images alone: {mean[0].tolist()}"


def drawn(shares: list[float], limit: int) -> np.ndarray:
    """The weights of an image's queries in each of 20,000 draws."""
    images, count = 20_000, len(shares)
    pairs = np.repeat(np.arange(images), count), np.tile(np.arange(count), images)
    clicked = ClickedQueries.from_pairs(*pairs, np.tile(shares, images), images)
    return clicked.targets(limit, 0, 1).weights.reshape(images, count).astype(float)


def frequent(_: Path) -> str:
    weights = drawn([0.9, *[0.1 / 7] * 7], 2)
    rest = weights[:, 1:].sum(1).mean()
    return f"on average it weighs {weights[:, 0].mean():.2f}, and the others {rest:.2f}"


def one_target(_: Path) -> str:
    weights = drawn([0.6, 0.4], 1)
    assert (weights.max(1) == 1).all()
    first = (weights[:, 0] > 0).mean()
    return f"one of them in each epoch, the first in {first:.0%} of the epochs"


def few(_: Path) -> str:
    weights = drawn([0.75, 0.25], 64)
    return f"all are targets with their shares: {np.unique(weights, axis=0)[0].tolist()}"


def not_drawn(own_queries: str) -> str:
    w = np.eye(3, dtype=np.float32)
    vectors = tf.Variable(w[:2])
    with tf.GradientTape() as tape:
        loss = sampled_softmax.softmax_loss(
            w[:1],
            pair_rows=[0, 0],
            pair_ids=tf.constant([0, 1], tf.int64),
            pair_weights=tf.constant([1.0, 0.0]),
            pair_vectors=vectors,
            candidate_ids=tf.range(3, dtype=tf.int64),
            candidate_vectors=w,
            log_included=tf.zeros(3),
            temperature=0.5,
            own_queries=own_queries,
        )
    moves = tape.gradient(loss, vectors).numpy()[1].any()
    return "a negative like every other query" if moves else "neither target nor negative"


def commands(_: Path) -> str:
    """Looks up every benchmark that the docs name, and its flags."""
    pages = "".join(path.read_text() for path in sorted(DOCS.rglob("*.md")))
    found = re.findall(r"\./run\.sh bench ([a-z]\w*)([^`\n]*)", pages)
    assert len(found) > 10
    for name, flags in found:
        (path,) = (DOCS.parent / "benchmarks").rglob(f"{name}.py")
        config = importlib.import_module(f"benchmarks.{path.parent.name}.{name}").Config
        known = {field.name for field in dataclasses.fields(config)} | {"write"}
        asked = set(re.findall(r"--(\w+)", flags))
        assert asked <= known, f"{name}: no {asked - known}"
    return "each is there, with the flags that they give it"


def tested_engines(_: Path) -> str:
    page = (DOCS / "operate" / "engines.md").read_text()
    named = re.findall(r"^\| (in-process|Prism|Flink|Dataflow) \|", page, re.MULTILINE)
    return f"tested with whole jobs: {', '.join(named)}"


CASES = [
    Case(
        LEARNING,
        "all test images clicked a thousand times for other queries",
        "the head queries stay, in the same order",
        vocabulary,
    ),
    Case(
        LEARNING,
        "test images with a label that no other image has",
        "the pixel embedder learns blue, green, red, from the same images",
        classes,
    ),
    Case(
        LEARNING,
        "a query that people clicked test images for and no other",
        "the text embedder trains on it: False",
        texts,
    ),
    Case(
        LEARNING,
        "`--min_label_images 2`, and a label of one training and nine test images",
        "classes: cat",
        rare_label,
    ),
    Case(
        LEARNING,
        "a label of test images alone, without `--min_label_images`",
        "its images stay: True; without a class of theirs they count as wrong",
        unknown_label,
    ),
    Case(
        LEARNING,
        "a query clicked for two training images and a test image",
        "the prototype is the mean of the training images alone: [0.5, 0.0, 0.5]",
        prototype,
    ),
    Case(
        SAMPLED,
        "eight queries of an image, one with .90 of its clicks, `--max_positives 2`",
        "on average it weighs 0.90, and the others 0.10",
        frequent,
    ),
    Case(
        SAMPLED,
        "two queries with .6 and .4 of the clicks, `--max_positives 1`",
        "one of them in each epoch, the first in 60% of the epochs",
        one_target,
    ),
    Case(
        SAMPLED,
        "no more queries than `--max_positives`",
        "all are targets with their shares: [0.75, 0.25]",
        few,
    ),
    Case(
        SAMPLED,
        "a query that is not drawn, `--own_queries share`",
        "a negative like every other query",
        lambda _: not_drawn("share"),
    ),
    Case(
        SAMPLED,
        "a query that is not drawn, `--own_queries apart`",
        "neither target nor negative",
        lambda _: not_drawn("apart"),
    ),
    Case(
        CLAIMS,
        "benchmarks that the docs name for their figures",
        "each is there, with the flags that they give it",
        commands,
    ),
    Case(
        CLAIMS,
        "engines in the table of docs/operate/engines.md",
        "tested with whole jobs: in-process, Prism, Flink",
        tested_engines,
    ),
]
