import bz2
import gzip
import json
import pathlib
import tempfile

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base.errors import PhraseLensError
from tests.support.inputs.log_files import (
    CAPTIONS,
    CLASSES,
    CLICKTURE,
    COCO,
    CONVERSIONS,
    IMG2DATASET,
    KEYWORDS,
    OPEN_IMAGES,
    PHOTOS,
    QUERIES,
    TAR,
    WEBVISION,
    WIT,
    parquet,
)
from transforms.rows.layouts import FORMATS
from transforms.rows.logs import check_times, plan_log, read_log
from transforms.rows.tabular import BadRows

FIELDS = ("query", "image", "clicks", "impressions", "position", "session", "user", "timestamp")
MAPPING = {field: field for field in (*FIELDS, "language")}


def write(folder, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [str(folder / name) for name in files]


def read(paths, format_="auto", mapping=MAPPING, unit_bytes=1 << 20):
    """Rows, details of bad rows, and the units of a log."""
    units, _ = plan_log("log", paths, format_, mapping, unit_bytes)
    rows, bad = [], []
    for unit in units:
        for batch in read_log(unit):
            if isinstance(batch, BadRows):
                bad += batch.details
            else:
                assert set(batch.column_names) <= set(MAPPING)
                rows += batch.to_pylist()
    return rows, bad, units


def texts(rows, *fields):
    return [
        tuple(v.decode() if isinstance(v := row[field], bytes) else v for field in fields)
        for row in rows
    ]


def both_ways(tmp_path, files, format_):
    """Found by name of the format and by sniffing, under names that tell nothing."""
    paths = write(tmp_path, files)
    rows, bad, units = read(paths)
    assert read(paths, format_) == (rows, bad, units)
    return rows, bad


def test_clickture(tmp_path):
    rows, bad = both_ways(tmp_path, {"log": CLICKTURE}, "clickture")
    assert texts(rows, "image", "query", "clicks") == [
        ("bgQg0sM1x5JtYA", "red shoes", "12"),
        ("bgQg0sM1x5JtYA", 'shoes "size 6', "1"),
        ("c81RffVaZqgk7A", "half dome", "3"),
    ]
    assert not bad


def test_unsplash_conversions_are_clicks_and_keywords_beside_them_are_not(tmp_path):
    files = {"conversions.tsv000": CONVERSIONS, "keywords.tsv000": KEYWORDS, "photos": PHOTOS}
    rows, bad = both_ways(tmp_path, files, "unsplash")
    assert texts(rows, "query", "image", "user", "timestamp") == [
        ("mountain", "4IDqcNj827I", "f0f3a1c8", "2020-02-28 09:33:51.412"),
        ('the "big" one', "XMyPniM9LF0", "f0f3a1c8", "2020-02-28 09:34:02.001"),
    ]
    assert not bad


def test_unsplash_keywords_alone_count_where_a_person_suggested_them(tmp_path):
    rows, _ = both_ways(tmp_path, {"keywords": KEYWORDS, "photos": PHOTOS}, "unsplash")
    assert texts(rows, "query", "image", "clicks", "impressions") == [
        ("mountain", "4IDqcNj827I", 0, 0),
        ("peak", "4IDqcNj827I", 1, 1),
    ]


def test_wit(tmp_path):
    rows, bad = both_ways(tmp_path, {"wit": WIT}, "wit")
    assert sorted(texts(rows, "query", "image", "language")) == [
        ("", "https://w/c.jpg", "fr"),
        ("Gipfel", "https://w/b.jpg", "de"),
        ("Half Dome", "https://w/a.jpg", "en"),
        ('Half Dome, "seen" from\nGlacier Point', "https://w/a.jpg", "en"),
    ]
    assert not bad


def test_conceptual_captions(tmp_path):
    rows, bad = both_ways(tmp_path, {"cc": CAPTIONS}, "conceptual_captions")
    assert texts(rows, "query", "image") == [
        ('a very "typical" bus station', "http://lh6.g.com/bus.jpg"),
        ("sun", "https://p.com/s.jpg"),
    ]
    assert not bad


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("odd", ["", "\ud800"])
def test_coco_captions(tmp_path, indent, odd):
    document = json.loads(json.dumps(COCO))
    document["annotations"][0]["caption"] += odd
    data = json.dumps(document, indent=indent).encode()
    rows, bad = both_ways(tmp_path, {"captions_val2017.json": data}, "coco_captions")
    assert [(row["query"], row["image"].decode()) for row in rows] == [
        (b"A man on a moped." + odd.encode("utf-8", "surrogatepass"), "000000391895"),
        ("Ein Gepäckträger".encode(), "000000000007"),
        (None, "000000000007"),
    ]
    assert bad == ["annotation 3: image 8 is none"]


@pytest.mark.parametrize("data", [b'{"images": [', b'{"images": [], "annotations": 2}'])
def test_coco_that_is_cut_or_has_no_lists_is_unreadable(tmp_path, data):
    rows, bad, _ = read(write(tmp_path, {"coco": data}))
    assert not rows
    assert bad[0].startswith("no COCO captions")


def test_webvision(tmp_path):
    rows, bad = both_ways(tmp_path, {"train_filelist.txt": WEBVISION, **QUERIES}, "webvision")
    assert texts(rows, "query", "image") == [
        ("tench", "SlPnqBN"),
        ("hen bird", "4231.8"),
        ("Tinca tinca", "x"),
        ("tench", "y"),
        ("tench", "z"),
    ]
    assert len(bad) == 1


def test_webvision_with_a_query_that_no_list_has(tmp_path):
    files = {"filelist": WEBVISION, "queries_google.txt": QUERIES["queries_google.txt"]}
    rows, bad, _ = read(write(tmp_path, files))
    assert len(rows) == 4
    assert "flickr/12 has no query" in bad


@pytest.mark.parametrize("header", [b"", b"LabelName,DisplayName\n"])
def test_open_images(tmp_path, header):
    files = {"train.csv": OPEN_IMAGES, "class-descriptions.csv": header + CLASSES}
    rows, bad = both_ways(tmp_path, files, "open_images")
    assert texts(rows, "query", "image", "clicks", "impressions") == [
        ("Box", "000002b66c9c498e", "0", 1),
        ('Fiat 500 "topolino"', "000002b66c9c498e", "0.7", 1),
        ("Spätzle", "000002b97e5471a0", "1", 1),
    ]
    assert bad == ["/m/nobody has no class description"]


def test_img2dataset_parquet(tmp_path):
    rows, bad = both_ways(tmp_path, {"00000.parquet": IMG2DATASET}, "img2dataset")
    assert texts(rows, "query", "image", "clicks", "impressions") == [
        ("red shoe", "000000000", 1, 1),
        ("lost", "000000001", 0, 0),
    ]
    assert not bad


def test_img2dataset_parquet_with_images_has_its_captions_in_txt(tmp_path):
    data = parquet(key=["0"], jpg=[b"jpeg"], txt=["red shoe"], url=["u"], status=["success"])
    rows, _ = both_ways(tmp_path, {"00000.parquet": data}, "img2dataset")
    assert texts(rows, "query", "image", "clicks") == [("red shoe", "0", 1)]


def test_webdataset_tar(tmp_path):
    rows, bad = both_ways(tmp_path, {"00000.tar": TAR}, "img2dataset")
    assert texts(rows, "query", "image") == [
        ("red shoe", "000000000"),
        ("blue 😀", "d/1"),
        *(("", f"00000000{i}") for i in (2, 3, 4)),
    ]
    assert not bad


def test_a_tar_whose_captions_lie_beside_it_is_not_read_twice(tmp_path):
    files = {"00000.tar": TAR, "00000.parquet": IMG2DATASET, "00001.tar": TAR}
    files["00000_stats.json"] = b'{\n    "count": 2,\n    "failed_to_download": 1\n}'
    (tmp_path / "CC3M").mkdir()
    _, _, units = read(write(tmp_path / "CC3M", files))
    assert [(unit.format, unit.path.rsplit("/", 1)[1]) for unit in units] == [
        ("img2dataset", "00000.parquet"),
        ("webdataset", "00001.tar"),
    ]


@pytest.mark.parametrize("size", [1100, 1500, 2048])
def test_cut_tar_ends_in_unreadable_file(tmp_path, size):
    (unit,), _ = plan_log("log", write(tmp_path, {"a.tar": TAR[:size]}), "auto", MAPPING, 1 << 20)
    batches = list(read_log(unit))
    assert [b.reason for b in batches if isinstance(b, BadRows)][-1] == "unreadable_file"


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zst"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("log.tsv", b"query\timage\tclicks\nred\ta\t1\nblue\tb\t2\n"),
        ("log.csv", b'query,image,clicks\n"red",a,1\nblue,b,2\n'),
        ("log.jsonl", b'{"query": "red", "image": "a", "clicks": 1}\n' * 2),
        ("log.txt", b"query\timage\tclicks\nred\ta\t1\nblue\tb\t2\n"),
    ],
)
def test_tables_in_every_compression(tmp_path, name, data, suffix):
    with pa.BufferOutputStream() as sink, pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
        stream.close()
        zstd = sink.getvalue().to_pybytes()
    packed = {"": data, ".gz": gzip.compress(data), ".bz2": bz2.compress(data), ".zst": zstd}
    rows, bad = both_ways(tmp_path, {name + suffix: packed[suffix]}, "table")
    assert texts(rows[:1], "query", "image") == [("red", "a")]
    assert len(rows) == 2
    assert not bad


