"""PhraseLens in a program of one's own: open a model, an index or a dataset.

    import phraselens

    model = phraselens.open_model("work/quickstart/model")
    for image in model.classify(["photo.jpg"]):
        print(image.label, image.probability, image.phrases)

Paths are local or gs://. What is opened loads TensorFlow, Faiss or Arrow; the import does not.
"""

from typing import TYPE_CHECKING

from phraselens.version import version as _version
from schemas.base.errors import PhraseLensError

if TYPE_CHECKING:
    from phraselens.dataset import Dataset
    from phraselens.index import Index
    from phraselens.model import Model

__version__ = _version()
__all__ = ["PhraseLensError", "__version__", "open_dataset", "open_index", "open_model"]


def open_model(path: str, batch_size: int = 32) -> "Model":
    """Opens an exported model: images → labels, and the phrases behind them.

    Args:
      path: the dataset of `export_model`.
      batch_size: images that go through the networks at once.

    Raises:
      PhraseLensError: there is none, another version exported it, or it is damaged.
    """
    from phraselens.model import Model

    return Model(path, batch_size)


def open_index(path: str) -> "Index":
    """Opens the phrases of an `embed_phrases` dataset for search.

    Args:
      path: the dataset.

    Raises:
      PhraseLensError: there is none, another version wrote it, or it is damaged.
    """
    from phraselens.index import Index

    return Index(path)


def open_dataset(path: str) -> "Dataset":
    """Opens what any stage has committed, to be read as Arrow.

    Args:
      path: the dataset, such as `work/mine/features`.

    Raises:
      PhraseLensError: nothing is committed there.
    """
    from phraselens.dataset import Dataset

    return Dataset(path)
