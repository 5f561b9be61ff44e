"""Images as people have them, in pieces: files, tables, TFRecord, WebDataset.

Found by plan.py, read by readers.py.
"""

import dataclasses
import unicodedata

import pyarrow as pa

from transforms.images.places import Places
from transforms.rows.column_types import whole_text
from transforms.rows.text_blocks import Dialect

IMAGE_FIELDS = ("key", "image", "path")
KEY_KINDS = ("stem", "name", "path")  # what an image file can be called by
BATCH_IMAGES = 64

RAW_IMAGES = pa.schema(
    [
        ("key", pa.string()),  # in NFC; null where it is no valid text
        ("image", pa.binary()),
    ]
)


def raw_images(rows: list[tuple]) -> pa.Table:
    """RAW_IMAGES of some (key, image)."""
    keys, images = zip(*rows, strict=True)
    return pa.table([pa.array(keys, pa.string()), pa.array(images, pa.binary())], RAW_IMAGES)


NOWHERE_ELSE = Places()


@dataclasses.dataclass(frozen=True)
class ImageUnit:
    """A piece of the images that is read at once: files, or a part of a container.

    Attributes:
      format: of IMAGE_FORMATS.
      paths: the files.
      mapping: field → column (table) or feature (tfrecord).
      keys: of the images, where each is a file.
      places: where images may be read from.
      bases: folders that image files were looked for in.
      text: of a table, how it is written, as `read_part` takes it.
      start, stop: of a table the row groups or bytes of a part (see `read_part`), of a TFRecord
        the bytes that its records begin in; None for all that follow.
      stripe, stripes: of a table that only names images, which of its batches: the first, second,
        … of every so many. Each reads the part, and opens a share of what it names.
    """

    format: str
    paths: tuple[str, ...]
    mapping: dict[str, str]
    keys: tuple[str, ...] = ()
    places: Places = NOWHERE_ELSE
    bases: tuple[str, ...] = ()
    text: str | Dialect | None = None
    start: int = 0
    stop: int | None = None
    stripe: int = 0
    stripes: int = 1

    @classmethod
    def of_json(cls, fields: dict) -> "ImageUnit":
        """The unit of these fields, as JSON has them."""
        texts = {name: tuple(fields[name]) for name in ("paths", "keys", "bases")}
        text = fields["text"]
        dialect = Dialect(**text) if isinstance(text, dict) else text
        places = Places.of_json(fields["places"])
        return cls(**{**fields, **texts, "places": places, "text": dialect})

    @property
    def files(self) -> int:
        """Files that it stands for: one in parts counts with the first of them."""
        return 0 if self.start or self.stripe else len(self.paths)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its files."""
        return self.start == 0 and self.stop is None


def key_of_path(path: str, kind: str) -> str:
    """What an image file is called; `kind` is one of KEY_KINDS."""
    name = path.rsplit("/", 1)[-1]
    key = {"path": path, "name": name, "stem": name.rsplit(".", 1)[0]}[kind]
    return unicodedata.normalize("NFC", whole_text(key))
