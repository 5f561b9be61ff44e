"""Images as people have them → labels with the phrases that helped to find them."""

import dataclasses
from collections.abc import Sequence

import pyarrow as pa

from model_code.inference_settings import InferenceSettings
from model_code.progress import Progress
from schemas import tables
from schemas.stage import Stage
from transforms.datasets import Output
from transforms.image_units import BATCH_IMAGES, ImageUnit, read_unit
from transforms.images import clean_images
from transforms.inference import pixel_bytes
from transforms.models import ModelFolder, load
from transforms.phrases import inference_failed
from transforms.rows import bad_rows
from transforms.shards import run_or_bisect
from transforms.tabular import BadRows


@dataclasses.dataclass(frozen=True)
class ClassifyImages:
    """Worker of `MapShards`: the task is some `ImageUnit`s, the shard their predictions."""

    stage: Stage
    model: ModelFolder
    max_pixels: int
    max_side: int
    inference: InferenceSettings
    total: int | None
    label: str = "predictions"
    unit: str = "images"

    def load(self):
        return load("classifier", self.model, settings=self.inference)

    def process(self, units: list[ImageUnit], loaded, progress: Progress) -> Output:
        outputs = [
            self._classify(batch, unit, loaded, progress)
            for unit in units
            for batch in read_unit(unit)
        ]
        empty = tables.PREDICTIONS.empty_table()
        predictions = pa.concat_tables([empty, *(o.tables["predictions"] for o in outputs)])
        counts: dict[str, int] = {}
        for output in outputs:
            for name, rows in output.counts.items():
                counts[name] = counts.get(name, 0) + rows
        dead = tuple(table for output in outputs for table in output.dead)
        return Output({"predictions": predictions}, dead, counts)

    def _classify(self, batch: pa.Table | BadRows, unit: ImageUnit, loaded, progress) -> Output:
        if isinstance(batch, BadRows):
            output = bad_rows(batch, "images", self.stage)
            return dataclasses.replace(
                output, tables={"predictions": tables.PREDICTIONS.empty_table()}
            )
        progress.add(batch.num_rows)
        cleaned = clean_images(batch, self.stage, self.max_pixels, self.max_side)
        clean = cleaned.tables["clean"]
        images, keys = clean["image"].to_pylist(), clean["key"].to_pylist()
        sizes = pixel_bytes(clean)

        def classify(places: Sequence[int]):
            return loaded.classify([images[p] for p in places], [sizes[p] for p in places])

        good, bad = run_or_bisect(classify, range(len(images)))
        parts = [
            self._predictions(clean.slice(start, len(found.labels)), found) for start, found in good
        ]
        counts = cleaned.counts | {
            "images.out": len(images) - len(bad),
            "images.dropped_inference_failed": len(bad),
        }
        return Output(
            {"predictions": pa.concat_tables([tables.PREDICTIONS.empty_table(), *parts])},
            (*cleaned.dead, inference_failed(self.stage, bad, keys, images)),
            counts,
        )

    def _predictions(self, clean: pa.Table, found) -> pa.Table:
        columns = {
            "key": clean["key"],
            "image_id": clean["image_id"],
            "labels": pa.array(list(found.labels), pa.list_(pa.string())),
            "probabilities": pa.array(list(found.probabilities), pa.list_(pa.float32())),
            "phrases": pa.array(list(found.phrases), pa.list_(pa.string())),
            "phrase_scores": pa.array(list(found.phrase_scores), pa.list_(pa.float32())),
            "phrase_effects": pa.array(found.phrase_effects.tolist(), tables.PHRASE_EFFECTS),
            "model_fingerprint": pa.array([self.model.fingerprint] * clean.num_rows),
        }
        return pa.table(columns, tables.PREDICTIONS)


def group_units(units: list[ImageUnit], images_per_shard: int) -> list[list[ImageUnit]]:
    """Puts files together until they are a shard; a table or TFRecord file is one by itself."""
    per_group = max(1, images_per_shard // BATCH_IMAGES) if units[0].format == "files" else 1
    return [units[i : i + per_group] for i in range(0, len(units), per_group)]
