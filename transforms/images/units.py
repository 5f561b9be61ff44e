"""Images as people have them, in pieces: files, tables, TFRecord, WebDataset.

Found by plan.py, read by readers.py.
"""

import dataclasses
import unicodedata

import pyarrow as pa

from transforms.images.places import Places
from transforms.rows.column_types import whole_text

IMAGE_FIELDS = ("key", "image", "path")
KEY_KINDS = ("stem", "name", "path")  # what an image file can be called by
BATCH_IMAGES = 64

RAW_IMAGES = pa.schema(
    [
        ("key", pa.string()),  # in NFC; null where it is no valid text
        ("image", pa.binary()),
    ]
)

NOWHERE_ELSE = Places()


@dataclasses.dataclass(frozen=True)
class ImageUnit:
    """A piece of the images that is read at once: files, or one table, TFRecord or tar file.

    Attributes:
      format: of IMAGE_FORMATS.
      paths: the files.
      mapping: field → column (table) or feature (tfrecord).
      keys: of the images, where each is a file.
      places: where images may be read from.
      bases: folders that image files were looked for in.
      first, stop: of a table, the rows from one to before the other; None for all that follow.
    """

    format: str
    paths: tuple[str, ...]
    mapping: dict[str, str]
    keys: tuple[str, ...] = ()
    places: Places = NOWHERE_ELSE
    bases: tuple[str, ...] = ()
    first: int = 0
    stop: int | None = None

    @classmethod
    def of_json(cls, fields: dict) -> "ImageUnit":
        """The unit of these fields, as JSON has them."""
        texts = {name: tuple(fields[name]) for name in ("paths", "keys", "bases")}
        return cls(**{**fields, **texts, "places": Places.of_json(fields["places"])})

    @property
    def files(self) -> int:
        """Files that it stands for: a table is that of its first rows, and counts once."""
        return 0 if self.first else len(self.paths)


def key_of_path(path: str, kind: str) -> str:
    """What an image file is called; `kind` is one of KEY_KINDS."""
    name = path.rsplit("/", 1)[-1]
    key = {"path": path, "name": name, "stem": name.rsplit(".", 1)[0]}[kind]
    return unicodedata.normalize("NFC", whole_text(key))
