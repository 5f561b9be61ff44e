import bz2
import csv
import gzip
import io
import json
import pathlib
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.base.errors import PhraseLensError
from transforms.files import file_heads
from transforms.rows import tabular, text_blocks
from transforms.rows.columns import columns_of
from transforms.rows.tabular import BadRows, read_part, read_table

ROWS = [("red shoe", "a", 1), ('6" pan', "b", 2), ("赤い, 靴", "c", 3)]
MAPPING = {"query": "q", "image": "img", "clicks": "n", "user": "user"}


def write(path, name, data):
    (path / name).write_bytes(data)
    return str(path / name)


def read(path, mapping=MAPPING, **options):
    """Rows and bad rows of a file."""
    rows, bad = [], []
    for batch in read_table(path, mapping, **options):
        if isinstance(batch, BadRows):
            bad += [(batch.reason, detail) for detail in batch.details]
        else:
            rows += batch.to_pylist()
    return rows, bad


def as_tsv(rows):
    return "".join(f"{q}\t{i}\t{n}\n" for q, i, n in [("q", "img", "n"), *rows]).encode()


def as_csv(rows):
    lines = [f'"{q.replace(chr(34), chr(34) * 2)}",{i},{n}\r\n' for q, i, n in rows]
    return ("\ufeffq,img,n\r\n" + "".join(lines)).encode()


def as_jsonl(rows):
    return "".join(json.dumps({"q": q, "img": i, "n": n}) + "\n" for q, i, n in rows).encode()


