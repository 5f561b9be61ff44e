"""Models inside workers: loaded lazily, once a process, from local folders or gs://."""

import contextlib
import dataclasses
import json
from typing import Any

from model_code.inference_settings import InferenceSettings
from schemas import storage
from schemas.manifest import Dataset


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """Where a stage left a model: the folder of a table of files.

    Attributes:
      path: the folder.
      fingerprint: the model's fingerprint.
    """

    path: str
    fingerprint: str

    @classmethod
    def of(cls, dataset: str, table: str = "model") -> "ModelFolder":
        """Finds the model of a committed dataset.

        Raises:
          PhraseLensError: nothing is committed, or it has no such table.
        """
        opened = Dataset(dataset)
        opened.shards(table)
        return cls(opened.folder(table), opened.manifest.content_hash)

    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        return json.loads(storage.read_bytes(storage.join(self.path, "config.json")))


def load(kind: str, *folders: ModelFolder | None, settings: InferenceSettings | None = None) -> Any:
    """Loads a model of model_code/; imports TensorFlow or Faiss only here, in a worker.

    Args:
      kind: image_embedder (generator, pixel embedder or None), text_embedder, phrase_index
        or classifier.
      folders: the folders that the kind needs.
      settings: of an image embedder or a classifier: device, precision and batches.

    Raises:
      PhraseLensError: this worker has not the device.
    """
    more = (settings,) if settings else ()
    with contextlib.ExitStack() as stack:
        paths: list[Any] = [f and stack.enter_context(storage.local_copy(f.path)) for f in folders]
        if kind == "image_embedder":
            from model_code.image_embedder import ImageEmbedder

            return ImageEmbedder(*paths, *more)
        if kind == "text_embedder":
            from model_code.text_embedder import TextEmbedder

            return TextEmbedder(*paths)
        if kind == "phrase_index":
            from model_code.phrase_index import PhraseIndex

            return PhraseIndex(*paths)
        if kind == "classifier":
            from model_code.classifier import Classifier

            return Classifier(*paths, *more)
    raise ValueError(f"no such kind of model: {kind}")
