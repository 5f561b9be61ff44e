"""Models inside workers: loaded lazily, once a process, from local folders or gs://."""

import contextlib
import dataclasses
import json
import threading
from typing import Any

from schemas import storage
from schemas.manifest import Dataset


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """Where a stage left a model: the folder of a table of files.

    Attributes:
      path: the folder.
      fingerprint: the model's fingerprint.
      bytes: size of its files.
    """

    path: str
    fingerprint: str
    bytes: int = 0

    @classmethod
    def of(cls, dataset: str, table: str = "model") -> "ModelFolder":
        """Finds the model of a committed dataset.

        Raises:
          PhraseLensError: nothing is committed, or it has no such table.
        """
        opened = Dataset(dataset)
        size = sum(shard.bytes for shard in opened.shards(table))
        return cls(opened.folder(table), opened.manifest.content_hash, size)

    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        return json.loads(storage.read_bytes(storage.join(self.path, "config.json")))


class Lazy:
    """A model that is loaded, once, when it is first called for: perhaps never."""

    def __init__(self, kind: str, *folders: "ModelFolder | None"):
        self._kind, self._folders = kind, folders
        self._lock, self._model = threading.Lock(), None

    def __call__(self) -> Any:
        with self._lock:
            if self._model is None:
                self._model = load(self._kind, *self._folders)
            return self._model


def load(kind: str, *folders: ModelFolder | None) -> Any:
    """Loads a model of model_code/; imports TensorFlow or Faiss only here, in a worker.

    Args:
      kind: image_embedder (generator, pixel embedder or None), text_embedder, phrase_index
        or classifier.
      folders: the folders that the kind needs.
    """
    with contextlib.ExitStack() as stack:
        paths: list[Any] = [f and stack.enter_context(storage.local_copy(f.path)) for f in folders]
        if kind == "image_embedder":
            from model_code.image_embedder import ImageEmbedder

            return ImageEmbedder(*paths)
        if kind == "text_embedder":
            from model_code.text_embedder import TextEmbedder

            return TextEmbedder(*paths)
        if kind == "phrase_index":
            from model_code.phrase_index import PhraseIndex

            return PhraseIndex(*paths)
        if kind == "classifier":
            from model_code.classifier import Classifier

            return Classifier(*paths)
    raise ValueError(f"no such kind of model: {kind}")
