"""classify_images on images that cannot be read, without a network."""

import io
import tarfile
import types

import numpy as np
import pyarrow as pa
import pytest

from model_code.models.fusion.classifier import Classified
from model_code.runtime.settings import InferenceSettings
from schemas.base.errors import DeadShareError
from schemas.console.progress import Progress
from tests.support.inputs.image_files import encode, photo
from transforms.images.clean import ImageLimits
from transforms.images.plan import plan_images
from transforms.images.read import source_of
from transforms.images.units import IMAGE_FIELDS
from transforms.inference.classify import ClassifyImages, Networks
from transforms.shards.ceilings import Ceilings, check_counters
from transforms.shards.outputs import Output

VECTORS = {"query_emb": (4,), "pixel_emb": (4,)}


def test_a_cut_tar_file_is_a_file_and_not_an_image(tmp_path, monkeypatch):
    """Nobody knows how many images were in the rest of it."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as file:
        for number in range(100):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 3000
            file.addfile(info, io.BytesIO(bytes(3000)))
    (tmp_path / "a.tar").write_bytes(whole.getvalue())
    (tmp_path / "b.tar").write_bytes(whole.getvalue()[: 20 * 3584 + 700])

    def read(self, batch, *_):
        return Output(counts={"images.in": batch.num_rows, "images.out": batch.num_rows})

    monkeypatch.setattr(ClassifyImages, "_read", read)
    mapping = {field: field for field in IMAGE_FIELDS}
    units = plan_images("images", [str(tmp_path)], "auto", mapping, "stem").units
    stage = types.SimpleNamespace(name="classify_images", run_id="run")
    networks = Networks("g", "p", VECTORS)
    settings = InferenceSettings()
    worker = ClassifyImages(stage, None, networks, (), ImageLimits(), settings, None)
    found = worker.process(units, (None, None), Progress("read", None, "images"))
    assert (found.counts["images.in"], found.counts["images.out"]) == (120, 120)
    assert found.counts["images_files.in"] == 2
    assert found.counts["images_files.dropped_unreadable_file"] == 1
    check_counters(found.counts, Ceilings(0.5))
    with pytest.raises(DeadShareError, match=r"50\.0% of images_files died"):
        check_counters(found.counts, Ceilings(0.49))
    (letters,) = found.dead
    assert letters["key"].to_pylist() == [str(tmp_path / "b.tar")]


class _Earlier:
    """Knows every image but some."""

    def __init__(self, unknown):
        self._unknown = pa.array(unknown)

    def take(self, sources):
        known = ~np.isin(sources.to_numpy(zero_copy_only=False), self._unknown)
        vectors = pa.array([[1.0] * 4] * known.sum(), pa.list_(pa.float32()))
        taken = sources.filter(pa.array(known))
        return known, pa.table(
            {"source": taken, "image_id": taken, "query_emb": vectors, "pixel_emb": vectors}
        )


class _Classifier:
    def __init__(self):
        self.batches = []

    def embed(self, images, sizes):
        self.batches.append(len(images))
        vectors = np.full((len(images), 4), 2, np.float32)
        return {"query_emb": vectors, "pixel_emb": vectors}

    def classify_embeddings(self, embs):
        first = [str(row[0]) for row in embs["query_emb"]]
        numbers = np.zeros((len(first), 1), np.float32)
        one = [[name] for name in first]
        return Classified(one, numbers, one, numbers, numbers[:, :, None])


def test_a_few_new_images_among_many_known_ones_share_batches(tmp_path):
    """One of 20 is new: of each 64 that are read at once, some three."""
    new = []
    for number in range(200):
        data = encode(photo(number), "PNG")
        (tmp_path / f"{number:03}.png").write_bytes(data)
        if number % 20 == 7:
            new.append(source_of(data))
    mapping = {field: field for field in IMAGE_FIELDS}
    units = plan_images("images", [str(tmp_path)], "auto", mapping, "stem").units
    assert len(units) > 1
    stage = types.SimpleNamespace(name="classify_images", run_id="run")
    settings = InferenceSettings(batch_size=4)
    networks, model = (
        Networks("g", "p", VECTORS),
        types.SimpleNamespace(fingerprint="m"),
    )
    worker = ClassifyImages(stage, model, networks, (), ImageLimits(), settings, None)
    classifier = _Classifier()
    found = worker.process(units, (classifier, _Earlier(new)), Progress("", None, "images"))
    assert classifier.batches == [4, 4, 2]
    rows = zip(
        *(found.tables["predictions"][c].to_pylist() for c in ("key", "labels")), strict=True
    )
    assert dict(rows) == {
        f"{number:03}": ["2.0" if number % 20 == 7 else "1.0"] for number in range(200)
    }
    assert found.counts["reused.rows"] == 190
    assert found.counts["images.in"] == found.counts["images.out"] == 200
