"""What the gate reads of a snapshot, against loops over its rows."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from model_code.gate import command as gate
from model_code.gate import drift as gate_drift
from model_code.gate import summary as gate_summary
from tests.support.datasets import gate_work


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    work = str(tmp_path_factory.mktemp("summary"))
    return gate.open_all(gate_work.write(work, "2026-01-01", gate_work.Day(images=200, dead=5)))


@pytest.fixture(scope="module")
def summary(datasets):
    return gate_summary.summarise(datasets, sample=100)


def halves(counts: pa.Table) -> dict:
    return {
        (row["key"], h): row[n]
        for row in counts.to_pylist()
        for h, n in enumerate(gate_drift.HALVES)
    }


def half_of(image_id):
    return int(gate_summary.places(pa.array([image_id]))[0][0])


def test_counts_are_sums_over_rows_by_half(datasets, summary):
    pairs = datasets["mined"].table("pairs").to_pylist()
    languages = {
        q["query_id"]: q["language"] for q in datasets["mined"].table("queries").to_pylist()
    }
    clicks, spoken = Counter(), Counter()
    for pair in pairs:
        half = half_of(pair["image_id"])
        clicks[pair["query_id"], half] += pair["clicks"]
        spoken[languages[pair["query_id"]], half] += pair["clicks"]
    images, features = (
        datasets[d].table(t).to_pylist() for d, t in (("mined", "images"), ("features", "features"))
    )
    labels = Counter((label, half_of(i["image_id"])) for i in images for label in i["labels"])
    phrases = Counter((p, half_of(f["image_id"])) for f in features for p in f["phrases"])
    expected = {"queries": clicks, "languages": spoken, "labels": labels, "phrases": phrases}
    for name, counted in expected.items():
        assert Counter(halves(summary.counts[name])) == counted, name


def test_scores_and_rows_and_the_dead(datasets, summary):
    features = datasets["features"].table("features").to_pylist()
    for half in (0, 1):
        best = [f["phrase_scores"][0] for f in features if half_of(f["image_id"]) == half]
        expected = [len(best), np.sum(best), np.sum(np.square(best))]
        np.testing.assert_allclose(summary.scores[half], expected)
    assert summary.rows["features.features"] == summary.rows["mined.images"] == 200
    assert summary.rows["mined.pairs"] == len(datasets["mined"].table("pairs"))
    assert summary.dead == {"mined.images": (5, 205)}


def test_sample_has_the_vectors_of_its_images(datasets, summary):
    found = summary.embeddings["pixel_emb"]
    rows = datasets["features"].table("features").to_pylist()
    place = gate_summary.places(pa.array([row["image_id"] for row in rows]))[1]
    sampled = [row for row, at in zip(rows, place, strict=True) if at < 0.5]
    np.testing.assert_array_equal(found.vectors, [row["pixel_emb"] for row in sampled])
    assert found.halves.tolist() == [half_of(row["image_id"]) for row in sampled]
    assert found.model == "pixel_embedder m"
    assert 60 < len(sampled) < 140


def test_places_are_even_and_independent():
    half, place = gate_summary.places(pa.array([f"image {i}" for i in range(20_000)]))
    assert abs(half.mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)
    assert abs(place.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 20_000)
    assert abs(np.corrcoef(half, place)[0, 1]) < 4 / np.sqrt(20_000)
    assert 0 <= place.min() <= place.max() < 1


def test_languages_count_clicked_queries_alone():
    """Queries without a click are in no table of clicks, be their ids low, high or between."""
    clicked = pa.table({"key": [3, 5, 9], "first": [1.0, 2.0, 0.0], "second": [0.0, 4.0, 8.0]})
    ids = [9, 1, 4, 3, 12, 5, -7]
    rows = {"query_id": ids, "language": ["ja", "en", "en", "de", "en", "de", "en"]}

    class Mined:
        def batches(self, *_):
            return pa.table(rows).to_batches(max_chunksize=2)

    assert halves(gate_summary._by_language(Mined(), clicked)) == {
        ("de", 0): 3.0,
        ("de", 1): 4.0,
        ("ja", 0): 0.0,
        ("ja", 1): 8.0,
    }
    nothing = clicked.slice(0, 0)
    assert halves(gate_summary._by_language(Mined(), nothing)) == {}