def test_mapped_columns_make_a_table(tmp_path):
    paths = write(tmp_path, {"conversions.tsv000": CONVERSIONS})
    rows, _, _ = read(paths, mapping=MAPPING | {"query": "keyword", "image": "photo_id"})
    assert texts(rows[:1], "query", "image") == [("mountain", "4IDqcNj827I")]
    with pytest.raises(PhraseLensError, match=r"--columns.*unsplash"):
        read(paths, "unsplash", MAPPING | {"query": "keyword"})


@pytest.mark.parametrize(
    ("files", "format_", "message"),
    [
        ({}, "auto", "at least one file"),
        ({"a.jpg": b"\xff\xd8\xff"}, "auto", "a.jpg.*a log in one of"),
        ({"a.tsv": b"q\timage\nred\ta\n"}, "auto", "column 'query' of .*found q, image.*--columns"),
        ({"a.tsv": CAPTIONS}, "clickture", "a.tsv.*clickture file"),
        ({"a": CLICKTURE, "b": CAPTIONS}, "auto", "files of one format"),
        ({"a": OPEN_IMAGES}, "auto", "class-descriptions.csv"),
        ({"a": WEBVISION}, "auto", "queries_google.txt"),
        ({"a": PHOTOS}, "auto", "found unsplash_photos"),
        ({"_SUCCESS": b""}, "auto", "found none"),
        (
            {"a": parquet(query=["red"], image=[{"bytes": b"jpeg", "path": "a.jpg"}])},
            "auto",
            "column 'image' of .*--columns image_id=COLUMN",
        ),
        ({"a.tsv.gz": b"no gzip"}, "auto", "a.tsv.gz"),
        ({"a.tsv": b""}, "auto", "found none"),
    ],
)
def test_what_is_no_log_fails_early(tmp_path, files, format_, message):
    paths = write(tmp_path, files) or [str(tmp_path / "none*")]
    with pytest.raises(PhraseLensError, match=message):
        read(paths, format_)


