import json

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import sklearn.metrics as oracle
import tensorflow as tf

from model_code.models.fusion import data, losses, network
from model_code.models.fusion import train as train_fusion
from model_code.models.fusion.data import open_examples
from model_code.models.fusion.family import INPUTS
from model_code.models.fusion.serving_graph import nearest
from model_code.runtime import training
from schemas.datasets.dataset import Dataset
from tests.support.datasets.examples_dataset import Rows, write_examples

TEXT, PIXEL = 4, 6
FLAGS = [
    "--dropouts=0.1",
    "--weight_decays=0.01",
    "--pixel_scales=1",
    "--learning_rates=0.01",
    "--epochs=3",
]
LINEAR = [*FLAGS, "--layers=linear"]


def _xor(rows: int, seed: int) -> Rows:
    """A label that neither the text nor the pixels know alone."""
    rng = np.random.default_rng(seed)
    text, pixels = rng.choice([-1, 1], (2, rows))
    text_emb = rng.normal(0, 0.3, (rows, TEXT)).astype(np.float32)
    pixel_emb = rng.normal(0, 0.3, (rows, PIXEL)).astype(np.float32)
    text_emb[:, 0] += text
    pixel_emb[:, 0] += pixels
    return Rows(text_emb, pixel_emb, [[int(same)] for same in text == pixels])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("fusion"))
    splits = {"train": _xor(400, 0), "validation": _xor(100, 1), "test": _xor(200, 2)}
    write_examples(f"{root}/examples", splits, ["differ", "same"])
    argv = [
        f"--examples={root}/examples",
        f"--output={root}/fusion",
        *FLAGS,
        "--layers=32,linear",
        "--seeds=2",
    ]
    assert train_fusion.run(argv) == 0
    return root, argv, splits


def _evaluation(root: str) -> tuple[dict, list[dict]]:
    folder = Dataset(root).folder("evaluation")
    with open(f"{folder}/evaluation.json") as f:
        return json.load(f), pq.read_table(f"{folder}/predictions.parquet").to_pylist()


def test_fused_knows_what_neither_part_knows(trained):
    result, _ = _evaluation(f"{trained[0]}/fusion")
    assert result["test"]["fused"]["top1"] > 0.95
    assert result["test"]["pixel"]["top1"] < 0.65
    assert result["test"]["text"]["top1"] < 0.65
    assert result["rows"] == {"train": 400, "validation": 100, "test": 200}
    assert result["chosen"]["fused"]["hidden"] == [32], "a line cannot tell equal from different"


def test_every_classifier_has_the_same_budget(trained):
    result, _ = _evaluation(f"{trained[0]}/fusion")
    tried = [[trial["settings"] for trial in trials] for trials in result["tuning"].values()]
    assert len(tried[0]) == 2
    assert tried[0] == tried[1] == tried[2]
    for name, trials in result["tuning"].items():
        best = max(trials, key=lambda trial: (trial["metric"], -trial["nll"]))
        assert result["chosen"][name] == best["settings"]
        if name != "fused":
            assert result["validation"][name]["top1"] == pytest.approx(best["metric"])


def test_the_evaluation_equals_what_the_predictions_say(trained):
    root, _, splits = trained
    result, rows = _evaluation(f"{root}/fusion")
    truth = {f"test-{i}": ids[0] for i, ids in enumerate(splits["test"].label_ids)}
    labels = result["labels"]
    for name in INPUTS:
        found = result["test"][name]
        true = [row["true"][0] for row in rows]
        best = [row[f"{name}_labels"][0] for row in rows]
        same = [
            dict(zip(row[f"{name}_labels"], row[f"{name}_probabilities"], strict=True))["same"]
            for row in rows
        ]
        assert true == [labels[truth[row["image_id"]]] for row in rows]
        assert found["top1"] == pytest.approx(oracle.accuracy_score(true, best))
        assert found["nll"] == pytest.approx(
            oracle.log_loss([t == "same" for t in true], same), rel=1e-4
        )
        matrix = oracle.confusion_matrix(true, best, labels=labels)
        np.testing.assert_array_equal(found["confusion"], matrix)
        assert [c["support"] for c in found["per_class"]] == matrix.sum(axis=1).tolist()
    assert rows[0]["phrases"][0] == "eins"
    assert result["seeds"][0]["fused"]["top1"] == result["test"]["fused"]["top1"]
    assert [row["seed"] for row in result["seeds"]] == [0, 1]


