"""The job embed_phrases on a small world of vectors, against plain NumPy."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from beam_jobs.models import embed_phrases
from model_code.phrases.calibration import MIN_IMAGES
from model_code.phrases.index import PhraseIndex
from schemas.base import fingerprint
from schemas.console.flags import flag
from schemas.datasets import checks
from schemas.datasets.dataset import Dataset
from schemas.runs import run as run_lib
from schemas.tables.vectors import arrow_to_vectors
from tests.support.datasets.mined_dataset import query_id, write_mined
from tests.support.inputs.poisoned import checksums, poison
from transforms.inference import folders as models
from transforms.phrases import build as phrases
from transforms.phrases import calibration

WIDTH, TAU, HEAD, QUERIES, IMAGES = 6, 0.1, 12, 30, 600
LANGUAGES = ("en", "de", "ja")
BROKEN = b"no vector"


class Vectors:
    """Stands for the image networks: an image's bytes are its vector."""

    def decode(self, images, sizes):
        return (np.stack([np.frombuffer(image, np.float32) for image in images]),)

    def embed_pixels(self, pixels):
        return {"query_emb": pixels[0]}


class Texts:
    """Stands for the text embedder."""

    def embed(self, texts):
        return np.ones((len(texts), 3), np.float32)


@dataclasses.dataclass(frozen=True)
class _Model:
    output: str = flag("Dataset.", role="runtime")


def write_model(root: Path, **files) -> None:
    planned = run_lib.plan(f"train_{root.name}", _Model(str(root)), [], {})
    folder = Path(planned.empty_folder("model"))
    for name, content in files.items():
        if isinstance(content, dict):
            (folder / f"{name}.json").write_text(json.dumps(content))
        else:
            np.save(folder / f"{name}.npy", content)
    planned.commit_files("model", str(folder), {}, fingerprint.of_json(root.name))


@dataclasses.dataclass(frozen=True)
class World:
    """Images [IMAGES, WIDTH], their rows in the mined dataset, and the weights of the head."""

    embs: np.ndarray
    images: list[dict]
    pairs: list[dict]
    ids: list[int]
    weights: np.ndarray
    root: Path

    def argv(self, output: str, *flags: str) -> list[str]:
        inputs = [f"--{n}={self.root / n}" for n in ("mined", "generator", "text_embedder")]
        return [*inputs, f"--output={self.root / output}", *flags]

    def run(self, output: str, *flags: str) -> Dataset:
        assert embed_phrases.run(self.argv(output, *flags)) == 0
        return Dataset(str(self.root / output))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    true = rng.normal(size=(QUERIES, WIDTH))
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    embs = true[rng.integers(QUERIES, size=IMAGES)] + 0.3 * rng.normal(size=(IMAGES, WIDTH)) + 0.4
    embs = np.float32(embs / np.linalg.norm(embs, axis=1, keepdims=True))
    ids = [query_id(f"query {i}") for i in range(QUERIES)]
    images, pairs = [], []
    for row, vector in enumerate(embs):
        split = ("train", "train", "train", "validation", "test")[row % 5]
        image_id = fingerprint.of_arrays("image", [vector])[:32]
        data = BROKEN if row in (0, 3) else vector.tobytes()
        images.append({"image_id": image_id, "split": split, "image": data})
        clicked = np.argsort(-(true @ vector) + 0.1 * rng.gumbel(size=QUERIES))[:2]
        for query, clicks in zip(clicked, (5.0, 1.0), strict=True):
            of = {"image_id": image_id, "query_id": ids[query], "split": split}
            pairs.append(of | {"clicks": clicks, "score": clicks, "weight": clicks / 6})
    queries = [
        {"query_id": q, "query": f"query {i}", "language": LANGUAGES[i % 3], "train_images": 1}
        for i, q in enumerate(ids)
    ]
    write_mined(str(root / "mined"), images, pairs, queries, [])
    weights = np.float32(true[:HEAD])
    write_model(
        root / "generator",
        config={"width": WIDTH, "temperature": TAU},
        query_ids=np.array(ids[:HEAD]),
        query_vectors=weights,
    )
    write_model(root / "text_embedder", config={"width": 3})
    return World(embs, images, pairs, ids, weights, root)


