"""Models inside workers: loaded lazily, once a process, from local folders or gs://."""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable
from typing import Any

from schemas.base import storage
from schemas.console import quiet
from schemas.datasets import integrity
from schemas.datasets.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """Where a stage left a model: the folder of a table of files.

    Attributes:
      path: the folder.
      fingerprint: the model's fingerprint.
      bytes: size of its files.
      checksums: see schemas/datasets/integrity.py.
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

    def __init__(self, loader: Callable, *folders: "ModelFolder | None", settings: object = None):
        self._loader, self._folders, self._settings = loader, folders, settings
        self._lock, self._model = threading.Lock(), None

    def __call__(self) -> Any:
        with self._lock:
            if self._model is None:
                self._model = load(self._loader, *self._folders, settings=self._settings)
            return self._model


def load(loader: Callable, *folders: ModelFolder | None, settings: object = None) -> Any:
    """Loads a model as it was committed.

    Args:
      loader: takes a local folder for each of `folders`, and the settings, if any. It stands beside
        the step that needs the model, and imports TensorFlow or Faiss itself, on the worker; its
        name, such as `text_embedder`, is what people are told is being loaded.
      folders: the folders of the model; None where it can do without one.
      settings: how it is to run.

    Raises:
      PhraseLensError: a file is not what the manifest names, or this worker has not the device.
    """
    more = () if settings is None else (settings,)
    with contextlib.ExitStack() as stack:
        paths: list[Any] = [f and stack.enter_context(storage.local_copy(f.path)) for f in folders]
        for folder, path in zip(folders, paths, strict=True):
            if folder:
                integrity.check(path, dict(folder.checksums))
        stack.enter_context(quiet.loading(f"the {loader.__name__.replace('_', ' ')}"))
        return loader(*paths, *more)
