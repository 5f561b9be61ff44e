"""The text generator's mathematics against plain NumPy, and its command end to end."""

import functools
import json

import keras
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_code.metrics.clicked_queries import ClickedQueries, Places, head_queries
from model_code.models.text_generator import network
from model_code.models.text_generator import train as train_text_generator
from model_code.models.text_generator import trainer as text_generator
from model_code.runtime import training
from schemas.datasets import checks, manifest
from schemas.datasets import dataset as dataset_lib
from tests.support.datasets.mined_dataset import NAMES, prepare, query_id, write_colours


def trainer_of(head, queries, **changed):
    settings = {
        "sampled_queries": 0,
        "temperature": 0.0,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "query_learning_rate": 0.05,
        "steps": 10,
        "seed": 0,
    }
    return text_generator.Trainer(head, lambda x, seed: x, queries, **settings | changed)


def unit(rng, rows, width):
    x = rng.normal(size=(rows, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_step_moves_tower_queries_and_temperature_by_their_gradients():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    head = network.build_head(4, [], 3)
    trainer = trainer_of(head, 6)
    x, before = rng.normal(size=(2, 4)).astype(np.float32), trainer.table.shards[0].numpy()
    rows, ids = np.array([0, 1, 1]), np.array([2, 2, 5])
    weights = np.array([1, 0.25, 0.75], np.float32)
    temperature = trainer.temperature
    embs = trainer.embed(x).numpy().astype(np.float64)

    def loss(table):
        w = table / np.linalg.norm(table, axis=1, keepdims=True)
        z = (embs @ w.T - 1) / temperature
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        return -(weights * log_p[rows, ids]).sum() / 2

    gradient = np.zeros_like(before, np.float64)
    for place in np.ndindex(before.shape):
        shift = np.zeros_like(gradient)
        shift[place] = 1e-6
        gradient[place] = (loss(before + shift) - loss(before - shift)) / 2e-6
    squares = np.mean(gradient**2, 1, keepdims=True)
    expected = before - 0.05 * gradient / (np.sqrt(1e-6 + squares) + 1e-7)
    first = float(trainer.step(x, rows, ids, weights, np.array([0, 1], np.int32)))
    assert first == pytest.approx(loss(before), rel=1e-5)
    np.testing.assert_allclose(trainer.table.shards[0].numpy(), expected, atol=1e-4)
    assert trainer.temperature != temperature


def test_a_given_temperature_stays():
    head = network.build_head(4, [5], 3)
    trainer = trainer_of(head, 6, temperature=0.2)
    x, one = np.ones((1, 4), np.float32), np.array([0])
    trainer.step(x, one, one, np.ones(1, np.float32), np.array([0, 1], np.int32))
    assert trainer.temperature == pytest.approx(0.2)


def test_head_queries_are_the_best_supported():
    queries = pa.table(
        {
            "query_id": pa.array([4, 3, 2, 1, 0, 5], pa.int64()),
            "train_clicks": [5.0, 5.0, 9.0, 50.0, 1.0, 99.0],
            "train_images": pa.array([2, 2, 1, 0, 3, 9], pa.int64()),
            "head": [True] * 5 + [False],
        }
    )
    assert head_queries(queries, 10, 1)["query_id"].to_pylist() == [2, 3, 4, 0]
    assert head_queries(queries, 2, 2)["query_id"].to_pylist() == [3, 4]


def plain_probabilities(shares, limit):
    """min(1, c · share) with the c at which they sum to the limit, found by bisection."""
    if len(shares) <= limit:
        return np.ones(len(shares))
    low, high = 0.0, limit / shares.min()
    for _ in range(200):
        middle = (low + high) / 2
        is_less = np.minimum(1, middle * shares).sum() <= limit
        low, high = (middle, high) if is_less else (low, middle)
    return np.minimum(1, low * shares)


IMAGES = st.lists(
    st.lists(st.floats(1e-3, 1e3), min_size=0, max_size=9), min_size=1, max_size=6
).filter(any)


@given(IMAGES, st.integers(1, 5), st.integers(0, 99))
def test_a_drawn_query_weighs_its_share_over_its_probability(images, limit, epoch):
    counts = [len(image) for image in images]
    offsets = np.cumsum([0, *counts])
    pairs = np.repeat(np.arange(len(images)), counts), np.arange(offsets[-1])
    clicked = ClickedQueries.from_pairs(*pairs, np.concatenate(images), len(images))
    drawn = clicked.targets(limit, 0, epoch)
    np.testing.assert_array_equal(drawn.queries, clicked.queries)
    for row, image in enumerate(images):
        if not image:
            continue
        mine = drawn.weights[offsets[row] : offsets[row + 1]]
        shares = np.array(image) / sum(image)
        expected = shares / plain_probabilities(shares, limit)
        assert (mine > 0).sum() == min(len(image), limit)
        np.testing.assert_allclose(mine[mine > 0], expected[mine > 0], rtol=1e-5)
        assert mine.sum() == pytest.approx(1, rel=1e-5)
    again = clicked.targets(limit, 0, epoch)
    np.testing.assert_array_equal(drawn.weights, again.weights)


SHARES = np.array([0.9, 0.04, 0.03, 0.01, 0.01, 0.005, 0.003, 0.002])


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_the_mean_weight_over_the_draws_is_the_share(limit):
    draws, count = 20_000, len(SHARES)
    pairs = np.repeat(np.arange(draws), count), np.tile(np.arange(count), draws)
    clicked = ClickedQueries.from_pairs(*pairs, np.tile(SHARES, draws), draws)
    weights = clicked.targets(limit, 5, 7).weights.reshape(draws, count)
    probabilities = plain_probabilities(SHARES, limit)
    error = SHARES * np.sqrt((1 / probabilities - 1) / draws)
    assert (np.abs(weights.mean(0, dtype=float) - SHARES) <= 4.5 * error + 1e-6).all()


def test_a_share_is_learned_as_itself_whatever_is_drawn():
    keras.utils.set_random_seed(0)
    head = network.build_head(4, [], 8)
    trainer = trainer_of(head, 8, temperature=0.2, query_learning_rate=0.1, steps=400)
    one = ClickedQueries(np.array([0, 8]), np.arange(8), SHARES.astype(np.float32))
    x = np.ones((1, 4), np.float32)
    for epoch in range(400):
        trainer.step(x, *one.targets(2, 0, epoch).pairs(), np.array([0, epoch], np.int32))
    scores = (trainer.embed(x).numpy() @ trainer.vectors().T)[0] / trainer.temperature
    learned = np.exp(scores) / np.exp(scores).sum()
    assert learned[0] == pytest.approx(0.9, abs=0.03)


def test_what_is_drawn_for_an_image_does_not_depend_on_its_batch():
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(9), 6)
    queries = np.concatenate([rng.choice(50, 6, replace=False) for _ in range(9)])
    clicked = ClickedQueries.from_pairs(images, queries, rng.random(54), 9)
    whole = clicked.targets(2, 3, 4)
    for rows in (np.array([7]), np.array([2, 8, 0]), rng.permutation(9)):
        batch = clicked.select(rows).targets(2, 3, 4, rows)
        for found, expected in zip(batch.pairs(), whole.of(rows), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(whole.weights, clicked.targets(2, 3, 5).weights)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=9), st.integers())
