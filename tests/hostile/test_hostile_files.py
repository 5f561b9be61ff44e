"""Files that claim or become more than memory holds: read up to a limit, then a dead file."""

import gzip
import io
import tarfile
import tracemalloc

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.base.errors import PhraseLensError
from transforms.files import compression
from transforms.files.file_heads import read_head
from transforms.images.plan import plan_images
from transforms.images.readers import read_unit
from transforms.images.units import IMAGE_FIELDS, ImageUnit
from transforms.rows import coco
from transforms.rows.columns import columns_of
from transforms.rows.tabular import BadRows, read_table

MAPPING = {field: field for field in IMAGE_FIELDS}
LOG = {"query": "query", "image": "image"}


def zeros(megabytes: int) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        for _ in range(megabytes):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def reasons(batches) -> list[str]:
    return [batch.reason for batch in batches if isinstance(batch, BadRows)]


def peak(work) -> int:
    """The most bytes that Python held at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


@pytest.mark.parametrize("size", [1 << 29, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_record_that_claims_more_than_memory(tmp_path, size):
    path = tmp_path / "a.tfrecord"
    length = size.to_bytes(8, "little")
    good = b"no example"
    first = len(good).to_bytes(8, "little")
    path.write_bytes(first + masked(first) + good + masked(good) + length + masked(length) + b"x")
    unit = ImageUnit("tfrecord", (str(path),), MAPPING)
    found: list[str] = []
    assert peak(lambda: found.extend(reasons(read_unit(unit)))) < 64 << 20
    assert found == ["bad_row", "unreadable_file"]
    path.write_bytes(length + masked(length))
    with pytest.raises(PhraseLensError, match="TFRecord"):
        plan_images("images", [str(path)], "auto", MAPPING, "stem")


def sparse_tar() -> bytes:
    """A member of a terabyte, of which there is one byte."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
        member = tarfile.TarInfo("0.jpg")
        member.size = 1
        member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)}
        file.addfile(member, io.BytesIO(b"x"))
    return buffer.getvalue()


def tar_of_names(kind: bytes) -> bytes:
    """A header that says that 300 MB of another header follow."""
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, 300 << 20
    head = member.tobuf(tarfile.USTAR_FORMAT)
    return gzip.compress(head, mtime=0) + zeros(300)


TARS = {
    "sparse.tar": sparse_tar(),
    "pax.tar.gz": tar_of_names(tarfile.XHDTYPE),
    "global.tar.gz": tar_of_names(tarfile.XGLTYPE),
    "long name.tar.gz": tar_of_names(tarfile.GNUTYPE_LONGNAME),
    "long link.tar.gz": tar_of_names(tarfile.GNUTYPE_LONGLINK),
}


@pytest.mark.parametrize("name", TARS)
def test_a_tar_file_that_claims_more_than_memory(tmp_path, name):
    (tmp_path / name).write_bytes(TARS[name])
    units = plan_images("images", [str(tmp_path / name)], "auto", MAPPING, "stem").units
    found: list[str] = []
    assert peak(lambda: found.extend(reasons(read_unit(units[0])))) < 64 << 20
    assert found == ["unreadable_file"]


def test_a_table_whose_first_line_never_ends(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(zeros(300))

    def opened():
        with pytest.raises(PhraseLensError, match="first line"):
            columns_of(str(path))

    assert peak(opened) < 64 << 20
    assert reasons(read_table(str(path), LOG)) == ["unreadable_file"]


def test_a_parquet_file_whose_columns_have_no_readable_name(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"query": ["red"], "image": ["a"], "xyzzy": [1]}), path)
    path.write_bytes(path.read_bytes().replace(b"xyzzy", b"\x97yzzy"))
    assert reasons(read_table(str(path), LOG)) == ["unreadable_file"]
    for opened in (columns_of, read_head):
        with pytest.raises(PhraseLensError, match="readable"):
            opened(str(path))


def test_a_block_of_snappy_that_claims_more_than_memory(tmp_path):
    path = tmp_path / "a.csv.snappy"
    path.write_bytes(b"\0\0\0\x0a" + b"\xff\xff\xff\xff" + b"x")
    with compression.open_stream(str(path)) as stream, pytest.raises(OSError, match="snappy block"):
        stream.read()


@pytest.mark.parametrize("kind", ["gz", "bz2", "zst"])
@pytest.mark.parametrize("is_bomb", [True, False])
def test_what_grows_more_than_any_log_ends(tmp_path, monkeypatch, kind, is_bomb):
    monkeypatch.setattr(compression, "FREE_BYTES", 1 << 18)
    queries = range(1 << 20) if is_bomb else range(1 << 16)
    rows = [b"red,a\n" if is_bomb else b"red %d,a\n" % (n * 7919 % 100_003) for n in queries]
    data = b"query,image\n" + b"".join(rows)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, compression.SUFFIXES[f".{kind}"]) as stream:
        stream.write(data)
    path = tmp_path / f"a.csv.{kind}"
    path.write_bytes(sink.getvalue().to_pybytes())
    limit = compression.MAX_EXPANSION * path.stat().st_size
    assert (len(data) > limit) == is_bomb
    found = list(read_table(str(path), LOG))
    assert reasons(found) == ["unreadable_file"] * is_bomb
    read = sum(batch.num_rows for batch in found if not isinstance(batch, BadRows))
    assert read <= max(limit, 1 << 18) / 6 if is_bomb else read == len(rows)


def test_a_document_of_captions_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "MAX_BYTES", 1000)
    path = tmp_path / "a.json"
    path.write_bytes(b'{"images": [], "annotations": [' + b" " * 1000 + b"]}")
    (bad,) = coco.read_coco(str(path))
    assert bad.reason == "unreadable_file"
    assert "more than 1,000 bytes" in bad.details[0]
