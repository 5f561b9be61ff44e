"""Images as people have them → labels with the phrases that helped to find them."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from model_code.runtime.settings import InferenceSettings
from schemas.base.errors import PhraseLensError
from schemas.console import program
from schemas.console.progress import Progress
from schemas.runs.run import Run
from schemas.tables import embedded
from schemas.tables.predictions import PHRASE_EFFECTS, PREDICTIONS
from schemas.tables.vectors import Vectors, vectors_to_arrow
from transforms.images.clean import ImageLimits
from transforms.images.read import CLEAN_IMAGES, clean_images, source_of
from transforms.images.readers import read_unit
from transforms.images.units import BATCH_IMAGES, ImageUnit
from transforms.inference.batches import embeddings_of, full_batches, pixel_bytes, rows_of
from transforms.inference.bisect import inference_failed, run_or_bisect
from transforms.inference.folders import ModelFolder, load
from transforms.rows.checked import checked_file
from transforms.shards.outputs import Output
from transforms.shards.reuse import Earlier, first_of_each

KEYS = pa.schema([("key", pa.string())])
PREDICTED_AT_ONCE = 1024  # images whose predictions are Python objects at a time


@dataclasses.dataclass(frozen=True)
class Networks:
    """The image networks inside an exported model.

    Attributes:
      generator: fingerprint of the text generator.
      pixel_embedder: fingerprint of the pixel embedder.
      vectors: what they make of an image.
    """

    generator: str
    pixel_embedder: str
    vectors: Vectors

    @classmethod
    def of(cls, model: ModelFolder) -> "Networks":
        """Reads the model's config.

        Raises:
          PhraseLensError: a version exported it that did not write this.
        """
        config = model.config()
        if "vectors" not in config:
            raise PhraseLensError(
                model.path,
                "a model of this version",
                f"Run {program.command('export_model')} again.",
            )
        inputs = config["inputs"]
        vectors = {name: tuple(shape) for name, shape in config["vectors"].items()}
        return cls(inputs["generator"], inputs["pixel_embedder"], vectors)

    @property
    def fingerprints(self) -> dict[str, str]:
        """By the column that names them."""
        return {
            "generator_fingerprint": self.generator,
            "pixel_fingerprint": self.pixel_embedder,
        }

    @property
    def schema(self) -> pa.Schema:
        return embedded.embeddings(self.vectors)


def classifier(folder: str, settings: InferenceSettings):
    """Loads a `model_code.models.fusion.classifier.Classifier`."""
    from model_code.models.fusion.classifier import Classifier

    return Classifier(folder, settings)


@dataclasses.dataclass(frozen=True)
class ClassifyImages:
    """Worker of `MapShards`: the task is some `ImageUnit`s, the shard their predictions.

    Beside them it writes what the networks made of the images, the table `embeddings`: a later
    run finds it by the hash of an image's bytes, and neither decodes nor embeds the image again.
    What no earlier run knows waits until a batch of the networks is full: a few new images among
    many known ones must not cost a batch each.

    Attributes:
      earlier: paths of such tables, made with the same limits.
      max_pixels, max_side: the limits, see transforms/images/read.py.
    """

    run: Run
    model: ModelFolder
    networks: Networks
    earlier: tuple[str, ...]
    limits: ImageLimits
    inference: InferenceSettings
    total: int | None
    label: str = "predictions"
    unit: str = "images"

    def load(self):
        earlier = Earlier(
            self.earlier,
            "source",
            ["image_id", *self.networks.vectors],
            self.networks.fingerprints,
        )
        return load(classifier, self.model, settings=self.inference), earlier

    def process(self, units: list[ImageUnit], loaded, progress: Progress) -> Output:
        classifier, earlier = loaded
        outputs: list[Output] = []

        def unknown() -> Iterator[pa.RecordBatch]:
            for unit in units:
                batches = read_unit(unit)
                for output in checked_file(
                    batches,
                    "images",
                    lambda batch: self._read(batch, earlier),
                    self.run,
                    unit.files,
                ):
                    clean = output.tables.pop("clean", CLEAN_IMAGES.empty_table())
                    outputs.append(output)
                    progress.add(output.counts.get("images.in", 0) - clean.num_rows)
                    yield from clean.to_batches()

        made = []
        for batch in full_batches(unknown(), self.inference.batch_size):
            made.append(self._embed(batch, classifier))
            progress.add(batch.num_rows)
        outputs += made
        counts: Counter[str] = Counter()
        for output in outputs:
            counts.update(output.counts)
        keys = self._joined(outputs, "keys", KEYS)
        embeddings = self._joined(outputs, "embeddings", self.networks.schema)
        predictions = [
            self._predictions(
                keys.slice(start, PREDICTED_AT_ONCE),
                embeddings.slice(start, PREDICTED_AT_ONCE),
                classifier,
            )
            for start in range(0, keys.num_rows, PREDICTED_AT_ONCE)
        ]
        return Output(
            {
                "predictions": pa.concat_tables([PREDICTIONS.empty_table(), *predictions]),
                "embeddings": first_of_each(embeddings, "source"),
            },
            tuple(table for output in outputs for table in output.dead),
            dict(counts),
        )

    def _joined(self, outputs: list[Output], name: str, schema: pa.Schema) -> pa.Table:
        found = [o.tables[name] for o in outputs if name in o.tables]
        return pa.concat_tables([schema.empty_table(), *found])

    def _read(self, batch: pa.Table, earlier: Earlier) -> Output:
        """Tables `keys` and `embeddings` of images that an earlier run knows, `clean` of others."""
        rows = zip(batch["key"].to_pylist(), batch["image"].to_pylist(), strict=True)
        # Without a key a row dies, whatever is known of its image.
        sources = pa.array([source_of(data or b"") if key else "" for key, data in rows])
        known, found = earlier.take(sources)
        cleaned = clean_images(batch.filter(pa.array(~known)), self.run, self.limits)
        # What becomes of clean images is counted where they are embedded.
        counts = {name: n for name, n in cleaned.counts.items() if name != "images.out"}
        output = Output(dict(cleaned.tables), cleaned.dead, counts)
        if found is not None:
            output.tables["keys"] = batch.filter(pa.array(known)).select(KEYS.names)
            output.tables["embeddings"] = self._embeddings(found)
            for name in ("images.in", "images.out", "reused.rows"):
                counts[name] = counts.get(name, 0) + found.num_rows
        return output

    def _embed(self, clean: pa.Table, classifier) -> Output:
        """Tables `keys` and `embeddings` of clean images."""
        images, names = clean["image"].to_pylist(), clean["key"].to_pylist()
        sizes = pixel_bytes(clean)

        def embed(places: Sequence[int]):
            return classifier.embed([images[p] for p in places], [sizes[p] for p in places])

        good, bad = run_or_bisect(embed, range(len(images)))
        keys, parts = [KEYS.empty_table()], [self.networks.schema.empty_table()]
        for start, embs in good:
            rows = clean.slice(start, rows_of(embs))
            keys.append(rows.select(KEYS.names))
            vectors = {name: vectors_to_arrow(embs[name]) for name in self.networks.vectors}
            ids = {name: rows[name] for name in ("source", "image_id")}
            parts.append(self._embeddings(pa.table(ids | vectors)))
        counts = {
            "images.out": len(images) - len(bad),
            "images.dropped_inference_failed": len(bad),
        }
        return Output(
            {"keys": pa.concat_tables(keys), "embeddings": pa.concat_tables(parts)},
            (inference_failed(self.run, bad, names, images),),
            counts,
        )

    def _embeddings(self, rows: pa.Table) -> pa.Table:
        for name, value in self.networks.fingerprints.items():
            rows = rows.append_column(name, pa.array([value] * rows.num_rows, pa.string()))
        return rows.select(self.networks.schema.names).cast(self.networks.schema)

    def _predictions(self, keys: pa.Table, embeddings: pa.Table, classifier) -> pa.Table:
        found = classifier.classify_embeddings(embeddings_of(embeddings, self.networks.vectors))
        columns = {
            "key": keys["key"],
            "image_id": embeddings["image_id"],
            "labels": pa.array(found.labels, pa.list_(pa.string())),
            "probabilities": pa.array(list(found.probabilities), pa.list_(pa.float32())),
            "phrases": pa.array(found.phrases, pa.list_(pa.string())),
            "phrase_scores": pa.array(list(found.phrase_scores), pa.list_(pa.float32())),
            "phrase_effects": pa.array(found.phrase_effects.tolist(), PHRASE_EFFECTS),
            "model_fingerprint": pa.array([self.model.fingerprint] * keys.num_rows, pa.string()),
        }
        return pa.table(columns, PREDICTIONS)


@dataclasses.dataclass(frozen=True)
class UnitsOfShard:
    """What one shard of predictions is made of.

    Attributes:
      index: the number of the shard.
      units: images.
    """

    index: int
    units: Sequence[ImageUnit]

    @classmethod
    def of_json(cls, fields: dict) -> "UnitsOfShard":
        return cls(fields["index"], [ImageUnit.of_json(unit) for unit in fields["units"]])


def shard_units(units: Sequence[ImageUnit], images_per_shard: int) -> list[UnitsOfShard]:
    """Puts files together until they are a shard; a table or TFRecord file is one by itself."""
    per_shard = max(1, images_per_shard // BATCH_IMAGES) if units[0].format == "files" else 1
    starts = range(0, len(units), per_shard)
    return [UnitsOfShard(n, units[i : i + per_shard]) for n, i in enumerate(starts)]