def test_every_format_is_tested_here():
    assert FORMATS[0] == "auto"
    assert len(set(FORMATS)) == len(FORMATS) == 10


def test_marks_of_spark_are_no_part_of_a_log(tmp_path):
    write(tmp_path, {"_SUCCESS": b"", ".part.tsv.crc": b"crc", "part.tsv": b"query\timage\na\tb\n"})
    rows, _, _ = read([str(tmp_path)])
    assert rows == [{"query": b"a", "image": b"b"}]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *(CLICKTURE, CONVERSIONS, KEYWORDS, WIT, CAPTIONS, WEBVISION, OPEN_IMAGES),
                *(CLASSES, TAR, IMG2DATASET, json.dumps(COCO).encode()),
                *(b"\xff", b"\n", b"{", b'"', b"\t", b","),
            ]
        ).flatmap(lambda data: st.integers(0, len(data)).map(lambda size: data[:size])),
        max_size=4,
    ),
    st.sampled_from(FORMATS),
    st.sampled_from(["log", "log.tsv", "log.csv", "log.json", "log.parquet"]),
)
def test_no_bytes_make_more_than_bad_rows_or_an_early_error(pieces, format_, name):
    with tempfile.TemporaryDirectory() as folder:
        paths = write(pathlib.Path(folder), {name: b"".join(pieces), "c.csv": CLASSES})
        paths = paths if format_ == "open_images" else paths[:1]
        try:
            units, _ = plan_log("log", paths, format_, MAPPING, 100)
        except PhraseLensError:
            return
        for unit in units:
            for batch in read_log(unit):
                assert isinstance(batch, BadRows) or {"query", "image"} <= set(batch.column_names)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 60))