def test_places_are_those_of_a_search(ids, other):
    asked = [*ids, max(-(2**63), min(other, 2**63 - 1))]
    expected = [ids.index(i) if i in ids else -1 for i in asked]
    assert Places(np.array(ids, np.int64)).of(np.array(asked, np.int64)).tolist() == expected


FLAGS = [
    "--small_resnet_width=8",
    "--batch_size=8",
    "--epochs=6",
    "--width=16",
    "--learning_rate=0.01",
]
SAMPLED = ("--full_softmax_max=1", "--sampled_queries=20")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    root = tmp_path_factory.mktemp("work")
    write_colours(str(root / "mined"))
    return prepare(str(root / "mined"), str(root / "pairs"), "--image_size=16")


@pytest.fixture(scope="module")
def learned(pairs, tmp_path_factory):
    """What the command made, by its flags beside FLAGS."""

    @functools.cache
    def run(*extra):
        output = tmp_path_factory.mktemp("learned")
        assert (
            train_text_generator.run([f"--pairs={pairs}", f"--output={output}", *FLAGS, *extra])
            == 0
        )
        return output

    return run


def model_of(output):
    dataset = dataset_lib.Dataset(str(output))
    folder = dataset.folder("model")
    with open(f"{folder}/config.json") as f:
        config = json.load(f)
    return folder, config, dataset.manifest


@pytest.mark.parametrize("extra", [(), SAMPLED])
def test_command_learns_the_queries_of_colours(learned, extra):
    output = learned(*extra)
    folder, _, found = model_of(output)
    with open(f"{folder}/history.json") as f:
        history = json.load(f)
    # Each image was clicked for two of its colour's three names, among nine queries.
    assert history["epochs"][history["best_epoch"] - 1]["recall_at_3"] > 0.8
    vectors, ids = np.load(f"{folder}/query_vectors.npy"), np.load(f"{folder}/query_ids.npy")
    assert vectors.shape == (9, 16)
    assert set(ids) == {query_id(query) for names in NAMES.values() for query in names}
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert found.counters["training_images"] == 42
    assert checks.verify(str(output)) == []


def test_a_killed_command_ends_with_the_model_of_an_undisturbed_one(
    pairs, learned, tmp_path, monkeypatch
):
    whole = training.fit

    def die(epoch):
        if epoch == 2:
            raise KeyboardInterrupt

    argv = [f"--pairs={pairs}", f"--output={tmp_path}", *FLAGS, *SAMPLED]
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", functools.partial(whole, after_epoch=die))
        with pytest.raises(KeyboardInterrupt):
            train_text_generator.run(argv)
    assert manifest.read(str(tmp_path)) is None
    assert train_text_generator.run(argv) == 0
    found, expected = (model_of(output)[2] for output in (tmp_path, learned(*SAMPLED)))
    assert found.model_fingerprint == expected.model_fingerprint


def test_head_on_a_frozen_network(pairs, tmp_path):
    flags = [*FLAGS, "--trainable=head", "--head_hidden=24", "--epochs=40"]
    assert train_text_generator.run([f"--pairs={pairs}", f"--output={tmp_path}", *flags]) == 0
    folder, _, _ = model_of(tmp_path)
    head = keras.saving.load_model(f"{folder}/head.keras")
    assert [layer.units for layer in head.layers if hasattr(layer, "units")] == [24, 16]
    with open(f"{folder}/history.json") as f:
        assert max(row["recall_at_3"] for row in json.load(f)["epochs"]) > 0.5


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--image_size=32", "expected 32 × 32 pixels for small_resnet, found 16 × 16"),
        ("--backbone=mobilenet", "expected 224 × 224 pixels for mobilenet, found 16 × 16"),
        ("--backbone=resnet", "resnet101"),
    ],
)
def test_another_network_or_size_than_the_pairs_were_made_for(pairs, tmp_path, capsys, flag, says):
    assert train_text_generator.run([f"--pairs={pairs}", f"--output={tmp_path}", flag]) == 2
    assert says in capsys.readouterr().err
    assert manifest.read(str(tmp_path)) is None
