"""Logs that are not what their names say: read where they can be, else called by their names."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sqlite3
import zipfile

import fastavro
import google_crc32c
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.base.errors import PhraseLensError
from transforms.files.compression import compression_of, open_stream
from transforms.files.encodings import open_text
from transforms.files.file_heads import read_head, table_kind
from transforms.mining.deletions import read_deletions
from transforms.rows import text_blocks
from transforms.rows.columns import check_columns, column_mapping
from transforms.rows.json_blocks import json_rows, object_blocks
from transforms.rows.log_fields import LOG_FIELDS
from transforms.rows.logs import plan_log, read_log
from transforms.rows.tabular import BadRows, read_table

ROWS = [("red shoe", "a", 1), ('6" "pan"', "b", 2), ("赤い; 靴, | x", "c", 3)]
NAMES = ("query", "image", "clicks")
MAPPING = {field: field for field in LOG_FIELDS}


def delimited(delimiter, rows=ROWS, **options):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, **options).writerows([NAMES, *rows])
    return text.getvalue().encode()


def objects(rows=ROWS):
    return [dict(zip(NAMES, row, strict=True)) for row in rows]


def zipped(files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def by_arrow(data, compression):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, compression) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def read(path, mapping=MAPPING, unit_bytes=1 << 20):
    """(query, image, clicks) of the rows of a log, and what is wrong with others."""
    units, _ = plan_log("log", [str(path)], "auto", mapping, unit_bytes)
    found, bad = [], []
    for batch in (batch for unit in units for batch in read_log(unit)):
        if isinstance(batch, BadRows):
            bad += batch.details
            continue
        for row in batch.to_pylist():
            texts = [v.decode() if isinstance(v := row[name], bytes) else v for name in NAMES]
            found.append((texts[0], texts[1], int(texts[2])))
    return found, bad


def refusal(path, mapping=MAPPING):
    with pytest.raises(PhraseLensError) as caught:
        plan_log("log", [str(path)], "auto", mapping, 1 << 20)
    return str(caught.value)


PLAIN = delimited(",")
LINES = "".join(json.dumps(row) + "\n" for row in objects()).encode()
READABLE = {
    "semicolons": delimited(";"),
    "semicolons, all quoted": delimited(";", quoting=csv.QUOTE_ALL),
    "Excel's sep=": b"sep=;\r\n" + delimited(";"),
    "Excel's sep=,": b"\xef\xbb\xbfsep=,\r\n" + PLAIN,
    "bars": delimited("|"),
    "tabs, quoted where need be": delimited("\t"),
    "tabs, all quoted": delimited("\t", quoting=csv.QUOTE_ALL),
    "commas": PLAIN,
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "spaces around the names": PLAIN.replace(b"query,image,clicks", b"query , image,  clicks"),
    "blank lines first": b"\r\n\n" + PLAIN,
    "UTF-16 with its mark": PLAIN.decode().encode("utf-16"),
    "UTF-16, little end first": PLAIN.decode().encode("utf-16-le"),
    "UTF-16, big end first": PLAIN.decode().encode("utf-16-be"),
    "UTF-16, big end first, marked": ("\ufeff" + PLAIN.decode()).encode("utf-16-be"),
    "UTF-32": PLAIN.decode().encode("utf-32"),
    "UTF-16 text of Excel": delimited("\t").decode().encode("utf-16"),
    "line ends of old Macs": PLAIN.replace(b"\r\n", b"\r"),
    "JSON lines": LINES,
    "JSON lines in UTF-16": LINES.decode().encode("utf-16"),
    "a JSON array in one line": json.dumps(objects()).encode(),
    "a pretty JSON array": json.dumps(objects(), indent=2, ensure_ascii=False).encode(),
    "a JSON array, one row a line": b"[" + LINES.strip().replace(b"\n", b",\n") + b"]",
    "JSON array in UTF-16": json.dumps(objects()).encode("utf-16-le"),
    "pretty JSON objects": "\n".join(json.dumps(o, indent=4) for o in objects()).encode(),
    "pretty objects with a mark": b"\xef\xbb\xbf"
    + "\n\n".join(json.dumps(o, indent="\t") for o in objects()).encode(),
    "Hive's own": b"\n".join(b"\x01".join(str(v).encode() for v in r) for r in [NAMES, *ROWS]),
}


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.json", "log", "log.txt", "log.csv.gz"])
@pytest.mark.parametrize("kind", READABLE)
def test_what_can_be_read_is_read_whatever_its_name(tmp_path, kind, name):
    (tmp_path / name).write_bytes(READABLE[kind])
    assert read(tmp_path / name) == (ROWS, [])
    # Labels and images, which are no units of a log.
    (batch,) = read_table(str(tmp_path / name), {"query": "query"})
    assert batch["query"].to_pylist() == [row[0].encode() for row in ROWS]


@given(st.binary(min_size=40, max_size=60))
@example(b"13 \r no line feed" * 3)
@example(b"\xff\xfe mark of UTF-16" * 3)
def test_parquet_is_read_whatever_bytes_it_holds(tmp_path_factory, value):
    path = str(tmp_path_factory.mktemp("parquet") / "part-00000-of-00001.parquet")
    table = pa.table({"key": [value, None], "label": ["red", "blue"]})
    pq.write_table(table, path, compression="none")
    assert read_head(path).schema == table.schema
    with open_text(path) as stream, open(path, "rb") as file:
        assert stream.read() == file.read()


def test_parquet_is_known_by_its_content(tmp_path):
    columns = dict(zip(NAMES, zip(*ROWS, strict=True), strict=True))
    pq.write_table(
        pa.table({name: list(values) for name, values in columns.items()}), tmp_path / "a.csv"
    )
    assert read(tmp_path / "a.csv") == (ROWS, [])
    (tmp_path / "b.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    assert "Parquet that is compressed as a whole; decompress it" in refusal(tmp_path / "b.gz")


COMPRESSIONS = {
    "gzip": gzip.compress(PLAIN),
    "gzip in two members": gzip.compress(PLAIN[:20]) + gzip.compress(PLAIN[20:]),
    "bzip2": bz2.compress(PLAIN),
    "bzip2 in two streams": bz2.compress(PLAIN[:20]) + bz2.compress(PLAIN[20:]),
    "zstd": zstandard.compress(PLAIN),
    "zstd, no size told": by_arrow(PLAIN, "zstd"),
    "xz": lzma.compress(PLAIN),
    "xz in two streams, padded": lzma.compress(PLAIN[:20]) + bytes(8) + lzma.compress(PLAIN[20:]),
    "lz4": by_arrow(PLAIN, "lz4"),
    "zip": zipped({"log.csv": PLAIN}),
    "zip of a Mac": zipped({"log.csv": PLAIN, "__MACOSX/._log.csv": b"x", ".DS_Store": b"x"}),
    "none": PLAIN,
}


@pytest.mark.parametrize(
    "name", ["log", "log.csv", "log.csv.gz", "log.csv.zst", "log.csv.bz2", "log.xz", "log.zip"]
)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compression_is_known_by_content_whatever_the_suffix(tmp_path, compression, name):
    (tmp_path / name).write_bytes(COMPRESSIONS[compression])
    assert read(tmp_path / name, unit_bytes=16) == (ROWS, [])


def test_lzma_alone_goes_by_its_suffix(tmp_path):
    (tmp_path / "log.csv.lzma").write_bytes(lzma.compress(PLAIN, lzma.FORMAT_ALONE))
    assert read(tmp_path / "log.csv.lzma") == (ROWS, [])


@pytest.mark.parametrize("compression", ["xz", "lz4", "zip"])
def test_what_lies_before_the_damage_is_read(tmp_path, compression):
    lines = b"".join(b"%d\n" % (i * 7919 % 1_000_003) for i in range(100_000))
    packed = {"xz": lzma.compress, "lz4": lambda d: by_arrow(d, "lz4")}
    data = packed.get(compression, lambda d: zipped({"log": d}))(lines)
    if compression == "zip":  # whose list of files is at its end
        damaged = data[: len(data) // 2] + bytes(8) + data[len(data) // 2 + 8 :]
    else:
        damaged = data[: len(data) * 9 // 10]
    (tmp_path / "log").write_bytes(damaged)
    pieces = []

    def read_all():
        with open_stream(str(tmp_path / "log")) as stream:
            while piece := stream.read1(1 << 20):
                pieces.append(piece)

    with pytest.raises((OSError, pa.ArrowException)):
        read_all()
    found = b"".join(pieces)
    assert len(found) > len(lines) // 5
    if compression != "zip":
        assert lines.startswith(found)


@given(st.integers(0, 1 << 40))
@example(0x088B1F)  # a record of 559,903 bytes begins as gzip does
def test_no_length_of_a_record_looks_like_a_compression(length):
    crc = google_crc32c.value(length.to_bytes(8, "little"))
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    head = length.to_bytes(8, "little") + masked.to_bytes(4, "little") + b"\x00\x00\x00\x00"
    assert compression_of(head) is None


def avro(path):
    schema = {"type": "record", "name": "r", "fields": [{"name": "query", "type": "string"}]}
    with open(path, "wb") as file:
        fastavro.writer(file, schema, [{"query": "red"}])


def sqlite(path):
    with sqlite3.connect(path) as database:
        database.execute("create table log (query text)")


TABLE = pa.table({"query": ["red"], "image": ["a"]})
XLSX = zipped({"[Content_Types].xml": b"<Types/>", "xl/worksheets/sheet1.xml": b"<sheet/>"})
# How a file comes to be (bytes, or a function that writes it), and what people must be told.
REFUSED = {
    "xlsx": (XLSX, "a workbook or document of an office program; save it as CSV"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an old Excel workbook"),
    "avro": (avro, "an Avro file.*Export it as Parquet, CSV or JSON lines"),
    "orc": (lambda path: pa.orc.write_table(TABLE, path), "an ORC file.*Export it as"),
    "feather": (lambda path: pa.feather.write_feather(TABLE, path), "an Arrow .*Export it as"),
    "sqlite": (sqlite, "an SQLite database.*Export the table"),
    "html": (b"<!DOCTYPE html>\n<html><body>404 Not Found, sorry</body></html>", "an HTML page"),
    "html without a type": (b"\n  <html>\n<head><title>Sign in</title>", "an HTML page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(30), "a 7z archive.*Unpack it"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(30), "a RAR archive.*Unpack it"),
    "zip of two": (zipped({"a.csv": PLAIN, "b.csv": PLAIN}), r"2 files \(a.csv, b.csv\).*unpack"),
    "zip of none": (zipped({}), "a zip archive that cannot be opened"),
    "compressed twice": (gzip.compress(gzip.compress(PLAIN)), "compressed twice"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(30), "a PNG image"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00", "a Python pickle"),
    "numpy": (b"\x93NUMPY\x01\x00v\x00", "a NumPy array"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(30), "an HDF5 file"),
    "encrypted parquet": (b"PARE" + bytes(30) + b"PARE", "an encrypted Parquet file"),
    "noise": (bytes(range(256)) * 9, "binary data"),
    "empty": (b"", "found none .empty: .*log"),
    "blank": (b"\xef\xbb\xbf \r\n\r\n", "found none .empty: .*log"),
    "empty, compressed": (gzip.compress(b""), "found none .empty: .*log"),
    "no header": (
        b"red shoes,a.jpg,3\nblue,b.jpg,4\n",
        "first line looks like a row: write the names",
    ),
    "no header, tabs": (b"red\t17\nblue\t18\n", "first line looks like a row"),
    "other names": (b"Query,IMAGE,n\nred,a,1\n", "--columns 'query=Query,image=IMAGE'"),
    "one column": (
        b"query image\nred a\n",
        "Only one column was found.*tabs, commas, semicolons|None of its first lines is a JSON|"
        "a readable Parquet file, found other content",
    ),
    "rows within an object": (
        json.dumps({"status": "ok", "rows": objects()}, indent=1).encode(),
        "rows are within 'rows': write each of them as a line",
    ),
    "rows within an object, one line": (
        json.dumps({"rows": objects()}).encode(),
        "rows are within 'rows': write each of them as a line",
    ),
}


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.jsonl", "log.parquet"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_called_by_its_name(tmp_path, kind, name):
    make, message = REFUSED[kind]
    path = tmp_path / name
    if isinstance(make, bytes):
        path.write_bytes(make)
    else:
        make(str(path))
    told = refusal(path)
    assert name in told
    assert re.search(message, told), told
    assert "query=COLUMN" not in told
    if kind in ("xlsx", "html", "avro", "sqlite", "noise"):  # label files and deletions likewise
        for check in (
            lambda: check_columns(str(path), "label_columns", {"key": "key"}, ("key",)),
            lambda: read_deletions(str(path), b""),
        ):
            with pytest.raises(PhraseLensError, match=message):
                check()


def test_an_empty_part_among_good_ones_is_passed_over(tmp_path):
    for name, data in {"0.csv": b"", "1.csv": PLAIN, "2.csv": b"\n", "3.csv.gz": b""}.items():
        (tmp_path / name).write_bytes(data)
    assert read(tmp_path) == (ROWS, [])
    units, files = plan_log("log", [str(tmp_path)], "auto", MAPPING, 1 << 20)
    assert len(units) == 1
    assert len(files) == 4


def test_an_object_in_json_is_refused_with_the_path_that_reads_it(tmp_path):
    lines = [{"query": {"text": "red", "lang": "en"}, "image": {"id": 7.0}}] * 3
    lines.append({"query": None, "image": {"id": "b"}})
    for name, data in {
        "a.jsonl": "\n".join(map(json.dumps, lines)),
        "b.json": json.dumps(lines, indent=1),
    }.items():
        (tmp_path / name).write_text(data)
        told = refusal(tmp_path / name)
        assert "column 'query'" in told
        assert "found an object. Name one value in it: --columns query=query.text" in told
        mapping = column_mapping("columns", (["query=query.text", "image=image.id"]), LOG_FIELDS)
        units, _ = plan_log("log", [str(tmp_path / name)], "auto", mapping, 1 << 20)
        (batch,) = (batch for unit in units for batch in read_log(unit))
        assert batch["query"].to_pylist() == [b"red"] * 3 + [None]
        assert batch["image"].to_pylist() == [b"7"] * 3 + [b"b"]


def test_a_list_and_an_optional_object_are_refused_too(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": ["red"], "image": "a"}\n')
    assert "found a list. Write one value a row" in refusal(path)
    path.write_text('{"query": "red", "image": "a", "user": {"id": 7}}\n')
    told = refusal(path)
    assert "--columns user=user.id; to do without it, --columns user=." in told
    mapping = column_mapping("columns", ("user=",), LOG_FIELDS)
    units, _ = plan_log("log", [str(path)], "auto", mapping, 1 << 20)
    (batch,) = read_log(units[0])
    assert "user" not in batch.column_names


def test_an_object_further_down_is_a_bad_row(tmp_path):
    lines = ['{"query": "red", "image": "a", "clicks": 1}'] * 150
    lines[120] = '{"query": {"text": "red"}, "image": "a"}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found, bad = read(tmp_path / "a.jsonl")
    assert len(found) == 149
    assert bad == [
        "line 121: query is an object, not one value: name one in it, as in query=query.NAME"
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "a.b"]), inner, max_size=3),
    max_leaves=6,
)


def lookup(row, path):
    """What a path names, by its definition: the whole name first, then each shorter one."""
    if path in row:
        return row[path]
    for cut in (i for i, letter in enumerate(path) if letter == "."):
        inner = row.get(path[:cut])
        if isinstance(inner, dict) and (found := lookup(inner, path[cut + 1 :])) is not KeyError:
            return found
    return KeyError


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["a", "b", "a.b"]), VALUES, max_size=3),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(["a", "a.b", "b.a", "a.a.b", "a.b.a"]),
)
@example([{"a": {"b": "x"}}] * 3, "a.b")
@example([{"a": {"b": "x"}}, {"a.b": "y"}], "a.b")
@example([{"a": {"b": "x"}}, {"a": None}, {"a": {}}, {}], "a.b")
def test_a_path_names_the_same_value_in_all_rows(rows, path):
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    expected = [None if (v := lookup(row, path)) is KeyError else v for row in rows]
    nested = [i + 1 for i, value in enumerate(expected) if isinstance(value, dict)]
    found = json_rows(data, {"query": path})
    texts = found.table["query"].to_pylist() if found.table is not None else []
    assert [line for line, _ in found.bad] == nested
    assert texts == [
        None if v is None else (v if isinstance(v, str) else json.dumps(v)).encode()
        for v in expected
        if not isinstance(v, dict)
    ]


@settings(max_examples=50)
@given(
    st.lists(st.dictionaries(st.text(max_size=3), VALUES | st.text(), max_size=3), max_size=4),
    st.sampled_from([None, 1, "\t"]),
    st.sampled_from(["array", "objects", "lines of an array"]),
    st.integers(1, 60),
)
def test_a_json_document_in_pieces_of_any_size_has_its_objects(rows, indent, form, size):
    texts = [json.dumps(row, indent=indent, ensure_ascii=False) for row in rows]
    text = {
        "array": json.dumps(rows, indent=indent, ensure_ascii=False),
        "objects": "\n".join(texts),
        "lines of an array": "[" + ",\n".join(texts) + "]\n",
    }[form]
    stream = io.BufferedReader(io.BytesIO(text.encode("utf-8", "surrogatepass")))
    blocks = b"".join(object_blocks(stream, size))
    assert [json.loads(line) for line in blocks.splitlines()] == rows


def test_what_breaks_off_in_a_json_document_leaves_what_is_before(tmp_path):
    data = json.dumps(objects(), indent=1).encode()
    (tmp_path / "a.json").write_bytes(data[:-30])
    found, bad = read(tmp_path / "a.json")
    assert found == ROWS[:2]
    assert "no JSON objects behind its beginning" in bad[0]


def test_a_quotation_mark_that_people_typed_is_text(tmp_path):
    rows = [('"red shoes"', "a", 1), ('6" pan', "b", 2), ('"', "c", 3), ('""', "d", 4)]
    text = "\n".join("\t".join(map(str, row)) for row in [NAMES, *rows])
    (tmp_path / "log.tsv").write_text(text)
    assert read(tmp_path / "log.tsv") == (rows, [])
    head = read_head(str(tmp_path / "log.tsv"))
    assert text_blocks.DIALECTS[table_kind(head)] == text_blocks.TSV


def test_half_a_pair_of_surrogates_kills_its_row_alone(tmp_path):
    text = "query,image,clicks\nred \ud800 x,a,1\nblue,b,2\n"
    (tmp_path / "log.csv").write_bytes(text.encode("utf-16", "surrogatepass"))
    (unit,), _ = plan_log("log", [str(tmp_path)], "auto", MAPPING, 1 << 20)
    (batch,) = read_log(unit)
    first, second = batch["query"].to_pylist()
    with pytest.raises(UnicodeDecodeError):
        first.decode()
    assert second == b"blue"
