"""Nothing that is fitted changes by a bit when every test row is another.

prepare_pairs and embed_phrases have their tests of this beside their others
(tests/unit/transforms/training_data/test_pairs.py, tests/pipeline/models/test_embed_phrases.py).
"""

import dataclasses
import json
from collections.abc import Mapping

import keras
import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.models import prepare_examples
from model_code.models.fusion import train as train_fusion
from model_code.models.pixel_embedder import train as train_pixel_embedder
from model_code.models.text_embedder import train as train_text_embedder
from model_code.models.text_generator import train as train_text_generator
from schemas.base import fingerprint
from schemas.console.flags import flag
from schemas.datasets import commit, manifest
from schemas.datasets import shards as shards_lib
from schemas.datasets.dataset import Dataset
from schemas.runs import run as run_lib
from schemas.tables import embedded
from tests.support.datasets.examples_dataset import Rows, write_examples
from tests.support.datasets.mined_dataset import jpeg, query_id, write_colours, write_mined
from tests.support.inputs.poisoned import NEW_LABEL, NEW_QUERY, checksums, poison

WORLDS = ("as it is", "poisoned")


@pytest.fixture(scope="module")
def mined(tmp_path_factory) -> dict[str, Dataset]:
    """Squares of three colours with their queries, and the same with other test images."""
    root = tmp_path_factory.mktemp("mined")
    first = write_colours(str(root / WORLDS[0]), per_colour=20, size=12)
    rows = [first.table(name).to_pylist() for name in ("images", "pairs", "queries")]
    query_pairs = first.table("query_pairs").to_pylist()
    changed = poison(*rows, lambda image: jpeg((128, 128, 128), len(image), size=12))
    a, b = sorted((query_id(NEW_QUERY), query_pairs[0]["query_a"]))
    query_pairs.append(query_pairs[0] | {"query_a": a, "query_b": b, "weight": 99.0})
    second = write_mined(str(root / WORLDS[1]), *changed, query_pairs)
    return {WORLDS[0]: first, WORLDS[1]: second}


def model_of(output: str) -> tuple[str, dict]:
    """The fingerprint of a model's weights, and its history."""
    dataset = Dataset(output)
    with open(f"{dataset.folder('model')}/history.json") as f:
        return dataset.manifest.model_fingerprint, json.load(f)


@pytest.mark.parametrize(
    ("trainer", "flags"),
    [
        (
            train_pixel_embedder,
            [
                "--backbone=small_resnet",
                "--small_resnet_width=2",
                "--image_size=8",
                "--pixel_width=4",
                "--epochs=1",
                "--batch_size=16",
            ],
        ),
        (
            train_text_embedder,
            ["--buckets=512", "--width=8", "--epochs=2", "--batch_size=16"],
        ),
    ],
    ids=["pixel_embedder", "text_embedder"],
)
def test_a_trainer_makes_the_same_model_of_other_test_images(mined, tmp_path, trainer, flags):
    found = []
    for place, world in enumerate(WORLDS):
        output = str(tmp_path / str(place))
        assert trainer.run([f"--mined={mined[world].root}", f"--output={output}", *flags]) == 0
        found.append(model_of(output))
    assert found[0] == found[1]


def test_the_text_generator_and_the_classifiers_read_no_mined_dataset():
    """They read what prepare_pairs and prepare_examples wrote."""
    for trainer, expected in (
        (train_text_generator, {"pairs", "weights"}),
        (train_fusion, {"examples"}),
    ):
        fields = dataclasses.fields(trainer.Config)
        assert {f.name for f in fields if f.metadata["role"] == "input"} == expected


TEXT, PIXEL, CLASSES = 3, 4, ("a", "b", "c")


@dataclasses.dataclass(frozen=True)
class _Features:
    output: str = flag("Dataset.", role="runtime")
    world: str = flag("Which rows it holds.", default="")


