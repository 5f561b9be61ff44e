"""What fuzzing feeds with bytes: log parsing in every layout, tables of labels, and images.

A target returns for whatever bytes: rows that are good, rows that are dead with a reason, or a
PhraseLensError. Any other exception, and a row that is neither, is a bug.
"""

import contextlib
import dataclasses
import gzip
import itertools
import json
import os
import tempfile
from bz2 import compress as bz2
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
from apache_beam.io.tfrecordio import _TFRecordUtil

from schemas.base.errors import PhraseLensError
from schemas.runs.run import Run
from schemas.tables.dead_letters import REASONS
from tests.support.inputs import icc_profiles, image_files, log_files
from transforms.images.clean import ImageError, ImageLimits, clean_image
from transforms.images.formats import FORMATS, register
from transforms.images.plan import plan_images
from transforms.images.readers import read_unit
from transforms.images.units import IMAGE_FIELDS, ImageUnit
from transforms.mining.deletions import DELETION_FIELDS, read_deletions
from transforms.mining.events import LogRules, parse_events
from transforms.mining.labels import LABEL_FIELDS, parse_labels
from transforms.rows.columns import column_mapping, columns_of
from transforms.rows.layouts import LogUnit
from transforms.rows.log_fields import LOG_FIELDS
from transforms.rows.logs import plan_log, read_log
from transforms.rows.tabular import BadRows, read_table

STAGE = Run("fuzz", "", "0" * 64, {}, "", {}, {}, "", False)
LIMITS = ImageLimits(max_pixels=1 << 20, max_side=64, max_bytes=1 << 20)
RULES = LogRules(person_key=b"key", query_parts=3)
MAPPING = {field: field for field in LOG_FIELDS}
TABLE = b'''query,image,clicks,impressions,position,session,user,timestamp,language
red shoes,a,3,9,1,s,u,2026-11-20T09:00:00Z,en
"half ""dome""",b,0.5,,2,,u,1795132800,
"two
lines",c,1,1,1,s,,1795132800000000,de
'''
LINES = b"""{"query": "red", "image": "a", "clicks": 3, "user": null}
{"query": "\\ud83d\\ude00", "image": "b", "clicks": 0.5, "position": 2, "x": [1, {"y": 2}]}
{"query": 7, "image": "c", "timestamp": "2026-11-20"}
"""
SIDES = {**log_files.QUERIES, "class-descriptions.csv": log_files.CLASSES}
LOGS = {
    "table.csv": TABLE,
    "table.tsv": TABLE.replace(b",", b"\t"),
    "table.jsonl": LINES,
    "table.parquet": log_files.parquet(query=["red", None], image=["a", "b"], clicks=[1.5, None]),
    "clickture": log_files.CLICKTURE,
    "conversions": log_files.CONVERSIONS,
    "keywords": log_files.KEYWORDS,
    "wit": log_files.WIT,
    "captions": log_files.CAPTIONS,
    "coco.json": json.dumps(log_files.COCO).encode(),
    "filelist": log_files.WEBVISION,
    "labels": log_files.OPEN_IMAGES,
    "img2dataset.parquet": log_files.IMG2DATASET,
    "shard.tar": log_files.TAR,
}
SNAPPY = b"\xff\x06\x00\x00sNaPpY\x00\x0c\x00\x00" + b"\0" * 12


def _record(key: bytes, image: bytes) -> bytes:
    """A TFRecord of one tf.Example, made by hand: map entries of name and bytes_list."""

    def field(number: int, data: bytes) -> bytes:
        assert len(data) < 1 << 14
        size = bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
        return bytes([number << 3 | 2]) + size + data

    def feature(name: bytes, value: bytes) -> bytes:
        return field(1, field(1, name) + field(2, field(1, field(1, value))))

    class _Sink:
        data = b""

        def write(self, data: bytes) -> None:
            self.data += data

    sink = _Sink()
    example = field(1, feature(b"key", key) + feature(b"image", image))
    _TFRecordUtil.write_record(sink, example)
    return sink.data