def test_the_saved_models_say_what_was_evaluated(trained):
    root, _, splits = trained
    _, rows = _evaluation(f"{root}/fusion")
    folder = Dataset(f"{root}/fusion").folder("model")
    order = [int(row["image_id"].removeprefix("test-")) for row in rows]
    vectors = {
        "text_emb": splits["test"].text_emb[order],
        "pixel_emb": splits["test"].pixel_emb[order],
    }
    for name, parts in INPUTS.items():
        model = keras.models.load_model(f"{folder}/{name}.keras")
        found = model({part: vectors[part] for part in parts}).numpy().max(axis=1)
        expected = [row[f"{name}_probabilities"][0] for row in rows]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_killed_run_ends_with_the_same_models(trained, tmp_path, monkeypatch):
    root, argv, _ = trained

    class Killed(BaseException):
        pass

    fits, fit = [], training.fit

    def die_in_the_fourth(*args, **kwargs):
        fits.append(args[0])

        def after_epoch(epoch):
            if len(fits) == 4 and epoch == 2:
                raise Killed

        return fit(*args, **kwargs, after_epoch=after_epoch)

    argv = [argv[0], f"--output={tmp_path}/fusion", *argv[2:]]
    monkeypatch.setattr(training, "fit", die_in_the_fourth)
    with pytest.raises(Killed):
        train_fusion.run(argv)
    monkeypatch.setattr(training, "fit", fit)
    assert train_fusion.run(argv) == 0
    again, undisturbed = Dataset(f"{tmp_path}/fusion"), Dataset(f"{root}/fusion")
    assert again.manifest.model_fingerprint == undisturbed.manifest.model_fingerprint
    assert _evaluation(again.root) == _evaluation(undisturbed.root)


def test_a_second_run_does_nothing_and_the_table_shows_the_gain(trained, capsys):
    root, argv, _ = trained
    assert train_fusion.run(argv) == 0
    assert "already done" in capsys.readouterr().out
    result, _ = _evaluation(f"{root}/fusion")
    lines = train_fusion.report_lines(result)
    gains = [seed["fused"]["top1"] - seed["pixel"]["top1"] for seed in result["seeds"]]
    error = np.std(gains, ddof=1) / np.sqrt(2)
    assert f"{np.mean(gains):+.3f} ± {error:.3f}" in lines[-2]


def test_many_labels_an_example_and_a_label_that_training_has_not(tmp_path):
    rng = np.random.default_rng(0)

    def rows(n: int) -> Rows:
        pixels = rng.normal(size=(n, PIXEL)).astype(np.float32)
        ids = [[c for c in range(3) if row[c] > 0] for row in pixels]
        return Rows(rng.normal(size=(n, TEXT)).astype(np.float32), pixels, ids)

    splits = {"train": rows(300), "validation": rows(60), "test": rows(100)}
    write_examples(f"{tmp_path}/examples", splits, ["a", "b", "c"], task="multi")
    argv = [f"--examples={tmp_path}/examples", f"--output={tmp_path}/fusion", *FLAGS]
    argv += ["--layers=32", "--epochs=8"]
    assert train_fusion.run([*argv, "--class_weights"]) == 0
    result, predictions = _evaluation(f"{tmp_path}/fusion")
    assert result["task"] == "multi"
    assert result["test"]["pixel"]["map"] > 0.95
    assert result["test"]["text"]["map"] < 0.75
    assert "confusion" not in result["test"]["fused"]
    assert any(row["true"] == [] for row in predictions)