def test_units_of_any_size_have_the_rows_of_the_file(unit_bytes, rows):
    lines = [(f"query {i} é", f"img{i}", i % 7) for i in range(rows)]
    files = {
        "a.tsv": "query\timage\tclicks\n" + "".join(f"{q}\t{i}\t{n}\n" for q, i, n in lines),
        "b.csv": "query,image,clicks\n" + "".join(f'"{q}",{i},{n}\n' for q, i, n in lines),
        "c.jsonl": "".join(
            json.dumps(dict(zip(("query", "image", "clicks"), line, strict=True))) + "\n"
            for line in lines
        ),
        "d": "".join(f"{i}\t{q}\t{n}\n" for q, i, n in lines),
    }
    columns = list(zip(*lines, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        paths = write(pathlib.Path(folder), {name: text.encode() for name, text in files.items()})
        table = dict(zip(("query", "image", "clicks"), columns, strict=True))
        paths += write(pathlib.Path(folder), {"e.parquet": parquet(**table)})
        for path in paths:
            found, bad, units = read([path], unit_bytes=unit_bytes)
            assert [(q, i, int(n)) for q, i, n in texts(found, "query", "image", "clicks")] == lines
            assert not bad
            assert len(units) == 1 or path[-5:] != "b.csv"


@pytest.mark.parametrize(
    ("name", "data"), [("wit", WIT), ("keywords", KEYWORDS), ("train.parquet", IMG2DATASET)]
)
def test_a_log_that_changed_since_the_plan_is_a_dead_file(tmp_path, name, data):
    units, _ = plan_log("log", write(tmp_path, {name: data}), "auto", MAPPING, 1 << 20)
    other = parquet(other=["x"]) if name.endswith("parquet") else b"other\tnames\n1\t2\n"
    write(tmp_path, {name: other})
    found = [batch for unit in units for batch in read_log(unit)]
    assert [bad.reason for bad in found] == ["unreadable_file"]
    assert "it has no column" in found[0].details[0]


@pytest.mark.parametrize(
    ("log", "side", "data"),
    [
        (OPEN_IMAGES, "class-descriptions.csv", CLASSES),
        (OPEN_IMAGES, "class-descriptions.csv", CLASSES + b'/m/1,"' + b"x" * (5 << 20)),
        (WEBVISION, "queries_google.txt", QUERIES["queries_google.txt"]),
    ],
)
def test_a_log_whose_explanations_broke_has_an_error_that_says_so(tmp_path, log, side, data):
    packed = gzip.compress(data)
    paths = write(tmp_path, {"log": log, f"{side}.gz": packed})
    units, _ = plan_log("log", paths, "auto", MAPPING, 1 << 20)
    write(tmp_path, {f"{side}.gz": packed if len(data) > 1 << 20 else packed[:-12]})
    with pytest.raises(PhraseLensError, match="explains the ids"):
        list(read_log(units[0]))


@pytest.mark.parametrize(
    ("times", "day", "message"),
    [
        (["01/02/2023", "02/02/2023"], None, "'01/02/2023' may be of two days"),
        (["", "10:00:00"], None, "'10:00:00' is a time of day alone; .*--partition"),
        (["", "10:00:00"], 7, None),
        (["01/02/2023", "2023-02-01"], None, None),
        (["", ""], None, None),
        (["jane", "joe"], None, "neither a number nor a time"),
        (pa.array([1, 2], pa.time32("s")), None, "'00:00:01.000' is a time of day alone"),
        (pa.array([1, 2], pa.time32("s")), 7, None),
    ],
)
def test_a_log_without_one_sure_time_fails_before_any_work(tmp_path, times, day, message):
    data = parquet(query=["red"] * 2, image=["a"] * 2, timestamp=times)
    units, _ = plan_log("log", write(tmp_path, {"a": data}), "auto", MAPPING, 1 << 20)
    if message is None:
        check_times(units, day)
        return
    with pytest.raises(PhraseLensError, match=f"column 'timestamp' of .*{message}") as caught:
        check_times(units, day)
    assert "jane" not in str(caught.value)
