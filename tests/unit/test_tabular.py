import bz2
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import PhraseLensError
from transforms.tabular import BadRows, check_columns, column_mapping, columns_of, read_table

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


@pytest.mark.parametrize("name", ["log.parquet", "log.tsv.gz", "log.csv.bz2", "log.jsonl.zst"])
def test_garbage_is_one_unreadable_file(tmp_path, name):
    path = write(tmp_path, name, b"this is no such file" * 10)
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


def test_nested_columns_are_no_columns(tmp_path):
    path = str(tmp_path / "log.parquet")
    pq.write_table(pa.table({"q": [["red"]], "img": ["a"]}), path)
    assert columns_of(path) == ["img"]
    assert read(path)[0] == [{"image": b"a"}]


def test_column_mapping():
    mapping = column_mapping("log_columns", ("query=q", "image=a=b"), ("query", "image", "clicks"))
    assert mapping == {"query": "q", "image": "a=b", "clicks": "clicks"}


@pytest.mark.parametrize("value", ["q", "quarry=q"])
def test_column_mapping_names_the_fields(value):
    with pytest.raises(PhraseLensError, match=f"--log_columns {value}.*query, image"):
        column_mapping("log_columns", (value,), ("query", "image"))


@pytest.mark.parametrize(
    ("header", "mapping", "message"),
    [
        (b"query,image\n", {"query": "query", "image": "image"}, None),
        (b"q,image\n", {"query": "query", "image": "image"}, "column 'query' of .*found q, image"),
        (b"", {"query": "query", "image": "image"}, "column 'query' of .*found none"),
        # A field that somebody maps is wanted, required or not.
        (b"query,image\n", {"query": "query", "image": "image", "clicks": "n"}, "column 'n' of"),
        (b"query,image,query\n", {"query": "query", "image": "image"}, "found 2"),
        (b"qu\xffery,image\n", {"query": "query", "image": "image"}, "column 'query' of"),
    ],
)
def test_check_columns(tmp_path, header, mapping, message):
    path = write(tmp_path, "log.csv", header)
    if message is None:
        check_columns(path, "log_columns", mapping, ("query", "image"))
    else:
        with pytest.raises(PhraseLensError, match=message) as error:
            check_columns(path, "log_columns", mapping, ("query", "image"))
        assert path in str(error.value)


def test_check_columns_with_a_choice(tmp_path):
    path = write(tmp_path, "images.csv", b"key,path\n")
    mapping = {name: name for name in ("key", "image", "path", "url")}
    check_columns(path, "image_columns", mapping, ("key",), ("image", "path"))
    with pytest.raises(PhraseLensError, match=r"columns 'image' and 'url' of .*--image_columns"):
        check_columns(path, "image_columns", mapping, ("key",), ("image", "url"))