def test_an_empty_split_is_an_error_that_names_it(tmp_path, capsys):
    nothing = Rows(np.zeros((0, TEXT), np.float32), np.zeros((0, PIXEL), np.float32), [])
    splits = {"train": _xor(10, 0), "validation": nothing, "test": _xor(10, 1)}
    write_examples(f"{tmp_path}/examples", splits, ["a", "b"])
    argv = [f"--examples={tmp_path}/examples", f"--output={tmp_path}/fusion"]
    assert train_fusion.run(argv) == 2
    assert "validation" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--layers=wide", "--dropouts=much"])
def test_a_setting_that_is_no_number_is_an_error(trained, tmp_path, flag, capsys):
    assert train_fusion.run([trained[1][0], f"--output={tmp_path}/fusion", flag]) == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_every_example_comes_once_a_pass_in_an_order_of_its_own(trained, cache_bytes):
    with open_examples(f"{trained[0]}/examples", 64, cache_bytes) as reader:

        def order(epoch: int, passes: int = 1) -> np.ndarray:
            batches = list(reader.shuffled("train", 7, epoch, passes))
            assert {len(batch["label_ids"]) for batch in batches[:-1]} == {64}
            return np.concatenate([batch["pixel_emb"][:, 1] for batch in batches])

        expected = np.sort(trained[2]["train"].pixel_emb[:, 1])
        np.testing.assert_array_equal(np.sort(order(1)), expected)
        np.testing.assert_array_equal(order(1), order(1))
        assert not np.array_equal(order(1), order(2))
        np.testing.assert_array_equal(np.sort(order(1, 2)), np.repeat(expected, 2))


@pytest.mark.parametrize("cache_bytes", [0, 10**9])
def test_few_labels_are_so_many_of_each_and_others_from_each_seed(trained, cache_bytes):
    split = trained[2]["train"]
    with open_examples(f"{trained[0]}/examples", 64, cache_bytes) as reader:

        def few(seed: int) -> set[float]:
            limited = reader.few_labels(5, seed)
            assert (limited.rows("train"), limited.rows("test")) == (10, 200)
            batches = list(limited.shuffled("train", 0, 1))
            found = np.concatenate([batch["pixel_emb"][:, 1] for batch in batches])
            places = [int(np.flatnonzero(split.pixel_emb[:, 1] == value)[0]) for value in found]
            assert sum(split.label_ids[place][0] for place in places) == 5
            return set(places)

        assert few(0) == few(0) != few(1)
        assert reader.rows("train") == 400


def test_the_pool_trusts_text_as_far_as_it_helps_on_images_that_training_has_not(tmp_path):
    """Phrases of training images are too good, since the generator has seen their clicks."""
    rng = np.random.default_rng(0)

    def rows(n: int, text_noise: float) -> Rows:
        ids = rng.integers(0, 2, n)
        sign = 2 * ids[:, np.newaxis] - 1
        text = sign + rng.normal(0, text_noise, (n, TEXT))
        pixels = sign + rng.normal(0, 2, (n, PIXEL))
        return Rows(text.astype(np.float32), pixels.astype(np.float32), ids[:, np.newaxis].tolist())

    splits = {"train": rows(400, 0.2), "validation": rows(200, 6), "test": rows(1000, 6)}
    write_examples(f"{tmp_path}/examples", splits, ["a", "b"])
    found = {}
    for pool in ("true", "false"):
        argv = [f"--examples={tmp_path}/examples", f"--output={tmp_path}/{pool}", *LINEAR]
        assert train_fusion.run([*argv, f"--pool={pool}", "--seeds=2"]) == 0
        found[pool], _ = _evaluation(f"{tmp_path}/{pool}")
    alone, pooled = found["false"], found["true"]
    assert alone["pool"] == {}
    assert pooled["pool"]["pixel"] > pooled["pool"]["text"]
    for name in ("pixel", "text"):
        assert pooled["test"][name] == alone["test"][name]
    for before, after in zip(alone["seeds"], pooled["seeds"], strict=True):
        assert after["fused"]["top1"] > before["fused"]["top1"] + 0.02
    assert pooled["test"]["fused"]["nll"] < alone["test"]["fused"]["nll"]