_PNG = image_files.encode(image_files.photo(), "PNG")
IMAGE_FILES = {
    "a.tfrecord": _record(b"a", _PNG) + _record(b"b", b""),
    "a.tfrecord.gz": gzip.compress(_record(b"a", _PNG), mtime=0),
    "shard.tar": log_files.tar(**{"0.png": _PNG, "1.txt": b"no image"}),
    "shard.tar.gz": gzip.compress(log_files.tar(**{"0.png": _PNG}), mtime=0),
    "images.csv": b"key,path\na,photo.png\nb,../../etc/passwd\nc,file:///etc/passwd\n",
    "images.parquet": log_files.parquet(
        key=["a", "b"],
        image=pa.array(
            [{"bytes": _PNG, "path": None}, {"bytes": None, "path": "photo.png"}],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
    ),
    "photo.png": _PNG,
}
COMPRESSED = {
    "log.csv.gz": gzip.compress(TABLE, mtime=0),
    "log.csv.bz2": bz2(TABLE),
    "log.csv.zst": pa.Codec("zstd").compress(TABLE, asbytes=True),
    "log.csv.snappy": b"\0\0\0\x08\0\0\0\x0a" + pa.Codec("snappy").compress(b"a,b\nc,d\n", True),
    "log.csv.sz": SNAPPY,
}
TABLES = {
    "labels.csv": b"key,label,split\na,shoe,train\nb,hat,val\nc,,dev\n",
    "labels.jsonl": b'{"key": "a", "label": "shoe"}\n{"key": "b", "label": ["x"]}\n',
    "deletions.csv": b"image,user,query\na,,\n,u,\n,u,red shoes\n",
}


def _pictures() -> list[bytes]:
    photo = image_files.photo()
    register()
    saved = [image_files.encode(photo, kind) for kind in FORMATS if kind != "HEIF"]
    others = [
        image_files.HEIC,
        image_files.encode(photo, "PNG", icc_profile=icc_profiles.ADOBE_RGB),
        image_files.interlaced_png(photo),
        image_files.encode(photo, "JPEG", progressive=True, quality=50),
        image_files.encode(photo.convert("CMYK"), "JPEG"),
        image_files.encode(photo.quantize(8), "PNG", transparency=1),
        image_files.encode(photo, "TIFF", compression="tiff_lzw"),
        image_files.encode(photo.convert("1"), "TIFF", compression="group4"),
        image_files.rotated_jpeg(photo, 6),
        *(image_files.animation(kind) for kind in ("GIF", "WEBP", "PNG")),
    ]
    return [*saved, *others]


class _Folder:
    """A folder in memory where there is one, with a file whose content changes."""

    def __init__(self, files: dict[str, bytes]):
        shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self._held = tempfile.TemporaryDirectory(prefix="phraselens-fuzz-", dir=shm)
        for name, data in files.items():
            self.write(name, data)

    def write(self, name: str, data: bytes) -> str:
        path = os.path.join(self._held.name, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def path(self, name: str) -> str:
        return os.path.join(self._held.name, name)


@dataclasses.dataclass(frozen=True)
class Target:
    """Something to fuzz.

    Attributes:
      run: takes any bytes.
      seeds: bytes that are good, for mutations to begin with.
    """

    run: Callable[[bytes], None]
    seeds: list[bytes]


def _chosen(files: dict[str, bytes]) -> list[bytes]:
    """Seeds whose first byte says which of the files the others are."""
    return [bytes([place]) + data for place, data in enumerate(files.values())]


def _pick(names: list[str], data: bytes) -> tuple[str, bytes]:
    return names[data[0] % len(names)], data[1:]


def _check_bad(bad: BadRows) -> None:
    assert bad.reason in REASONS, bad.reason
    assert all(isinstance(detail, str) for detail in bad.details)


def _check_log(batches: Iterable[pa.Table | BadRows]) -> None:
    for batch in batches:
        if isinstance(batch, BadRows):
            _check_bad(batch)
            continue
        output = parse_events(batch, STAGE, RULES)
        counts = output.counts
        dropped = sum(n for name, n in counts.items() if ".dropped_" in name)
        assert counts["events.in"] == batch.num_rows == counts["events.out"] + dropped


def _layouts() -> Target:
    """A log that was sound when the job was planned, and is not when it is read."""
    folder = _Folder(SIDES)
    units: dict[str, LogUnit] = {}
    for name, data in LOGS.items():
        paths = [folder.write(name, data), *(folder.path(side) for side in SIDES)]
        alone = name not in ("filelist", "labels")
        planned, _ = plan_log("log", paths[:1] if alone else _needed(paths), "auto", MAPPING, 1)
        unit = next(unit for unit in planned if unit.path == paths[0])
        units[name] = dataclasses.replace(unit, start=0, stop=None)

    def run(data: bytes) -> None:
        name, content = _pick(list(LOGS), data)
        folder.write(name, content)
        _check_log(read_log(units[name]))

    return Target(run, _chosen(LOGS))


def _needed(paths: list[str]) -> list[str]:
    side = "queries" if paths[0].endswith("filelist") else "class"
    return [paths[0], *(path for path in paths[1:] if os.path.basename(path).startswith(side))]


def _sniffing() -> Target:
    """A log that nobody has looked at, in small units."""
    folder = _Folder(SIDES)
    sides = [folder.path(name) for name in SIDES]
    names = ["log", "log.csv", "log.tsv", "log.jsonl", "log.parquet", "log.tar"]

    def run(data: bytes) -> None:
        name, content = _pick(names, data)
        path = folder.write(name, content)
        extra = sides[: data[0] // len(names) % (len(sides) + 1)]
        try:
            units, _ = plan_log("log", [path, *extra], "auto", MAPPING, 64)
            for unit in units[:50]:
                _check_log(read_log(unit))
        except PhraseLensError:
            pass
        finally:
            os.remove(path)

    return Target(run, [b"\0" + data for data in LOGS.values()])


def _compressed() -> Target:
    folder = _Folder({})

    def run(data: bytes) -> None:
        name, content = _pick(list(COMPRESSED), data)
        _check_log(read_table(folder.write(name, content), MAPPING))

    return Target(run, _chosen(COMPRESSED))


def _tables() -> Target:
    """Labels and deletions, which people write by hand."""
    folder = _Folder({})
    mapping = {field: field for field in LABEL_FIELDS}
    nothing = pa.array([], pa.string())

    def run(data: bytes) -> None:
        name, content = _pick(list(TABLES), data)
        path = folder.write(name, content)
        with contextlib.suppress(PhraseLensError):
            column_mapping("columns", tuple(columns_of(path)), DELETION_FIELDS)
        with contextlib.suppress(PhraseLensError):
            read_deletions(path, b"key")
        for batch in read_table(path, mapping):
            if isinstance(batch, BadRows):
                _check_bad(batch)
            else:
                parse_labels(batch, STAGE, nothing)

    return Target(run, _chosen(TABLES))


def _image_units() -> Target:
    folder = _Folder(IMAGE_FILES)
    mapping = {field: field for field in IMAGE_FIELDS}
    planned: dict[str, ImageUnit] = {}
    for name in IMAGE_FILES:
        (planned[name],) = plan_images("images", [folder.path(name)], "auto", mapping, "stem").units

    def batches(name: str) -> Iterator[pa.Table | BadRows]:
        yield from read_unit(planned[name])  # which was sound when it was planned
        try:
            units = plan_images("images", [folder.path(name)], "auto", mapping, "stem").units
        except PhraseLensError:
            return
        yield from itertools.chain.from_iterable(map(read_unit, units))

    def run(data: bytes) -> None:
        name, content = _pick(list(IMAGE_FILES), data)
        folder.write(name, content)
        for batch in batches(name):
            if isinstance(batch, BadRows):
                _check_bad(batch)
        folder.write("photo.png", _PNG)

    return Target(run, _chosen(IMAGE_FILES))


def _images() -> Target:
    def run(data: bytes) -> None:
        try:
            image = clean_image(data, LIMITS)
        except ImageError as error:
            if error.reason not in REASONS:
                raise
            return
        assert max(image.width, image.height) <= 64
        again = clean_image(image.data, LIMITS)
        assert again.data == image.data, "a clean image is not clean"

    return Target(run, _pictures())


TARGETS: dict[str, Callable[[], Target]] = {
    "layouts": _layouts,
    "sniffing": _sniffing,
    "compressed": _compressed,
    "tables": _tables,
    "image_units": _image_units,
    "images": _images,
}
