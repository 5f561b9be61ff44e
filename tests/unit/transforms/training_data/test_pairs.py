"""prepare_pairs: what its examples hold, against SQL over the mined tables and plain decoding."""

import collections
import json
import os

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from beam_jobs.models import prepare_pairs
from model_code.images import ops as image_ops
from model_code.models.text_generator.examples import PairEncoder
from schemas.base import storage
from schemas.datasets import checks, manifest
from schemas.datasets import dataset as dataset_lib
from tests.support.datasets.mined_dataset import jpeg, prepare, query_id, write_mined
from tests.support.datasets.work_folder import rows_of, tfrecords
from tests.support.inputs.poisoned import checksums, poison

TEXTS = [f"query {i}" for i in range(14)]
NOT_HEAD = (12, 13)
SIZE = 16


def mined_rows(images=60, seed=0):
    """Images of all splits with up to 5 clicked queries, some with tail queries only."""
    rng = np.random.default_rng(seed)
    rows, pairs = [], []
    for i in range(images):
        split = ("train", "train", "validation", "test")[i % 4]
        image_id = f"{rng.integers(2**60):015x}{i:017x}"
        rows.append(
            {
                "image_id": image_id,
                "keys": [f"{i}.jpg"],
                "split": split,
                "labels": [],
                "width": 24,
                "height": 24,
                "image": jpeg((i * 4, 90, 200), i, 24, "PNG" if i % 2 else "JPEG"),
            }
        )
        queries = rng.choice(len(TEXTS), i % 6, replace=False) if i % 7 else [NOT_HEAD[0]]
        weights = rng.random(len(queries)).astype(np.float32)
        for query, weight in zip(queries, weights / weights.sum(), strict=True):
            pairs.append(
                {
                    "image_id": image_id,
                    "query_id": query_id(TEXTS[query]),
                    "split": split,
                    "clicks": float(rng.integers(1, 4)),
                    "examined": 4.0,
                    "score": 1.0,
                    "weight": weight,
                }
            )
    queries = []
    for number, text in enumerate(TEXTS):
        mine = [p for p in pairs if p["query_id"] == query_id(text) and p["split"] == "train"]
        queries.append(
            {
                "query_id": query_id(text),
                "query": text,
                "language": "en",
                "clicks": 0.0,
                "images": 0,
                # Ties, so that the id decides.
                "train_clicks": float(len(mine) // 2),
                "train_images": len(mine),
                "users": 0,
                "head": number not in NOT_HEAD,
                "variants": [],
            }
        )
    return rows, pairs, queries


LIMITS = {"head_queries": 9, "min_query_images": 3, "validation_images": 8}


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    rows, pairs, queries = mined_rows()
    return write_mined(str(tmp_path_factory.mktemp("mined")), rows, pairs, queries, [])


@pytest.fixture(scope="module")
def prepared(mined, tmp_path_factory):
    flags = [f"--{name}={value}" for name, value in (LIMITS | {"image_size": SIZE}).items()]
    return dataset_lib.Dataset(prepare(mined.root, str(tmp_path_factory.mktemp("pairs")), *flags))


def examples(dataset, split):
    """Feature name → values, of each example of a split in the order of its shards."""
    for shard in dataset.shards(split):
        for record in tfrecords(dataset.path(shard)):
            features = tf.train.Example.FromString(record).features.feature
            kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
            yield {n: list(getattr(features[n], k).value) if k else [] for n, k in kinds.items()}


def sql(mined, query):
    """Runs SQL over the mined tables; `head` has the ranks of head queries."""
    connection = duckdb.connect()
    for name in ("images", "pairs", "queries"):
        parts = [
            pa.Table.from_batches([b]).append_column("shard", pa.array([s.index] * b.num_rows))
            for s in mined.shards(name)
            for b in [pq.read_table(mined.path(s)).combine_chunks().to_batches()[0]]
        ]
        connection.register(name, pa.concat_tables(parts))
    connection.sql(f"""
        create view head as select *, row_number() over (order by train_clicks desc, query_id) - 1
        as rank from queries where head and train_images >= {LIMITS["min_query_images"]}
        qualify rank < {LIMITS["head_queries"]}""")
    return connection.sql(query).fetchall()


def test_vocabulary_is_the_head_by_clicks(mined, prepared):
    expected = sql(
        mined, "select rank, query_id, query, language, train_clicks, train_images from head"
    )
    found = prepared.table("vocabulary")
    assert [tuple(row.values()) for row in found.to_pylist()] == sorted(expected)
    assert 3 < found.num_rows <= LIMITS["head_queries"]


CLICKED = """
    select image_id, list(rank order by rank), list(weight / total order by rank)
    from (select image_id, rank, weight, sum(weight) over (partition by image_id) as total
          from pairs join head using (query_id) where pairs.split = '{split}')
    group by image_id"""


def test_training_examples_are_the_images_with_head_queries(mined, prepared):
    expected = {i: rest for i, *rest in sql(mined, CLICKED.format(split="train"))}
    found = list(examples(prepared, "train"))
    assert {example["image_id"][0].decode() for example in found} == set(expected)
    assert len(found) == len(expected) < 30
    for example in found:
        ranks, weights = expected[example["image_id"][0].decode()]
        assert example["queries"] == ranks
        assert example["weights"] == pytest.approx(weights, rel=1e-6)
        assert "texts" not in example


def test_validation_examples_are_the_first_images_with_any_query(mined, prepared):
    first = sql(
        mined,
        f"""select image_id, list(query order by query) from pairs join queries using (query_id)
        where split = 'validation' group by image_id, pairs.shard order by pairs.shard, image_id
        limit {LIMITS["validation_images"]}""",
    )
    clicked = {i: rest for i, *rest in sql(mined, CLICKED.format(split="validation"))}
    found = list(examples(prepared, "validation"))
    assert [example["image_id"][0].decode() for example in found] == [row[0] for row in first]
    assert len(found) == LIMITS["validation_images"]
    for example, (image_id, texts) in zip(found, first, strict=True):
        ranks, weights = clicked.get(image_id, ([], []))
        assert [text.decode() for text in example["texts"]] == texts
        assert example["queries"] == ranks
        assert example["weights"] == pytest.approx(weights, rel=1e-6)
    assert any(not example["queries"] for example in found), "no image without a head query"


def test_pixels_are_those_that_serving_decodes(mined, prepared):
    files = {row["image_id"]: row["image"] for row in mined.table("images").to_pylist()}
    for split in ("train", "validation"):
        found = list(examples(prepared, split))
        data = tf.constant([files[example["image_id"][0].decode()] for example in found])
        expected = image_ops.decode_and_resize(data, SIZE).numpy()
        pixels = np.stack([np.frombuffer(example["image"][0], np.uint8) for example in found])
        np.testing.assert_array_equal(pixels.reshape(expected.shape), expected)


def test_every_image_is_an_example_or_counted(mined, prepared):
    counters = prepared.manifest.counters
    splits = collections.Counter(mined.table("images", ["split"])["split"].to_pylist())
    assert counters["images.in"] == splits.total() == 60
    assert counters["images.dropped_test_split"] == splits["test"]
    assert counters["images.dropped_surplus_validation"] > 0
    assert counters["images.dropped_no_query"] > 0
    for split in ("train", "validation"):
        found = list(examples(prepared, split))
        assert counters[f"{split}.images"] == len(found)
        assert counters[f"{split}.pairs"] == sum(len(e["queries"]) for e in found)
    assert checks.verify(prepared.root) == []


def test_other_test_images_and_clicks_change_no_byte(mined, prepared, tmp_path):
    images, pairs, queries = mined_rows()
    changed = poison(images, pairs, queries, lambda image: jpeg((9, 9, 9), len(image), 24))
    write_mined(str(tmp_path / "mined"), *changed, [])
    flags = [f"--{name}={value}" for name, value in (LIMITS | {"image_size": SIZE}).items()]
    found = dataset_lib.Dataset(prepare(str(tmp_path / "mined"), str(tmp_path / "pairs"), *flags))
    names = ("train", "validation", "vocabulary", "metadata")
    assert checksums(found, *names) == checksums(prepared, *names)


def test_metadata_says_how_images_were_made(prepared):
    with open(f"{prepared.folder('metadata')}/config.json") as f:
        assert json.load(f) == {
            "backbone": "small_resnet",
            "image_size": SIZE,
            "image_encoding": "raw",
        }


def test_queries_are_read_once_however_many_workers_ask(mined, tmp_path, monkeypatch):
    """And what each worker reads of them is the head's ids and the texts of held-out images."""
    opened = collections.Counter()
    read = storage.open_input

    def spy(path):
        opened[path.rpartition("/runs/")[2].partition("/")[2]] += 1
        return read(path)

    monkeypatch.setattr(storage, "open_input", spy)
    root = prepare(mined.root, str(tmp_path), "--image_size=16")
    shards = mined.shards("queries")
    assert len(shards) == 2
    for shard in shards:
        assert opened[shard.path.removeprefix("runs/").partition("/")[2]] == 1
    assert [opened[f"vocabulary/part-0000{i}-of-00001.parquet"] for i in range(2)] == [1, 0]
    assert dataset_lib.Dataset(root).table("vocabulary").num_rows == len(TEXTS) - len(NOT_HEAD)


def test_a_broken_image_dies_alone(tmp_path):
    rows, pairs, queries = mined_rows(24, seed=1)
    heads = {query_id(text) for number, text in enumerate(TEXTS) if number not in NOT_HEAD}
    (broken_id, *_) = (
        p["image_id"] for p in pairs if p["split"] == "train" and p["query_id"] in heads
    )
    broken = next(row for row in rows if row["image_id"] == broken_id)
    broken["image"] = broken["image"][:40]
    write_mined(str(tmp_path / "mined"), rows, pairs, queries, [])
    argv = [f"--mined={tmp_path / 'mined'}", f"--output={tmp_path / 'pairs'}"]
    argv += ["--backbone=small_resnet", "--image_size=16", "--max_dead_fraction=0.5"]
    assert prepare_pairs.run(argv) == 0
    dataset = dataset_lib.Dataset(str(tmp_path / "pairs"))
    (dead,) = dataset.table("dead_letters").to_pylist()
    assert (dead["key"], dead["reason"]) == (broken["image_id"], "inference_failed")
    assert dataset.manifest.counters["images.dropped_inference_failed"] == 1
    ids = {example["image_id"][0].decode() for example in examples(dataset, "train")}
    assert broken["image_id"] not in ids
    assert ids


def test_a_run_that_died_goes_on_after_its_last_whole_shard(mined, tmp_path, monkeypatch):
    root = prepare(mined.root, str(tmp_path), "--image_size=16")
    expected, (first, second) = rows_of(root), dataset_lib.Dataset(root).shards("train")
    encoded = []
    encode = PairEncoder.encode

    def spy(self, files):
        encoded.extend(files)
        return encode(self, files)

    monkeypatch.setattr(PairEncoder, "encode", spy)
    os.remove(tmp_path / manifest.FILE_NAME)
    assert rows_of(prepare(mined.root, root, "--image_size=16")) == expected
    assert encoded == []
    os.remove(tmp_path / manifest.FILE_NAME)
    path = tmp_path / first.path
    path.write_bytes(path.read_bytes()[:-5])
    assert rows_of(prepare(mined.root, root, "--image_size=16")) == expected
    assert first.rows <= len(encoded) < first.rows + second.rows
    assert checks.verify(root) == []


def test_wrong_inputs_are_refused(mined, tmp_path, capsys):
    argv = [f"--mined={mined.root}", f"--output={tmp_path}"]
    assert prepare_pairs.run([*argv, "--backbone=resnet"]) == 2
    assert "resnet101" in capsys.readouterr().err
    assert prepare_pairs.run([*argv, "--image_size=-3"]) == 2
    assert "--image_size=-3: expected" in capsys.readouterr().err
    assert prepare_pairs.run([*argv, "--backbone=small_resnet", "--min_query_images=99"]) == 2
    assert "table 'train': expected at least one row" in capsys.readouterr().err
    assert manifest.read(str(tmp_path)) is None
