"""An exported model for programs: images → labels, and the phrases behind them."""

import dataclasses
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from model_code.runtime.settings import InferenceSettings
from schemas.base import storage
from transforms.images.clean import CleanImage, ImageError, ImageLimits
from transforms.images.process import clean_safely
from transforms.inference.bisect import run_or_bisect
from transforms.inference.classify import classifier
from transforms.inference.folders import ModelFolder, load


@dataclasses.dataclass(frozen=True)
class ClassifiedImage:
    """What a model makes of an image.

    Attributes:
      label: the most probable one; "" where the image could not be classified.
      probability: of that label.
      labels, probabilities: the most probable ones, most probable first.
      phrases: what people would type for it, most probable first.
      phrase_scores: inner products of the phrases' vectors with the image's, in query space.
      error: why the image could not be classified; "" where it was.
    """

    label: str = ""
    probability: float = 0.0
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    phrases: tuple[str, ...] = ()
    phrase_scores: tuple[float, ...] = ()
    error: str = ""


class Model:
    """A dataset of export_model, loaded. For millions of images there is `classify_images`.

    Args:
      path: the dataset, local or gs://.
      batch_size: images that go through the networks at once; no result depends on it.

    Raises:
      PhraseLensError: nothing is committed there, another version exported it, or it is damaged.
    """

    def __init__(self, path: str, batch_size: int = 32):
        self._batch_size = batch_size
        settings = InferenceSettings(batch_size=batch_size)
        self._classifier = load(classifier, ModelFolder.of(path), settings=settings)

    def classify(self, images: Iterable[Any]) -> Iterator[ClassifiedImage]:
        """Classifies images, a batch at a time, as they are asked for.

        Each is decoded in a process of its own with limits of memory and time, exactly as
        `classify_images` does it. One that cannot be is an item with an `error`, and stops no
        other.

        Args:
          images: each a path (text or os.PathLike; local or gs://), the bytes of a file, a PIL
            image, or an array [height, width, 3] uint8.

        Yields:
          One item for each image, in their order.
        """
        rest = iter(images)
        while batch := list(itertools.islice(rest, self._batch_size)):
            yield from self._classify([_clean(image) for image in batch])

    def _classify(self, batch: Sequence[CleanImage | str]) -> list[ClassifiedImage]:
        """Classifies clean images; what is a text instead is the error of one."""
        found = [ClassifiedImage(error=one if isinstance(one, str) else "") for one in batch]
        clean = [(place, one) for place, one in enumerate(batch) if isinstance(one, CleanImage)]

        def classify(some: Sequence[tuple[int, CleanImage]]) -> list[ClassifiedImage]:
            data = [image.data for _, image in some]
            sizes = [3 * image.width * image.height for _, image in some]
            return _items(self._classifier.classify(data, sizes))

        good, bad = run_or_bisect(classify, clean)
        for start, items in good:
            for (place, _), item in zip(clean[start:], items, strict=False):
                found[place] = item
        for row, error in bad:
            found[clean[row][0]] = ClassifiedImage(error=f"inference_failed: {error}")
        return found


def _clean(image: Any) -> CleanImage | str:
    """The image as networks take it, or why it is none."""
    try:
        return clean_safely(_file_of(image), ImageLimits())
    except ImageError as error:
        return f"{error.reason}: {error.detail}".removesuffix(": ")
    except OSError as error:
        return f"unreadable_image: {error}"


def _file_of(image: Any) -> bytes:
    """The bytes of an image file."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return storage.read_bytes(os.fspath(image))
    from PIL import Image

    drawn = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    drawn.save(file, "PNG")
    return file.getvalue()


def _items(found: Any) -> list[ClassifiedImage]:
    """The rows of a `model_code.models.fusion.classifier.Classified`."""
    columns = (
        found.labels,
        found.probabilities.tolist(),
        found.phrases,
        found.phrase_scores.tolist(),
    )
    return [
        ClassifiedImage(
            labels[0],
            probabilities[0],
            tuple(labels),
            tuple(probabilities),
            tuple(phrases),
            tuple(scores),
        )
        for labels, probabilities, phrases, scores in zip(*columns, strict=True)
    ]
