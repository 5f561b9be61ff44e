"""Models inside workers: loaded lazily, once a process, from local folders or gs://."""

import contextlib
import dataclasses
import json
import threading
from typing import Any

from model_code.inference_settings import InferenceSettings
from schemas import integrity, quiet, storage
from schemas.manifest import Dataset


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """Where a stage left a model: the folder of a table of files.

    Attributes:
      path: the folder.
      fingerprint: the model's fingerprint.
      bytes: size of its files.
      checksums: see schemas/integrity.py.
    """

    path: str
    fingerprint: str
    bytes: int = 0
    checksums: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, dataset: str, table: str = "model") -> "ModelFolder":
        """Finds the model of a committed dataset.

        Raises:
          PhraseLensError: nothing is committed, or it has no such table.
        """
        opened = Dataset(dataset)
        size = sum(shard.bytes for shard in opened.shards(table))
        sums = tuple(sorted(integrity.checksums(opened, table).items()))
        return cls(opened.folder(table), opened.manifest.content_hash, size, sums)

    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        return json.loads(storage.read_bytes(storage.join(self.path, "config.json")))


class Lazy:
    """A model that is loaded, once, when it is first called for: perhaps never."""

    def __init__(
        self, kind: str, *folders: "ModelFolder | None", settings: InferenceSettings | None = None
    ):
        self._kind, self._folders, self._settings = kind, folders, settings
        self._lock, self._model = threading.Lock(), None

    def __call__(self) -> Any:
        with self._lock:
            if self._model is None:
                self._model = load(self._kind, *self._folders, settings=self._settings)
            return self._model


def load(kind: str, *folders: ModelFolder | None, settings: InferenceSettings | None = None) -> Any:
    """Loads a model of model_code/, as it was committed; imports TensorFlow or Faiss only here.

    Args:
      kind: image_embedder (generator, pixel embedder or None), text_embedder, phrase_index
        or classifier.
      folders: the folders that the kind needs.
      settings: device, precision and batches; of a phrase index the device.

    Raises:
      PhraseLensError: a file is not what the manifest names, or this worker has not the device.
    """
    more = (settings,) if settings else ()
    with contextlib.ExitStack() as stack:
        paths: list[Any] = [f and stack.enter_context(storage.local_copy(f.path)) for f in folders]
        for folder, path in zip(folders, paths, strict=True):
            if folder:
                integrity.check(path, dict(folder.checksums))
        stack.enter_context(quiet.loading(f"the {kind.replace('_', ' ')}"))
        if kind == "image_embedder":
            from model_code.image_embedder import ImageEmbedder

            return ImageEmbedder(*paths, *more)
        if kind == "text_embedder":
            from model_code.text_embedder import TextEmbedder

            return TextEmbedder(*paths)
        if kind == "phrase_index":
            from model_code.phrase_index import PhraseIndex

            return PhraseIndex(paths[0], settings is None or settings.device != "cpu")
        if kind == "classifier":
            from model_code.classifier import Classifier

            return Classifier(*paths, *more)
    raise ValueError(f"no such kind of model: {kind}")