@pytest.fixture(scope="module", autouse=True)
def _models():
    with pytest.MonkeyPatch.context() as patch:
        fakes = {"image_embedder": Vectors(), "text_embedder": Texts()}
        patch.setattr(models, "load", lambda loader, *folders, **_: fakes[loader.__name__])
        patch.setattr(phrases, "load", models.load)
        yield


@pytest.fixture(scope="module")
def made(world) -> Dataset:
    return world.run("phrases", "--max_dead_fraction=0.05")


def calibration_of(dataset: Dataset) -> dict:
    return json.loads(Path(dataset.folder("calibration"), "calibration.json").read_text())


def vectors_of(dataset: Dataset) -> dict[int, tuple[str, np.ndarray]]:
    table = dataset.table("phrases", ["query_id", "source", "query_vector"])
    vectors = arrow_to_vectors(table["query_vector"])
    ids, sources = (table[name].to_pylist() for name in ("query_id", "source"))
    return {q: (s, v) for q, s, v in zip(ids, sources, vectors, strict=True)}


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_training_and_validation_images_are_embedded_and_no_test_image(world, made):
    table = made.table("image_embs", ["image_id", "split"])
    found = dict(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    expected = {
        image["image_id"]: image["split"]
        for image in world.images
        if image["split"] != "test" and image["image"] != BROKEN
    }
    assert found == expected
    counters = made.manifest.counters
    assert counters["training_images.dropped_inference_failed"] == 1
    assert counters["calibration_images.dropped_inference_failed"] == 1
    assert counters["calibration_images.out"] == list(expected.values()).count("validation")
    assert checks.verify(made.root) == []


def test_other_test_images_and_clicks_change_no_byte(world, tmp_path, monkeypatch):
    """Prototypes, their calibration, and the index with its tuning."""
    monkeypatch.setattr(calibration, "SAMPLED_QUERIES", 12)
    mined = Dataset(str(world.root / "mined"))
    rows = [mined.table(name).to_pylist() for name in ("images", "pairs", "queries")]
    write_mined(str(tmp_path / "mined"), *poison(*rows, opposite), [])
    found = []
    for place, root in enumerate((mined.root, tmp_path / "mined")):
        argv = [f"--mined={root}", *world.argv("")[1:3], f"--output={tmp_path / str(place)}"]
        assert embed_phrases.run(argv) == 0
        tables = ("image_embs", "phrases", "calibration", "index")
        found.append(checksums(Dataset(str(tmp_path / str(place))), *tables))
    assert found[0] == found[1]


def opposite(image: bytes) -> bytes:
    return (-np.frombuffer(image, np.float32)).tobytes()


def test_vectors_are_those_of_the_calibration(world, made):
    """w_c for the head as it was chosen, s · unit(φ_c − λμ) for the tail, in float64."""
    of = {image["image_id"]: row for row, image in enumerate(world.images)}
    train = {
        image["image_id"]
        for image in world.images
        if image["split"] == "train" and image["image"] != BROKEN
    }
    mean = np.mean([world.embs[of[i]].astype(float) for i in sorted(train)], axis=0)
    calibration = calibration_of(made)
    assert calibration["fitted_on"] == "tail queries"
    vectors = vectors_of(made)
    for place, query in enumerate(world.ids):
        mine = [p for p in world.pairs if p["query_id"] == query and p["image_id"] in train]
        assert (query in vectors) == (place < HEAD or len(mine) >= 2)
        if query not in vectors:
            continue
        weights = [p["score"] / (p["score"] + 1) for p in mine]
        images = [world.embs[of[p["image_id"]]].astype(float) for p in mine]
        prototype = np.average(images, axis=0, weights=weights)
        centred = unit(prototype - calibration["centring"] * mean)
        source, vector = vectors[query]
        if place < HEAD:
            alpha = {"weight": 1, "prototype": 0, "mix": calibration["alpha"]}[source]
            assert source == (calibration["head"] if len(mine) >= 2 else "weight")
            expected = unit(alpha * world.weights[place] + (1 - alpha) * centred)
        else:
            assert source == "prototype"
            expected = calibration["scale"] * centred
        np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_retrieval_is_that_of_all_phrases(world, made):
    """MRR and recall of validation images, overall and by language and source, by sorting."""
    found = vectors_of(made)
    ids = [query for query in world.ids if query in found]
    assert HEAD < len(ids) < QUERIES
    vectors = np.stack([found[query][1] for query in ids]).astype(float)
    ranks: dict[str, dict[str, float]] = {}
    for row, image in enumerate(world.images):
        if image["split"] != "validation" or image["image"] == BROKEN:
            continue
        queries = [p["query_id"] for p in world.pairs if p["image_id"] == image["image_id"]]
        own = [ids.index(query) for query in queries if query in found]
        scores = vectors @ world.embs[row]
        for query in own:
            rank = 1 + (np.delete(scores, own) > scores[query]).sum()
            place = world.ids.index(ids[query])
            for group in ("all", LANGUAGES[place % 3], "head" if place < HEAD else "tail"):
                best = ranks.setdefault(group, {})
                best[image["image_id"]] = min(rank, best.get(image["image_id"], np.inf))
    retrieval = calibration_of(made)["retrieval"]
    reported = {"all": retrieval["all"]} | retrieval["language"] | retrieval["source"]
    assert set(reported) == set(ranks)
    for group, best in ranks.items():
        values = np.array(list(best.values()), float)
        assert reported[group]["images"] == len(values)
        assert reported[group]["mrr"] == pytest.approx(np.mean(1 / values), abs=1e-5)
        for n in (1, 3, 10):
            assert reported[group][f"recall_at_{n}"] == pytest.approx(
                np.mean(values <= n), abs=1e-5
            )


def test_more_threads_write_the_same(world, made):
    threads = ("--direct_running_mode=multi_threading", "--direct_num_workers=2")
    again = world.run("again", *threads)
    assert again.manifest.content_hash == made.manifest.content_hash


def test_index_of_another_day_is_updated(world, capsys):
    """Its distances are those of an index built anew: the graph has every phrase of today."""
    kind = ("--index_kind=hnsw", "--max_index_drift=1")
    first = world.run("first_day", *kind)
    capsys.readouterr()
    moved = (*kind, "--prototype_weights=equal")
    updated = world.run("updated", *moved, f"--earlier_phrases={first.run_folder}")
    printed = capsys.readouterr().err
    change = re.search(r"([\d,]+) phrases as before, 0 new, (\d+) changed, 0 gone", printed)
    count = updated.manifest.tables["phrases"].rows
    assert change
    assert int(change[1]) + int(change[2]) == count
    assert int(change[2])
    assert f"hnsw of {count} phrases, updated" in printed
    anew = world.run("anew", *moved)
    assert "updated" not in capsys.readouterr().err
    found = []
    for dataset in (updated, anew):
        index = PhraseIndex(dataset.folder("index"))
        nearest = index.search(world.embs[:50], 3)
        found.append((index.query_ids[nearest.rows], nearest.scores))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)


def test_prints_what_was_found(world, made, capsys):
    world.run("printed", "--prototype_weights=equal", "--head_vectors=mix")
    printed = capsys.readouterr().out
    assert "calibrated on tail queries: head by mix" in printed
    assert "recall_at_3" in printed


@pytest.mark.parametrize("limit", [0, MIN_IMAGES - 1])
def test_few_validation_images_leave_vectors_as_they_are(world, limit, capsys):
    made = world.run(f"few{limit}", f"--calibration_images={limit}")
    splits = made.table("image_embs", ["split"])["split"].to_pylist()
    assert (
        splits.count("validation")
        + made.manifest.counters["calibration_images.dropped_inference_failed"]
        == limit
    )
    calibration = calibration_of(made)
    assert (calibration["head"], calibration["centring"], calibration["scale"]) == ("weight", 0, 1)
    assert "calibrated on nothing" in capsys.readouterr().out
    lengths = [np.linalg.norm(vector) for _, vector in vectors_of(made).values()]
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
