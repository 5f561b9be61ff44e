"""What `import phraselens` offers: as the jobs that do the same, and light until it is used."""

import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import phraselens
from schemas.datasets.dataset import Dataset
from tests.support.datasets import work_folder
from tests.support.inputs.image_files import encode, photo


@pytest.fixture(scope="module")
def model(tiny_run):
    return phraselens.open_model(tiny_run.dataset("export_model"), batch_size=4)


def test_the_import_is_light():
    heavy = ("tensorflow", "apache_beam", "pyarrow", "numpy")
    code = f"import sys, phraselens; print([n for n in {heavy} if n in sys.modules])"
    assert work_folder.run([sys.executable, "-c", code]) == "[]\n"
    # And needs nothing but Python: the help is there before an environment is.
    code = f"import sys; sys.path.insert(0, {str(work_folder.ROOT)!r}); import phraselens"
    code += "; print(phraselens.__version__)"
    bare = subprocess.run([sys.executable, "-ISs", "-c", code], capture_output=True, text=True)
    assert bare.stdout.strip() == phraselens.__version__


def test_its_names_are_those_that_are_documented():
    page = (work_folder.ROOT / "docs/use/python.md").read_text()
    for name in phraselens.__all__:
        assert hasattr(phraselens, name)
        assert name in page
        assert getattr(phraselens, name).__doc__


def test_images_are_classified_as_by_the_job(tiny_run, model):
    images = Dataset(tiny_run.dataset("mine_pairs")).table("images").slice(0, 10).to_pylist()
    predicted = Dataset(tiny_run.dataset("classify_images")).table("predictions").to_pylist()
    expected = {row["image_id"]: row for row in predicted}
    found = list(model.classify(row["image"] for row in images))
    for row, image in zip(images, found, strict=True):
        job = expected[row["image_id"]]
        assert list(image.labels) == job["labels"]
        assert list(image.phrases) == job["phrases"]
        assert image.label == job["labels"][0]
        np.testing.assert_allclose(image.probabilities, job["probabilities"], atol=1e-5)
        np.testing.assert_allclose(image.phrase_scores, job["phrase_scores"], atol=1e-5)
        assert image.probability == image.probabilities[0]
        assert not image.error


def test_an_image_may_come_as_people_have_it(model, tmp_path):
    pixels = photo(40, 30)
    drawn = Image.fromarray(np.asarray(pixels))
    data = encode(drawn, "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    forms = [str(path), path, data, bytearray(data), drawn, np.asarray(drawn)]
    first, *others = model.classify(forms)
    assert first.label
    assert all(other == first for other in others)


def test_one_that_cannot_be_read_stops_no_other(model, tmp_path):
    good = encode(photo(20, 20), "JPEG")
    images = [b"", good, str(tmp_path / "none.jpg"), good[:50], good, tmp_path, b"<html></html>"]
    found = list(model.classify(images))
    assert [bool(image.error) for image in found] == [True, False, True, True, False, True, True]
    for image in found:
        assert bool(image.label) is not bool(image.error)
    assert found[1] == found[4]
    assert found[2].error.startswith("unreadable_image: ")
    assert found[6].error.startswith("not_an_image")
    assert list(model.classify([])) == []


def test_images_are_read_as_they_are_asked_for(model):
    asked = []

    def images():
        for number in range(9):
            asked.append(number)
            yield encode(photo(16, 16), "PNG")

    found = model.classify(images())
    assert asked == []
    next(found)
    assert len(asked) == 4


def test_phrases_are_searched_as_in_the_features(tiny_run):
    features = Dataset(tiny_run.dataset("embed_images")).table("features", ["query_emb"])
    index = phraselens.open_index(tiny_run.dataset("embed_phrases"))
    phrases = Dataset(tiny_run.dataset("embed_phrases")).table("phrases").to_pylist()
    assert len(index) == len(phrases)
    embs = np.stack(features["query_emb"].to_numpy())[:20]
    assert embs.shape[1] == index.width
    vectors = np.array([row["query_vector"] for row in phrases], np.float32)
    texts = [row["query"] for row in phrases]
    scores = embs @ vectors.T
    for row, found in zip(scores, index.search(embs, 4), strict=True):
        nearest = np.sort(row)[::-1][:4]
        np.testing.assert_allclose([p.score for p in found], nearest, atol=1e-5)
        for phrase in found:
            assert row[texts.index(phrase.text)] == pytest.approx(phrase.score, abs=1e-5)
            assert 0 <= phrase.probability <= 1
    near = index.near(texts[3], 3)
    assert texts[3] in [phrase.text for phrase in near] or len(near) == 3
    with pytest.raises(phraselens.PhraseLensError, match="a phrase of the index"):
        index.near("what nobody types")
    with pytest.raises(phraselens.PhraseLensError, match=rf"expected \[n, {index.width}\]"):
        index.search(embs[0])
    assert index.search(embs[:0]) == []


def test_a_dataset_is_what_its_manifest_names(tiny_run, tmp_path):
    root = tiny_run.dataset("mine_pairs")
    dataset = phraselens.open_dataset(root)
    expected = Dataset(root)
    assert dataset.stage == "mine_pairs"
    assert dataset.tables["images"] == expected.manifest.tables["images"].rows
    table = dataset.read("pairs", ["image_id", "clicks"])
    assert table.column_names == ["image_id", "clicks"]
    assert table.num_rows == dataset.tables["pairs"]
    batches = list(dataset.batches("pairs", ["image_id", "clicks"], batch_size=7))
    assert max(batch.num_rows for batch in batches) <= 7
    assert pa.Table.from_batches(batches).equals(table.combine_chunks())
    for read in (dataset.read, dataset.batches):
        with pytest.raises(phraselens.PhraseLensError, match=r"table 'pears' of .*expected one of"):
            read("pears")
    with pytest.raises(phraselens.PhraseLensError, match="a committed dataset"):
        phraselens.open_dataset(str(tmp_path))


def test_a_file_like_object_is_no_image(model):
    with pytest.raises((TypeError, AttributeError)):
        list(model.classify([io.BytesIO(b"")]))
