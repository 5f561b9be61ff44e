import numpy as np
import pytest
import tensorflow as tf

from model_code.models.text_embedder import data as query_pairs
from model_code.models.text_embedder import network as text_embedder
from model_code.models.text_embedder import train as trainer
from model_code.models.text_embedder.held_out import Bags
from schemas.datasets.dataset import Dataset
from tests.support.datasets.mined_dataset import query_id, write_mined


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red car, BIG!", "red car big"),
        ("Grüße  CAFÉ", "grüße café"),
        ("don't", "don t"),
        ("c++ 50%", "c++ 50"),
        ("赤い花", "赤 い 花"),
        ("コーヒー2杯", "コー ヒー 2 杯"),
        ("中文字", "中 文 字"),
        ("ที่นี่", "ที่ นี่"),
        ("ພາສາ", "ພ າ ສ າ"),
        ("ភាសា", "ភា សា"),
        ("မြန်မာ", "မြ န် မာ"),
        ("قهوة ساخِنة", "قهوة ساخِنة"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("हिन्दी शब्द", "हिन्दी शब्द"),
        ("빨간 자동차", "빨간 자동차"),
        ("ok👍🏽❤", "ok 👍🏽 ❤"),
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
        ("a\x00b\x07c", "a b c"),
        ("", ""),
        (" \t!", ""),
    ],
)
def test_words(text, expected):
    found = text_embedder.words(tf.constant([text]))[0].numpy()
    assert [word.decode() for word in found] == expected.split()


def test_invalid_utf8_counts_as_space():
    assert text_embedder.words(tf.constant([b"red\xff\xfecar"]))[0].numpy().tolist() == [
        b"red",
        b"car",
    ]


def test_a_bag_holds_words_then_pairs_then_trigrams_if_wanted():
    bag = text_embedder.ngrams(tf.constant(["big red car", "x", ""]), char_trigrams=False)
    assert bag.to_list() == [[b"big", b"red", b"car", b"big red", b"red car"], [b"x"], []]
    bag = text_embedder.ngrams(tf.constant(["car é"]), char_trigrams=True)
    expected = ["car", "é", "car é", "#<ca", "#car", "#ar>", "#<é>"]
    assert bag.to_list() == [[gram.encode() for gram in expected]]