def write_features(root: str, world: str) -> Dataset:
    """120 rows of features in two shards, of which those of the test split depend on the world."""
    rng, other = np.random.default_rng(0), np.random.default_rng(1)
    splits = ("train", "train", "train", "validation", "test")
    rows = []
    for number in range(120):
        # The last class is rare in training, but not in the test split of the other world.
        split, label = splits[number % 5], CLASSES[2 if number % 25 == 1 else number % 2]
        vectors = {"text_emb": rng.normal(size=TEXT), "pixel_emb": rng.normal(size=PIXEL)}
        if split == "test" and world == WORLDS[1]:
            vectors = {n: other.normal(5, 3, v.shape) for n, v in vectors.items()}
            label = (NEW_LABEL, *CLASSES)[number % 4]
        vectors["text_emb"] /= np.linalg.norm(vectors["text_emb"])
        rows.append(
            {"image_id": f"{number:032x}", "split": split, "labels": [label], "phrases": ["p"]}
            | {name: vector.astype(np.float32) for name, vector in vectors.items()}
        )
    table = pa.Table.from_pylist(
        rows, embedded.features({"text_emb": (TEXT,), "pixel_emb": (PIXEL,)})
    )
    planned = run_lib.plan("embed_images", _Features(root, world), [], {})
    shards = [
        shards_lib.write_parquet(
            root, planned.shard_path("features", index, 2, "parquet"), index, table.slice(start, 60)
        )
        for index, start in enumerate((0, 60))
    ]
    schema = shards_lib.schema_fingerprint(table.schema)
    written = {"features": manifest.Table("parquet", schema, tuple(shards))}
    commit.commit(root, planned.manifest(written, {}, 2), planned.seen)
    return Dataset(root)


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> list[Dataset]:
    """The examples of both worlds, of the labels with ten training images."""
    root = tmp_path_factory.mktemp("examples")
    found = []
    for place, world in enumerate(WORLDS):
        features, output = str(root / f"features-{place}"), str(root / f"examples-{place}")
        write_features(features, world)
        argv = [f"--features={features}", f"--output={output}", "--num_shards=1"]
        assert prepare_examples.run([*argv, "--min_label_images=10"]) == 0
        found.append(Dataset(output))
    return found


def test_labels_and_statistics_are_those_of_training(examples):
    first, second = examples
    assert checksums(first, "metadata") == checksums(second, "metadata")
    with open(f"{first.folder('metadata')}/labels.txt") as f:
        assert sorted(f.read().split()) == ["a", "b"]
    parts = [
        {group: content for group, *content in checksums(of, "examples")["examples"]}
        for of in examples
    ]
    for split in ("train", "validation"):
        assert parts[0][split] == parts[1][split]
    assert parts[0]["test"] != parts[1]["test"], "the worlds do not differ"


def examples_of(world: str) -> Mapping[str, Rows]:
    """A label that text and pixels hint at; in the other world test rows say the opposite."""
    rng = np.random.default_rng(2)

    def rows(count: int, text_noise: float, sign: int = 1) -> Rows:
        ids = rng.integers(0, 2, count)
        aim = sign * (2 * ids[:, None] - 1)
        text = aim + rng.normal(0, text_noise, (count, TEXT))
        pixels = aim + rng.normal(0, 2, (count, PIXEL))
        return Rows(text.astype(np.float32), pixels.astype(np.float32), ids[:, None].tolist())

    held_out = {"train": rows(80, 0.2), "validation": rows(40, 4)}
    return held_out | {"test": rows(40, 4) if world == WORLDS[0] else rows(56, 0.1, -1)}


@pytest.fixture(scope="module")
def fusion(tmp_path_factory) -> list[Dataset]:
    """The classifiers of both worlds, each with two settings to choose from."""
    root = tmp_path_factory.mktemp("fusion")
    found = []
    for place, world in enumerate(WORLDS):
        write_examples(str(root / f"examples-{place}"), examples_of(world), ["a", "b"])
        argv = [f"--examples={root}/examples-{place}", f"--output={root}/fusion-{place}"]
        argv += ["--layers=4,linear", "--weight_decays=0.1", "--pixel_scales=0.3", "--epochs=2"]
        argv += ["--min_steps=2", "--class_weights", "--labels_per_class=20"]
        assert train_fusion.run(argv) == 0
        found.append(Dataset(str(root / f"fusion-{place}")))
    return found


def json_of(dataset: Dataset, table: str, name: str) -> dict:
    with open(f"{dataset.folder(table)}/{name}.json") as f:
        return json.load(f)


def test_classifiers_their_settings_and_their_pool_are_those_of_training_and_validation(fusion):
    first, second = (json_of(of, "evaluation", "evaluation") for of in fusion)
    for part in ("labels", "validation", "tuning", "chosen", "curves", "pool"):
        assert first[part] == second[part], part
    for name in ("config", "history"):
        assert json_of(fusion[0], "model", name) == json_of(fusion[1], "model", name)
    for name in ("pixel", "text", "fused"):
        models = [keras.models.load_model(f"{of.folder('model')}/{name}.keras") for of in fusion]
        weights = [fingerprint.of_arrays(name, model.get_weights()) for model in models]
        assert weights[0] == weights[1], name
        assert first["test"][name] != second["test"][name], "the worlds do not differ"