def as_parquet(rows):
    sink = pa.BufferOutputStream()
    columns = dict(zip(("q", "img", "n"), zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table({k: pa.array(v) for k, v in columns.items()}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("log.tsv", as_tsv(ROWS)),
        ("log.csv", as_csv(ROWS)),
        ("log.jsonl", as_jsonl(ROWS)),
        ("log.parquet", as_parquet(ROWS)),
        ("LOG.TSV.GZ", gzip.compress(as_tsv(ROWS))),
        ("log.csv.bz2", bz2.compress(as_csv(ROWS))),
        ("log.ndjson.gz", gzip.compress(as_jsonl(ROWS))),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_every_format_gives_the_same_rows(tmp_path, name, data, batch_size):
    path = write(tmp_path, name, data)
    assert columns_of(path) == ["q", "img", "n"]
    rows, bad = read(path, batch_size=batch_size)
    found = [(row["query"].decode(), row["image"].decode(), int(row["clicks"])) for row in rows]
    assert found == ROWS
    assert not bad


@pytest.mark.parametrize(
    ("name", "data", "queries", "bad"),
    [
        ("short.tsv", b"q\timg\nred\n\nblue\tb\n", [b"blue"], ["line 2: 1 columns, not 2"]),
        ("long.tsv", b"q\timg\nred\ta\tx\nblue\tb\n", [b"blue"], ["line 2: 3 columns, not 2"]),
        # A short row of no valid text must not take the file with it.
        ("bytes.tsv", b"q\timg\n\xff\n\xff\ta\n", [b"\xff"], ["line 2: 1 columns, not 2"]),
        ("nul.tsv", b"q\timg\na\x00b\ta\n", [b"a\x00b"], []),
        ("quote.tsv", b'q\timg\n"open\ta\n', [b'"open'], []),
        ("return.tsv", b"q\timg\nred\rshoe\ta\nblue\tb\n", [b"blue"], ["line 2: 0 columns, not 2"]),
        ("lines.csv", b'q,img\n"red\nshoe",a\n', [b"red\nshoe"], []),
        ("windows.csv", b"q,img\r\nred,a\r\n", [b"red"], []),
        ("no_end.csv", b"q,img\nred,a", [b"red"], []),
        ("header.csv", b"q,img\n", [], []),
        ("empty.csv", b"", [], []),
        ("bom.jsonl", b'\xef\xbb\xbf{"q": "red"}\n', [b"red"], []),
        ("array.jsonl", b'[1]\n{"q": "red"}\n', [b"red"], ["line 1: no JSON object"]),
        ("cut.jsonl", b'{"q": "red"}\n{"q": "bl', [b"red"], ["line 2: no JSON object"]),
        ("deep.jsonl", b"[" * 100_000 + b'\n{"q": "red"}\n', [b"red"], ["line 1: no JSON object"]),
        ("surrogate.jsonl", b'{"q": "\\ud800"}\n', [b"\xed\xa0\x80"], []),
        ("null.jsonl", b'{"q": null}\n{"img": "a"}\n', [None, None], []),
        ("number.jsonl", b'{"q": 7}\n', [b"7"], []),
    ],
)
def test_rows_that_are_no_rows(tmp_path, name, data, queries, bad):
    rows, found = read(write(tmp_path, name, data))
    assert [row["query"] for row in rows] == queries
    assert found == [("bad_row", detail) for detail in bad]


def test_a_megabyte_in_one_field_is_read(tmp_path):
    query = b"x" * (1 << 20)
    rows, bad = read(write(tmp_path, "log.csv", b'q,img\n"' + query + b'",a\nred,b\n'))
    assert [row["query"] for row in rows] == [query, b"red"]
    assert not bad


def test_an_open_quotation_mark_does_not_swallow_the_file(tmp_path):
    data = b'q,img\n"open,a\n' + b"red,b\n" * 1_000_000
    rows, bad = read(write(tmp_path, "log.csv", data))
    assert len(bad) == 1
    assert len(rows) > 250_000


def test_invalid_text_in_json_keeps_its_row(tmp_path):
    rows, bad = read(write(tmp_path, "log.jsonl", b'{"q": "\xff"}\n{"q": "red"}\n'))
    assert len(rows) == 2
    assert not bad
    with pytest.raises(UnicodeDecodeError):
        rows[0]["query"].decode()


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("log.parquet", b""),
        ("log.tsv.gz", b"\x1f\x8b\x08"),
        ("log.csv.bz2", b"BZh91AY&SY"),
        ("log.jsonl.zst", b"\x28\xb5\x2f\xfd"),
        ("log.csv.xz", b"\xfd7zXZ\x00"),
        ("log.csv.lz4", b"\x04\x22\x4d\x18"),
        ("log.csv.zip", b"PK\x03\x04"),
        ("log.csv.snappy", b""),
    ],
)
def test_garbage_is_one_unreadable_file(tmp_path, name, begins):
    path = write(tmp_path, name, begins + b"this is no such file" * 10)
    rows, bad = read(path)
    assert not rows
    assert [reason for reason, _ in bad] == ["unreadable_file"]
    with pytest.raises(PhraseLensError, match=name):
        columns_of(path)


def test_file_cut_in_the_middle_ends_in_unreadable_file(tmp_path):
    lines = "".join(f"{i * 7919 % 1_000_003}\ta\n" for i in range(100_000))
    data = gzip.compress(b"q\timg\n" + lines.encode())
    rows, bad = read(write(tmp_path, "log.tsv.gz", data[: len(data) // 2]), batch_size=1000)
    assert 0 < len(rows) < 100_000
    assert [reason for reason, _ in bad] == ["unreadable_file"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["red", None]),
        pa.array(["red", None], pa.large_string()),
        pa.array(["red", None], pa.string_view()),
        pa.array(["red", None]).dictionary_encode(),
        pa.array([b"red", None], pa.large_binary()),
    ],
    ids=lambda column: str(column.type),
)
def test_every_type_of_text_in_parquet_is_bytes(tmp_path, column):
    path = str(tmp_path / "log.parquet")
    pq.write_table(pa.table({"q": column}), path)
    assert read(path)[0] == [{"query": b"red"}, {"query": None}]


def test_nested_columns_are_not_read(tmp_path):
    path = str(tmp_path / "log.parquet")
    pq.write_table(pa.table({"q": [["red"]], "img": ["a"]}), path)
    assert columns_of(path) == ["q", "img"]
    assert read(path)[0] == [{"image": b"a"}]


# Whole files through Python's csv and json, a row at a time, say what the rows of a file are.


def csv_oracle(data, dialect):
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", errors="surrogateescape", newline="\n")
    quoting = csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE
    reader = csv.reader(text, delimiter=dialect.delimiter, quoting=quoting)
    names, rows, bad = None, [], []
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return rows, bad
        except csv.Error:
            if names is None:
                return rows, bad
            bad.append(f"line {reader.line_num}: 0 columns, not {len(names)}")
            continue
        if names is None:
            names = row or None
        elif len(row) == len(names):
            rows.append(tuple(value.encode("utf-8", "surrogateescape") for value in row))
        elif row:
            bad.append(f"line {reader.line_num}: {len(row)} columns, not {len(names)}")


def json_oracle(data, names):
    rows, bad = [], []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig", "surrogateescape"))
        except ValueError:
            row = None
        nested = [n for n in names if isinstance(row, dict) and isinstance(row.get(n), dict | list)]
        if nested:
            bad.append(f"line {number}: {nested[0]} is an object, not one value: name one in it, ")
        elif isinstance(row, dict):
            rows.append(tuple(row.get(name) for name in names))
        else:
            bad.append(f"line {number}: no JSON object")
    return rows, bad


def parts(data, format_, mapping, name, block_bytes, cuts=()):
    """Rows and bad rows of a file that is read in parts and blocks of a few bytes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(tabular, "BLOCK_BYTES", block_bytes)
        patch.setattr(tabular, "QUOTED_BLOCK_BYTES", block_bytes)
        path = str(pathlib.Path(folder, name))
        pathlib.Path(path).write_bytes(data)
        rows, bad = [], []
        for start, stop in zip((0, *cuts), (*cuts, None), strict=True):
            for batch in read_part(path, format_, mapping, start, stop):
                if isinstance(batch, BadRows):
                    bad += batch.details
                else:
                    rows += [tuple(row.values()) for row in batch.to_pylist()]
        return rows, bad


PIECES = [b"a", b"b", b"\xff", b"\xef\xbb\xbf", b"\x00", b" ", "é".encode(), b"\r\n", b"\n", b"\n"]
TSV_LINES = st.lists(st.sampled_from([*PIECES, b"\t", b"\t", b"\r", b'"', b","])).map(b"".join)
CSV_LINES = st.lists(st.sampled_from([*PIECES, b",", b",", b'"', b'"', b'""', b"\r"])).map(b"".join)
CSV_ROWS = st.lists(
    st.lists(
        st.sampled_from([b"a", b"", b"\xff", b'"a,b"', b'"a""b"', b'"a\nb"', b'"\r\n"', b'""']),
        min_size=1,
        max_size=3,
    ).map(b",".join)
).map(lambda rows: b"".join(row + b"\n" for row in rows))
JSON_LINES = st.lists(
    st.sampled_from(
        [
            *(b'{"q": %s, "n": %s}' % (q, n) for q in (b'"a"', b"7") for n in (b"1", b"1.5")),
            b'{"q": "b"}',
            b'{"q": "\xff", "n": 2}',
            b'{"q": "\\ud800"}',
            b'{"q": {"deep": [1]}}',
            b'{"n": "text"}{"n": 2}',
            b'{"q":',
            b'"a"}',
            b'{"q": true, "q": null}',
            b' {"n": null}\r',
            b"",
            b"[1]",
            b"\xef\xbb\xbf{}",
        ]
    )
).map(b"\n".join)
FEW = settings(max_examples=150, deadline=None)


@FEW
@given(TSV_LINES, st.integers(1, 40), st.lists(st.integers(1, 60)).map(sorted))
@example(b"\xff\n\xff\ta\n", 8, [])
def test_tsv_in_any_parts_has_the_rows_of_the_csv_module(lines, block_bytes, cuts):
    data = b"x\ty\n" + lines
    mapping = {"x": "x", "y": "y"}
    rows, bad = csv_oracle(data, text_blocks.TSV)
    found, found_bad = parts(data, "tsv", mapping, "log.tsv", block_bytes, cuts)
    assert found == rows
    assert len(found_bad) == len(bad)
    assert parts(data, "tsv", mapping, "log.tsv", block_bytes) == (rows, bad)


@FEW
@given(st.one_of(CSV_LINES, CSV_ROWS), st.integers(1, 40))
@example(b'"a\nb",c\rd,"e\nf"\n', 60)
def test_csv_in_any_blocks_has_the_rows_of_the_csv_module(lines, block_bytes):
    data = b"x,y\n" + lines
    oracle = csv_oracle(data, text_blocks.CSV)
    assert parts(data, "csv", {"x": "x", "y": "y"}, "log.csv", block_bytes) == oracle


@FEW
@given(JSON_LINES, st.integers(1, 200), st.lists(st.integers(1, 200)).map(sorted))
def test_json_in_any_parts_has_the_rows_of_the_json_module(data, block_bytes, cuts):
    def text(value):
        if value is None or isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            return json.dumps(value).encode()
        if value == "\ud800":
            return value.encode("utf-8", "surrogatepass")
        return value.encode("utf-8", "surrogateescape")

    mapping = {"query": "q", "clicks": "n"}
    rows, bad = json_oracle(data, ("q", "n"))
    found, found_bad = parts(data, "jsonl", mapping, "log.jsonl", block_bytes, cuts)
    assert [text(query) for query, _ in found] == [text(query) for query, _ in rows]
    for (_, clicks), (_, expected) in zip(found, rows, strict=True):
        if isinstance(expected, int | float) and not isinstance(expected, bool):
            assert float(clicks) == expected
        else:
            assert text(clicks) == text(expected)
    assert len(found_bad) == len(bad)
    whole_bad = parts(data, "jsonl", mapping, "log.jsonl", block_bytes)[1]
    assert [detail.partition("as in")[0] for detail in whole_bad] == bad


def test_one_bad_line_of_json_leaves_the_others_as_they_are(tmp_path):
    lines = [b'{"q": "red", "n": 1.5}'] * 20_000
    lines[12_345] = b'{"q": "red'
    table, bad = read_part(
        write(tmp_path, "log.jsonl", b"\n".join(lines)), "jsonl", {"query": "q", "clicks": "n"}
    )
    assert bad.details == ["line 12346: no JSON object"]
    assert table.num_rows == 19_999
    assert {float(value) for value in table["clicks"].unique().to_pylist()} == {1.5}


def test_images_of_parquet_are_decoded_a_few_at_a_time(tmp_path, monkeypatch):
    path = str(tmp_path / "images.parquet")
    pq.write_table(pa.table({"image": [b"red"] * 10}), path)
    sizes = []

    class Watched(pq.ParquetFile):
        def iter_batches(self, *args, **options):
            for batch in super().iter_batches(*args, **options):
                sizes.append(batch.num_rows)
                yield batch

    monkeypatch.setattr(file_heads.pq, "ParquetFile", Watched)
    assert sum(table.num_rows for table in read_table(path, {"image": "image"}, 4)) == 10
    assert max(sizes) == 4


@pytest.mark.parametrize("start", [0, 1, 2])
def test_parts_of_parquet_are_row_groups(tmp_path, start):
    path = str(tmp_path / "log.parquet")
    pq.write_table(pa.table({"q": list("abcdef")}), path, row_group_size=2)
    rows = [
        row["query"]
        for table in read_part(path, "parquet", {"query": "q"}, start, start + 1)
        for row in table.to_pylist()
    ]
    assert rows == [value.encode() for value in "abcdef"[2 * start : 2 * start + 2]]