def test_ids_are_hashes_in_their_buckets_filled_up_with_padding():
    texts = tf.constant(["red car", "", "car", "a b c d e f"])
    ids = text_embedder.ngram_ids(texts, buckets=50, max_tokens=4).numpy()
    assert ids.shape == (4, 4)
    assert (ids[1] == text_embedder.PADDING).all()
    assert ids[2, 0] == ids[0, 1], "a word has one id wherever it stands"
    np.testing.assert_array_equal((ids > 0).sum(axis=1), [3, 0, 1, 4])
    assert ids.max() <= 50


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_the_network_equals_numpy(attention, dense):
    tf.random.set_seed(1)
    model = text_embedder.build(20, 6, attention, dense)
    ids = np.array([[3, 5, 0], [0, 0, 0], [7, 7, 9]])
    found = model(ids).numpy()
    table = model.get_layer("ngrams").table.numpy()
    for row, bag in zip(found, ([3, 5], [0], [7, 7, 9]), strict=True):
        vectors = table[bag]
        weights = np.full(len(bag), 1 / len(bag))
        if attention:
            weights = np.exp(vectors[:, -1]) / np.exp(vectors[:, -1]).sum()
        pooled = weights @ vectors[:, :6]
        if dense:
            kernel, bias = model.get_layer("dense").get_weights()
            pooled = pooled @ kernel + bias
        np.testing.assert_allclose(row, pooled / np.linalg.norm(pooled), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hard", [0, 2])
@pytest.mark.parametrize("debiased", [False, True])
def test_in_batch_loss_equals_numpy(hard, debiased):
    rng = np.random.default_rng(0)
    embs = rng.normal(size=(8 + hard, 3)).astype(np.float32)
    embs /= np.linalg.norm(embs, axis=1, keepdims=True)
    counts = rng.uniform(0.1, 2, 8 + hard).astype(np.float32) if debiased else np.ones(8 + hard)
    together = rng.random((2, 4, 4 + hard)) < 0.2
    together[:, np.arange(4), np.arange(4)] = True
    weights = np.array([1, 2, 0.5, 1], np.float32)
    expected = 0.0
    for i in range(4):
        for way in (0, 1):
            anchor, partners = (i, range(4, 8)) if way == 0 else (i + 4, range(4))
            candidates = [*partners, *range(8, 8 + hard)]
            # A candidate that is drawn twice as often counts half as much: exp(s) / count.
            terms = {
                j: np.exp(embs[anchor] @ embs[other] / 0.1) / counts[other]
                for j, other in enumerate(candidates)
                if j == i or not together[way, i, j]
            }
            expected -= weights[i] * np.log(terms[i] / sum(terms.values())) / 2
    arguments = [tf.constant(x) for x in (embs, together, weights)]
    logs = tf.constant(np.log(counts), tf.float32) if debiased else 0.0
    found = text_embedder.in_batch_loss(*arguments, 0.1, logs)
    assert float(found) == pytest.approx(expected / weights.sum(), rel=1e-5)


def test_dropped_tokens_are_padding_and_a_bag_is_never_emptied():
    ids = tf.constant(np.tile(np.arange(40) % 5, (200, 1)))
    dropped = text_embedder.drop_tokens(ids, 0.3, seed=(1, 2)).numpy()
    kept = dropped == ids.numpy()
    assert (kept | (dropped == text_embedder.PADDING)).all()
    share = 1 - kept[ids.numpy() > 0].mean()
    assert share == pytest.approx(0.3, abs=0.03)
    one = text_embedder.drop_tokens(tf.constant([[4, 0]] * 100), 0.99, seed=(1, 2)).numpy()
    np.testing.assert_array_equal(one, [[4, 0]] * 100)


def test_attention_starts_at_a_power_of_the_frequency():
    model = text_embedder.build(5, 3, attention=True, dense=False)
    ids, offsets = np.array([3, 3, 1, 2, 2, 1, 1, 3, 1, 2]), np.array([0, 2, 5, 6, 8, 10])
    bags = Bags(ids, offsets, np.zeros(5, np.int32))
    trainer.start_attention(model, bags, np.arange(1, 5), 0.5)
    scores = model.get_layer("ngrams").table.numpy()[:, -1]
    np.testing.assert_allclose(np.exp(scores[1:4]), np.sqrt([4, 2, 1]), rtol=1e-5)
    assert (scores[[0, 4, 5]] < scores[3] - 2).all(), "what no query holds weighs next to nothing"


def _toy(root: str):
    """Queries of 40 things in two tongues that share no word; their pairs are associations."""
    rows, pairs = [], []
    for thing in range(40):
        names = [f"{tongue}{thing} {kind}" for tongue in ("uno", "ichi") for kind in ("big", "red")]
        rows += names
        pairs += [(names[i], names[j]) for i in range(4) for j in range(i + 1, 4)]
    queries = [
        {"query_id": query_id(q), "query": q, "language": "und", "clicks": 2.0, "images": 1}
        | {"train_clicks": 2.0, "train_images": 1}
        for q in rows
    ]
    hidden = "only in test"
    queries.append(queries[0] | {"query_id": query_id(hidden), "query": hidden, "train_images": 0})
    pairs.append((rows[0], hidden))
    ids = [sorted((query_id(a), query_id(b))) for a, b in pairs]
    query_pairs = [
        {"query_a": a, "query_b": b, "co_clicks": 1.0, "weight": 1.0, "evidence": "co_click"}
        for a, b in ids
    ]
    refused = [(rows[4 * i], rows[(4 * i + 4) % 160]) for i in range(40)] + [(rows[1], hidden)]
    query_pairs += [
        {"query_a": a, "query_b": b, "skips": 2.0, "weight": 0.0, "evidence": "skip"}
        for a, b in (sorted((query_id(a), query_id(b))) for a, b in refused)
    ]
    write_mined(root, [], [], queries, query_pairs)


FLAGS = ["--buckets=2048", "--width=16", "--epochs=4", "--batch_size=64", "--dense"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("text"))
    _toy(f"{root}/mined")
    argv = [f"--mined={root}/mined", f"--output={root}/text", *FLAGS]
    assert trainer.run(argv) == 0
    return root, argv


def test_queries_of_test_images_train_nothing(trained):
    found = query_pairs.load_associations(Dataset(f"{trained[0]}/mined"))
    assert len(found.texts) == 160
    assert len(found.pairs) == 240
    assert "only in test" not in found.texts.to_pylist()
    assert len(found.refused) == 40


def _pairs_of(rows):
    return {tuple(sorted(row)) for row in rows.tolist()}


def test_a_refused_pair_is_no_association(trained):
    found = query_pairs.load_associations(Dataset(f"{trained[0]}/mined"))
    assert not _pairs_of(found.pairs) & _pairs_of(found.refused)
    assert (found.weights > 0).all()
    texts = np.array(found.texts.to_pylist())
    assert all(a.split()[0] != b.split()[0] for a, b in texts[found.refused])


def test_hard_negatives_are_pushed_away(tmp_path):
    """Two queries of most words in common, refused for each other, end further apart."""
    texts = [f"{kind} {thing} on white" for thing in range(200) for kind in ("real", "toy")]
    queries = [
        {"query_id": query_id(q), "query": q, "clicks": 1.0, "train_clicks": 1.0, "train_images": 1}
        for q in texts
    ]
    pairs = [
        sorted((query_id(a), query_id(b))) for a, b in zip(texts[::2], texts[1::2], strict=True)
    ]
    rows = [
        {"query_a": a, "query_b": b, "skips": 3.0, "weight": 0.0, "evidence": "skip"}
        for a, b in pairs
    ]
    write_mined(f"{tmp_path}/mined", [], [], queries, rows)
    cosines = []
    for hard in (0, 64):
        argv = [f"--mined={tmp_path}/mined", f"--output={tmp_path}/{hard}", "--buckets=2048"]
        argv += ["--width=16", "--epochs=8", "--batch_size=16", f"--hard_negatives={hard}"]
        assert trainer.run(argv) == 0
        embedder = text_embedder.TextEmbedder(Dataset(f"{tmp_path}/{hard}").folder("model"))
        embs = embedder.embed(texts)
        cosines.append(float(np.mean(np.sum(embs[::2] * embs[1::2], axis=1))))
    assert cosines[1] < cosines[0] - 0.1


def test_it_learns_what_strings_do_not_say(trained):
    root, _ = trained
    embedder = text_embedder.TextEmbedder(Dataset(f"{root}/text").folder("model"))
    here = embedder.embed([f"uno{thing}" for thing in range(40)])
    there = embedder.embed([f"ichi{thing}" for thing in range(40)])
    found = (here @ there.T).argmax(axis=1)
    assert np.mean(found == np.arange(40)) > 0.8, "chance is 0.025"


def test_the_loaded_model_equals_the_network_and_takes_any_text(tmp_path):
    model = text_embedder.build(500, 16, attention=True, dense=True)
    text_embedder.export(model, f"{tmp_path}/saved_model", 500, 8, char_trigrams=True)
    embedder = text_embedder.TextEmbedder(str(tmp_path))
    texts = ["uno3 big", "", "赤い花 👍", "never seen", "x " * 500]
    embs = embedder.embed(texts)
    expected = model(text_embedder.ngram_ids(tf.constant(texts), 500, 8, char_trigrams=True))
    np.testing.assert_allclose(embs, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embs, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embedder.embed(texts, batch_size=2), embs, atol=1e-6)
    assert embedder.embed([]).shape == (0, 16)


def test_a_killed_run_ends_with_the_same_model(trained, tmp_path, monkeypatch):
    root, argv = trained

    class Killed(BaseException):
        pass

    def die(epoch):
        if epoch == 2:
            raise Killed

    from model_code.runtime import training

    fit = training.fit
    argv = [argv[0], f"--output={tmp_path}/text", *argv[2:]]
    monkeypatch.setattr(training, "fit", lambda *a, **k: fit(*a, **k, after_epoch=die))
    with pytest.raises(Killed):
        trainer.run(argv)
    monkeypatch.setattr(training, "fit", fit)
    assert trainer.run(argv) == 0
    again, undisturbed = Dataset(f"{tmp_path}/text"), Dataset(f"{root}/text")
    assert again.manifest.model_fingerprint == undisturbed.manifest.model_fingerprint


def test_a_second_run_does_nothing(trained, capsys):
    assert trainer.run(trained[1]) == 0
    assert "already done" in capsys.readouterr().out


def test_without_associations_a_query_finds_itself(tmp_path):
    queries = [
        {"query_id": query_id(q), "query": q, "language": "und", "clicks": 1.0, "images": 1}
        | {"train_clicks": 1.0, "train_images": 1}
        for q in (f"a{i} b{i} c{i}" for i in range(50))
    ]
    write_mined(f"{tmp_path}/mined", [], [], queries, [])
    flags = [f"--mined={tmp_path}/mined", f"--output={tmp_path}/text", *FLAGS, "--epochs=20"]
    assert trainer.run(flags) == 0
    embedder = text_embedder.TextEmbedder(Dataset(f"{tmp_path}/text").folder("model"))
    part = embedder.embed([f"a{i} b{i}" for i in range(50)])
    whole = embedder.embed([query["query"] for query in queries])
    assert np.mean((part @ whole.T).argmax(axis=1) == np.arange(50)) > 0.9, "chance is 0.02"


def test_too_few_queries_are_an_error(tmp_path, capsys):
    row = {"query_id": 1, "query": "x", "language": "und", "clicks": 1.0, "images": 1}
    write_mined(f"{tmp_path}/mined", [], [], [row | {"train_clicks": 0.0, "train_images": 0}], [])
    assert trainer.run([f"--mined={tmp_path}/mined", f"--output={tmp_path}/text"]) == 2
    assert "at least two queries with training images" in capsys.readouterr().err
