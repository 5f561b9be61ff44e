"""classify_images on images that cannot be read, without a network."""

import io
import tarfile
import types

from model_code.progress import Progress
from transforms.clean_image import ImageLimits
from transforms.datasets import Output, check_counters, dead_share
from transforms.image_units import IMAGE_FIELDS, plan_units
from transforms.predictions import ClassifyImages, Networks


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

    def classify(self, batch, *_):
        return Output(counts={"images.in": batch.num_rows, "images.out": batch.num_rows})

    monkeypatch.setattr(ClassifyImages, "_classify", classify)
    mapping = {field: field for field in IMAGE_FIELDS}
    units, _ = plan_units("images", [str(tmp_path)], "auto", mapping, "stem")
    stage = types.SimpleNamespace(name="classify_images", run_id="run")
    networks = Networks("g", "p", 4, 4)
    worker = ClassifyImages(stage, None, networks, (), ImageLimits(), None, None)
    found = worker.process(units, (None, None), Progress("read", None, "images"))
    assert (found.counts["images.in"], found.counts["images.out"]) == (120, 120)
    assert found.counts["images_files.in"] == 2
    assert found.counts["images_files.dropped_unreadable_file"] == 1
    assert dead_share(found.counts)["images_files"] == 0.5
    check_counters(found.counts, 0.5)
    (letters,) = found.dead
    assert letters["key"].to_pylist() == [str(tmp_path / "b.tar")]
