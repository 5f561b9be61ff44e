"""Images as people have them → clean images, in tables; what cannot be used is a dead letter."""

import functools
import hashlib
import types
from collections.abc import Mapping

import apache_beam as beam
import pyarrow as pa

from schemas.console import progress
from schemas.runs.run import Run
from schemas.tables.dead_letters import dead_letters
from transforms.duplicates.signature import SIGNATURE_BYTES
from transforms.files.secret_files import FromFiles
from transforms.images.clean import CleanImage, ImageError, ImageLimits
from transforms.images.process import clean_safely
from transforms.images.readers import read_unit
from transforms.mining.deletions import Deletions
from transforms.rows.checked import checked_file
from transforms.shards.outputs import COUNTS, DEAD, Output, par_do

CLEAN_IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("key", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image", pa.binary()),
        ("signature", pa.binary(SIGNATURE_BYTES)),
        ("source", pa.string()),  # hash of the bytes as they came
        ("original", pa.bool_()),  # whether those were clean already
    ]
)


def source_of(data: bytes) -> str:
    """Names the bytes of an image as they came: 32 hex digits of their SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


def clean_images(
    table: pa.Table,
    run: Run,
    limits: ImageLimits,
    forgotten: frozenset[str] = frozenset(),
    known: Mapping[str, CleanImage] = types.MappingProxyType({}),
) -> Output:
    """Cleans a batch of RAW_IMAGES; one bad image is one dead letter, one of `forgotten` is none.

    Args:
      table, run, limits: see `ReadImages`.
      forgotten: keys of images that must be forgotten.
      known: source → what `clean_image` made of it before, with the same limits.

    Returns:
      Table `clean` (rows of CLEAN_IMAGES), dead letters, counts of `images`.
    """
    reused = 0
    good: list[tuple] = []
    dead: list[tuple[str, str, str, bytes]] = []
    for key, data in zip(table["key"].to_pylist(), table["image"].to_pylist(), strict=True):
        if not key:
            reason = "bad_encoding" if key is None else "missing_image_key"
            dead.append((reason, "", "in the image key" * (key is None), data or b""))
            continue
        if key in forgotten:
            continue
        try:
            source = source_of(data or b"")
            reused += source in known
            image = known.get(source) or clean_safely(data or b"", limits)
            size = image.width, image.height
            original = image.data == data
            good.append((image.image_id, key, *size, image.data, image.signature, source, original))
        except ImageError as error:
            dead.append((error.reason, key, error.detail, data or b""))
    counts = {"images.in": table.num_rows, "images.out": len(good)}
    if reused:
        counts["reused.rows"] = reused
    if gone := table.num_rows - len(good) - len(dead):
        counts["images.dropped_forgotten"] = gone
    letters = []
    for reason in sorted({row[0] for row in dead}):
        rows = [row for row in dead if row[0] == reason]
        counts[f"images.dropped_{reason}"] = len(rows)
        _, keys, details, payloads = (list(column) for column in zip(*rows, strict=True))
        letters.append(dead_letters(run.name, run.run_id, reason, keys, details, payloads=payloads))
    columns = list(zip(*good, strict=True)) or [()] * len(CLEAN_IMAGES)
    clean = pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, CLEAN_IMAGES, strict=True)],
        schema=CLEAN_IMAGES,
    )
    return Output({"clean": clean}, tuple(letters), counts)


class ReadImages(beam.PTransform):
    """PCollection[ImageUnit] → tagged `clean` (tables of CLEAN_IMAGES), `dead`, `counts`.

    Args:
      run: the run.
      limits: what one image may cost.
      total: images in all, for the time left, or None.
      deletions: the images that must be forgotten, for workers.
    """

    def __init__(
        self,
        run: Run,
        limits: ImageLimits,
        total: int | None,
        deletions: FromFiles[Deletions],
    ):
        super().__init__()
        self._args = run, limits, total, deletions

    def expand(self, units):
        fn = _ReadImagesFn(*self._args)
        return units | beam.Reshuffle() | par_do(fn, tags=(DEAD, COUNTS, "clean"))


class _ReadImagesFn(beam.DoFn):
    def __init__(self, run, limits, total, deletions):
        self._run, self._limits = run, limits
        self._total, self._deletions = total, deletions

    def setup(self):
        self._forgotten = self._deletions().key_set
        self._progress = progress.shared("read images", self._total, "images")

    def teardown(self):
        self._progress.close()

    def process(self, unit):
        clean = functools.partial(
            clean_images,
            run=self._run,
            limits=self._limits,
            forgotten=self._forgotten,
        )
        batches = read_unit(unit, self._forgotten)
        for output in checked_file(batches, "images", clean, self._run, unit.files):
            self._progress.add(output.counts.get("images.in", 0))
            yield from output.tagged()