def test_a_run_with_few_labels_says_how_many(trained, tmp_path):
    argv = [trained[1][0], f"--output={tmp_path}/fusion", *LINEAR]
    assert train_fusion.run([*argv, "--labels_per_class=20", "--seeds=2"]) == 0
    result, _ = _evaluation(f"{tmp_path}/fusion")
    assert result["rows"] == {"train": 40, "validation": 100, "test": 200}
    assert len(result["seeds"]) == 2


def test_loss_equals_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 3)).astype(np.float32)
    weights = np.array([1, 2, 0.5], np.float32)
    one = np.eye(3, dtype=np.float32)[[0, 2, 1, 1, 0]]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found = losses.loss(tf.constant(logits), tf.constant(one), False, tf.constant(weights))
    assert float(found) == pytest.approx(-(log_p * one * weights).sum() / 5, rel=1e-5)
    many = (rng.random((5, 3)) < 0.5).astype(np.float32)
    p = 1 / (1 + np.exp(-logits))
    expected = -(many * weights * np.log(p) + (1 - many) * np.log(1 - p)).mean()
    found = losses.loss(tf.constant(logits), tf.constant(many), True, tf.constant(weights))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_targets_ignore_the_filling():
    found = data.targets_of(tf.constant([[2, -1], [0, 1], [-1, -1]], tf.int64), 3)
    np.testing.assert_array_equal(found, [[0, 0, 1], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("vector_dropout", [0.0, 0.5])
def test_pixel_scale_shrinks_pixels_and_leaves_text(vector_dropout):
    widths = {"text_emb": 3, "pixel_emb": 2}
    rng = np.random.default_rng(0)
    inputs = {
        part: rng.normal(size=(4, width)).astype(np.float32) for part, width in widths.items()
    }

    def logits(scale, parts, inputs):
        settings = network.Settings((), 0.001, 0.0, 0.0, vector_dropout, scale)
        keras.utils.set_random_seed(1)
        model = network.build({part: (widths[part],) for part in parts}, 5, False, settings)
        return keras.Model(model.inputs, model.get_layer("logits").output)(inputs).numpy()

    smaller = inputs | {"pixel_emb": 0.3 * inputs["pixel_emb"]}
    for parts in INPUTS.values():
        seen, small = ({part: of[part] for part in parts} for of in (inputs, smaller))
        np.testing.assert_allclose(logits(0.3, parts, seen), logits(1.0, parts, small), atol=1e-6)


def test_vector_dropout_drops_a_vector_as_a_whole():
    settings = network.Settings((), 0.001, 0.0, 0.0, vector_dropout=0.5)
    model = network.build({"text_emb": (3,), "pixel_emb": (2,)}, 2, False, settings)
    parts = keras.Model(model.input, model.get_layer("parts").output)
    seen = parts({"text_emb": np.ones((100, 3)), "pixel_emb": np.ones((100, 2))}, training=True)
    dropped = seen.numpy() == 0
    assert (dropped[:, :3].all(axis=1) == dropped[:, :3].any(axis=1)).all()
    assert 0.3 < dropped[:, 0].mean() < 0.7
    assert (dropped[:, 0] != dropped[:, 3]).any()


@pytest.mark.parametrize("chunk", [3, 7, 100])
def test_nearest_phrases_in_chunks_equal_numpy(chunk):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 4)).astype(np.float32)
    queries = rng.normal(size=(5, 4)).astype(np.float32)
    scores, rows = nearest(tf.constant(queries), tf.Variable(vectors), 4, chunk)
    expected = np.argsort(-(queries @ vectors.T), axis=1)[:, :4]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(
        scores, np.take_along_axis(queries @ vectors.T, expected, axis=1), rtol=1e-5
    )
