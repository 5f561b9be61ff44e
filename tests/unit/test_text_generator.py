"""The text generator's mathematics against plain NumPy, and its command end to end."""

import functools
import json

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from model_code import text_generator, train_text_generator, training
from model_code.clicked_queries import ClickedQueries, head_queries
from schemas import manifest
from tests.mined_dataset import NAMES, query_id, write_colours, write_mined

TAU = 0.07


def unit(rng, rows, width):
    x = rng.normal(size=(rows, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


class Problem:
    """Five images, twelve queries, one to three clicked queries an image."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.x, self.w = unit(rng, 5, 8), unit(rng, 12, 8)
        self.targets = np.zeros((5, 12))
        for row in range(5):
            queries = rng.choice(12, 1 + row % 3, replace=False)
            self.targets[row, queries] = rng.dirichlet(np.ones(len(queries)))
        self.rows, self.ids = np.nonzero(self.targets)

    def loss(self, candidates, log_included) -> float:
        weights = self.targets[self.rows, self.ids].astype(np.float32)
        return float(
            text_generator.softmax_loss(
                self.x,
                self.rows,
                self.ids,
                weights,
                self.w[self.ids],
                candidates,
                self.w[candidates],
                log_included,
                TAU,
            )
        )

    def full(self) -> float:
        distance = 1 - self.x.astype(np.float64) @ self.w.T
        p = np.exp(-distance / TAU)  # Equation (1), word for word.
        p /= p.sum(1, keepdims=True)
        return -(self.targets * np.log(p)).sum() / 5


@pytest.fixture(scope="module")
def problem():
    return Problem()


def test_logits_make_equation_1(problem):
    cosine = problem.x @ problem.w.T
    p = tf.nn.softmax(text_generator.logits(cosine, TAU)).numpy()
    expected = np.exp(-(1 - cosine) / TAU)
    np.testing.assert_allclose(p, expected / expected.sum(1, keepdims=True), rtol=1e-5)


def test_full_loss_is_the_cross_entropy(problem):
    ids, log_included = text_generator.candidates(12, 0, [0, 0])
    assert problem.loss(ids, log_included) == pytest.approx(problem.full(), rel=1e-5)


def test_own_queries_count_once_whether_sampled_or_not(problem):
    own = np.unique(problem.ids)
    others = np.setdiff1d(np.arange(12), own)
    row = 0
    mine = problem.ids[problem.rows == row]
    one = Problem()
    one.x, one.targets = problem.x[[row] * 5], problem.targets[[row] * 5]
    one.rows, one.ids = np.nonzero(one.targets)
    without = np.setdiff1d(np.arange(12), mine)
    assert len(others) > 0
    assert one.loss(without, np.zeros(len(without), np.float32)) == pytest.approx(
        one.loss(np.arange(12), np.zeros(12, np.float32)), rel=1e-6
    )


def test_probability_of_a_candidate_is_the_share_of_samples_that_hold_it():
    trials, draws = 1000, 6
    held = np.zeros(12)
    for trial in range(trials):
        ids, log_included = text_generator.candidates(12, draws, [7, trial])
        assert (np.diff(ids) > 0).all()
        held[ids.numpy()] += 1
    p = np.log((np.arange(12) + 2) / (np.arange(12) + 1)) / np.log(13)
    assert p.sum() == pytest.approx(1)
    expected = 1 - (1 - p) ** draws
    np.testing.assert_allclose(held / trials, expected, atol=4 * np.sqrt(0.25 / trials))
    np.testing.assert_allclose(np.exp(log_included), expected[ids.numpy()], rtol=1e-5)


def test_corrected_sums_estimate_the_whole_sum(problem):
    """Horvitz–Thompson: the mean of Σ exp(logit) / P(sampled) is the sum over all queries."""
    terms = np.exp((problem.x[0].astype(np.float64) @ problem.w.T - 1) / 0.5)
    sums = []
    for trial in range(1000):
        ids, log_included = text_generator.candidates(12, 6, [1, trial])
        sums.append((terms[ids.numpy()] / np.exp(log_included)).sum())
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - terms.sum()) < 4 * error


def test_sampled_loss_approaches_the_full_one(problem):
    losses = [problem.loss(*text_generator.candidates(12, 40, [5, trial])) for trial in range(300)]
    assert np.mean(losses) == pytest.approx(problem.full(), rel=0.05)


def test_step_moves_tower_queries_and_temperature_by_their_gradients():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    head = text_generator.build_head(4, [], 3)
    trainer = text_generator.Trainer(head, lambda x, seed: x, 6, 0, 0.0, 1e-3, 0.0, 0.05, 10, 0)
    x, before = rng.normal(size=(2, 4)).astype(np.float32), trainer.table.numpy()
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
    expected = before - 0.05 * gradient / (np.sqrt(1e-6 + gradient**2) + 1e-7)
    first = float(trainer.step(x, rows, ids, weights, np.array([0, 1], np.int32)))
    assert first == pytest.approx(loss(before), rel=1e-5)
    np.testing.assert_allclose(trainer.table.numpy(), expected, atol=1e-4)
    assert trainer.temperature != temperature


def test_a_given_temperature_stays():
    head = text_generator.build_head(4, [5], 3)
    trainer = text_generator.Trainer(head, lambda x, seed: x, 6, 0, 0.2, 1e-3, 0.0, 0.05, 10, 0)
    x, one = np.ones((1, 4), np.float32), np.array([0])
    trainer.step(x, one, one, np.ones(1, np.float32), np.array([0, 1], np.int32))
    assert trainer.temperature == pytest.approx(0.2)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_best_ranks_are_those_of_sorting(seed):
    rng = np.random.default_rng(seed)
    x, w = unit(rng, 4, 6), unit(rng, 9, 6)
    clicked = [np.sort(rng.choice(9, rng.integers(1, 4), replace=False)) for _ in range(4)]
    offsets = np.cumsum([0, *map(len, clicked)])
    queries = np.concatenate(clicked)
    ranks = text_generator.best_ranks(
        x, w, ClickedQueries(offsets, queries, np.ones(len(queries), np.float32))
    )
    for row in range(4):
        order = list(np.argsort(-(x[row] @ w.T)))
        assert ranks[row] == 1 + min(order.index(query) for query in clicked[row])


def test_head_queries_are_the_best_supported():
    queries = pa.table(
        {
            "query_id": pa.array([4, 3, 2, 1, 0, 5], pa.int64()),
            "train_clicks": [5.0, 5.0, 9.0, 50.0, 1.0, 99.0],
            "train_images": pa.array([2, 2, 1, 0, 3, 9], pa.int64()),
            "head": [True] * 5 + [False],
        }
    )
    assert head_queries(queries, 10, 1).tolist() == [2, 3, 4, 0]
    assert head_queries(queries, 2, 2).tolist() == [3, 4]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 99))
@settings(deadline=None)
def test_targets_keep_at_most_the_limit_and_sum_to_one(counts, limit, epoch):
    offsets = np.cumsum([0, *counts])
    weights = np.concatenate([np.full(n, 1 / n, np.float32) for n in counts])
    clicked = ClickedQueries(offsets, np.arange(len(weights)), weights)
    drawn = clicked.targets(limit, 0, epoch)
    for row, count in enumerate(counts):
        mine = drawn.weights[offsets[row] : offsets[row + 1]]
        assert (mine > 0).sum() == min(count, limit)
        assert mine.sum() == pytest.approx(1)
    again = clicked.targets(limit, 0, epoch)
    np.testing.assert_array_equal(drawn.weights, again.weights)


def test_only_pairs_of_the_split_and_of_head_queries_count():
    pairs = pa.table(
        {
            "image_id": ["a", "a", "b", "c", "c"],
            "query_id": pa.array([1, 2, 1, 2, 3], pa.int64()),
            "split": ["train", "train", "validation", "train", "train"],
            "weight": pa.array([0.3, 0.1, 1.0, 0.5, 0.5], pa.float32()),
        }
    )
    ids = pa.chunked_array([["a", "b"], ["c"]])
    clicked, keep = ClickedQueries.from_pairs(pairs, "train", ids, np.array([2, 1]))
    assert keep.tolist() == [True, False, True]
    batch, queries, weights = clicked.of(np.array([1, 0]))
    assert (batch.tolist(), queries.tolist()) == ([0, 1, 1], [0, 0, 1])
    np.testing.assert_allclose(weights, [1, 0.25, 0.75])
    first, keep = ClickedQueries.from_pairs(pairs, "train", ids, np.array([2, 1]), limit=1)
    assert (first.rows, keep.tolist(), len(first.queries)) == (1, [True, False, False], 2)


FLAGS = [
    "--backbone=small_resnet",
    "--small_resnet_width=8",
    "--image_size=16",
    "--batch_size=8",
    "--epochs=12",
    "--width=16",
    "--learning_rate=0.01",
]


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("mined"))
    write_colours(root)
    return root


def model_of(output):
    dataset = manifest.Dataset(str(output))
    folder = dataset.folder("model")
    with open(f"{folder}/config.json") as f:
        config = json.load(f)
    return folder, config, dataset.manifest


@pytest.mark.parametrize("extra", [[], ["--full_softmax_max=1", "--sampled_queries=20"]])
def test_command_learns_the_queries_of_colours(mined, tmp_path, extra):
    argv = [f"--mined={mined}", f"--output={tmp_path}", *FLAGS, *extra]
    assert train_text_generator.run(argv) == 0
    folder, _, found = model_of(tmp_path)
    with open(f"{folder}/history.json") as f:
        history = json.load(f)
    # Each image was clicked for two of its colour's three names, among nine queries.
    assert history["epochs"][history["best_epoch"] - 1]["recall_at_3"] > 0.8
    vectors, ids = np.load(f"{folder}/query_vectors.npy"), np.load(f"{folder}/query_ids.npy")
    assert vectors.shape == (9, 16)
    assert set(ids) == {query_id(query) for names in NAMES.values() for query in names}
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert found.counters["training_images"] == 42
    assert manifest.verify(str(tmp_path)) == []


def test_a_killed_command_ends_with_the_model_of_an_undisturbed_one(mined, tmp_path, monkeypatch):
    flags = [*FLAGS, "--epochs=3", "--full_softmax_max=1", "--sampled_queries=20"]
    assert train_text_generator.run([f"--mined={mined}", f"--output={tmp_path / 'a'}", *flags]) == 0
    whole = training.fit

    def die(epoch):
        if epoch == 2:
            raise KeyboardInterrupt

    argv = [f"--mined={mined}", f"--output={tmp_path / 'b'}", *flags]
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", functools.partial(whole, after_epoch=die))
        with pytest.raises(KeyboardInterrupt):
            train_text_generator.run(argv)
    assert manifest.read(str(tmp_path / "b")) is None
    assert train_text_generator.run(argv) == 0
    a, b = (model_of(tmp_path / name)[2].model_fingerprint for name in "ab")
    assert a == b


def test_head_on_a_frozen_network(mined, tmp_path):
    flags = [*FLAGS, "--trainable=head", "--head_hidden=24", "--epochs=40"]
    assert train_text_generator.run([f"--mined={mined}", f"--output={tmp_path}", *flags]) == 0
    folder, _, _ = model_of(tmp_path)
    head = keras.saving.load_model(f"{folder}/head.keras")
    assert [layer.units for layer in head.layers if hasattr(layer, "units")] == [24, 16]
    with open(f"{folder}/history.json") as f:
        assert max(row["recall_at_3"] for row in json.load(f)["epochs"]) > 0.5


def test_no_training_pairs_is_an_error(mined, tmp_path, capsys):
    tables = manifest.Dataset(mined)
    images, pairs, queries = (
        tables.table(name).to_pylist() for name in ("images", "pairs", "queries")
    )
    held_out = [pair for pair in pairs if pair["split"] != "train"]
    write_mined(str(tmp_path / "bare"), images, held_out, queries, [])
    argv = [f"--mined={tmp_path / 'bare'}", f"--output={tmp_path / 'out'}", *FLAGS]
    assert train_text_generator.run(argv) == 2
    assert "training images with clicked queries" in capsys.readouterr().err
    assert train_text_generator.run([*argv, "--backbone=resnet"]) == 2
    assert "resnet101" in capsys.readouterr().err
    assert manifest.read(str(tmp_path / "out")) is None


def test_word_f1_compares_sets_of_words():
    predicted = [["red car", "fast car"], ["cat"], ["赤い"]]
    clicked = [["red bus"], ["dog"], ["赤い"]]
    # {red, car, fast} and {red, bus}: 2 · 1 / 5; nothing in common; the same.
    assert text_generator.word_f1(predicted, clicked) == pytest.approx((0.4 + 0 + 1) / 3)
    assert text_generator.word_f1([], []) == 0


def test_top_queries_are_those_of_a_full_scan():
    rng = np.random.default_rng(0)
    embs, vectors = rng.normal(size=(7, 5)), rng.normal(size=(11, 5))
    expected = np.argsort(-(embs @ vectors.T), axis=1)[:, :3]
    found = text_generator.top_queries(np.float32(embs), np.float32(vectors), 3)
    np.testing.assert_array_equal(found, expected)
