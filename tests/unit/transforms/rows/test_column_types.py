"""Every type of Arrow and Parquet, in every column that a person may give."""

import datetime
import decimal
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.base.errors import PhraseLensError
from transforms.images.plan import plan_images
from transforms.images.readers import read_unit
from transforms.images.units import IMAGE_FIELDS
from transforms.mining.deletions import DELETION_FIELDS
from transforms.mining.labels import LABEL_FIELDS
from transforms.rows import checked as rows
from transforms.rows import column_types
from transforms.rows.columns import check_columns
from transforms.rows.log_fields import LOG_FIELDS
from transforms.rows.logs import plan_log, read_log
from transforms.rows.tabular import BadRows, read_table

UUIDS = [uuid.UUID(int=7 << 100), None]
UUID_BYTES = [value and value.bytes for value in UUIDS]
DAY = datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC)
MS = 1_700_000_000_000
D = decimal.Decimal


def ext(type_, storage):
    return pa.ExtensionArray.from_storage(type_, storage)


def moments(type_):
    return pa.array([DAY if getattr(type_, "tz", 1) else DAY.replace(tzinfo=None), None], type_)


# A column of each type with two values, the second of which is null, and what its first value is
# as text, id, number and time; None where the column must be refused.
N, T, R = "7", 7.0, None
TYPES = {
    "null": (pa.nulls(2), "", "", np.nan, np.nan),
    "bool": (pa.array([True, None]), "true", R, 1.0, R),
    "bool8": (ext(pa.bool8(), pa.array([1, None], pa.int8())), "true", R, 1.0, R),
    **{
        str(type_): (pa.array([7, None], type_), N, N, T, 7000.0)
        for type_ in (
            *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
            *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        )
    },
    **{
        str(type_): (pa.array(np.array([7, 0]), type_, mask=np.array([0, 1], bool)), N, N, T, 7000)
        for type_ in (pa.float16(), pa.float32(), pa.float64())
    },
    **{
        str(type_): (pa.array([D("7.00"), None], type_), N, N, T, 7000.0)
        for type_ in (
            *(pa.decimal32(5, 2), pa.decimal64(12, 2), pa.decimal128(20, 2), pa.decimal256(50, 2)),
            *(pa.decimal128(20, 0), pa.decimal128(3, 2)),
        )
        if type_.precision - type_.scale > 0
    },
    **{
        str(type_): (pa.array(["7", None], type_), N, N, T, 7000.0)
        for type_ in (pa.string(), pa.large_string(), pa.string_view())
    },
    **{
        str(type_): (pa.array([b"7", None], type_), N, N, T, 7000.0)
        for type_ in (pa.binary(), pa.large_binary(), pa.binary_view())
    },
    "fixed_size_binary[16]": (
        *(pa.array(UUID_BYTES, pa.binary(16)), R),
        *(str(UUIDS[0]), R, R),
    ),
    "fixed_size_binary[2]": (pa.array([b"\x01\xff", None], pa.binary(2)), R, "01ff", R, R),
    "uuid": (ext(pa.uuid(), pa.array(UUID_BYTES, pa.binary(16))), R, str(UUIDS[0]), R, R),
    "json": (ext(pa.json_(), pa.array(['{"a": 7}', None])), R, R, R, R),
    "opaque": (ext(pa.opaque(pa.string(), "t", "v"), pa.array(["7", None])), N, N, T, 7000.0),
    "dictionary of text": (pa.array(["7", None]).dictionary_encode(), N, N, T, 7000.0),
    "dictionary of numbers": (pa.array([7, None]).dictionary_encode(), N, N, T, 7000.0),
    "dictionary of doubles": (pa.array([7.0, None]).dictionary_encode(), N, N, T, 7000.0),
    "runs": (pc.run_end_encode(pa.array(["7", None])), N, N, T, 7000.0),
    **{
        str(type_): (moments(type_), R, R, R, MS)
        for type_ in (
            *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
            *(pa.timestamp(unit, "UTC") for unit in ("s", "ms", "us", "ns")),
            *(pa.timestamp(unit, "Asia/Tokyo") for unit in ("s", "ns")),
            pa.timestamp("us", "+05:30"),
        )
    },
    **{
        str(type_): (pa.array([DAY.date(), None], type_), R, R, R, MS // 86_400_000 * 86_400_000)
        for type_ in (pa.date32(), pa.date64())
    },
    **{
        str(type_): (pa.array([datetime.time(1, 2, 3), None], type_), R, R, R, 3_723_000.0)
        for type_ in (pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"))
    },
    **{
        str(type_): (pa.array([7, None], type_), R, R, R, R)
        for type_ in (*(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),)
    },
    "interval": (pa.array([(1, 2, 3), None], pa.month_day_nano_interval()), R, R, R, R),
    **{
        str(type_): (pa.array([[7], None], type_), R, R, R, R)
        for type_ in (
            *(pa.list_(pa.int64()), pa.large_list(pa.int64()), pa.list_(pa.int64(), 1)),
            *(pa.list_view(pa.int64()), pa.large_list_view(pa.int64())),
        )
    },
    "list of text": (pa.array([["7"], None]), R, R, R, R),
    "struct": (pa.array([{"value": 7}, None]), R, R, R, R),
    "map": (pa.array([[("a", 7)], None], pa.map_(pa.string(), pa.int64())), R, R, R, R),
    "sparse union": (
        pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([7, 8]), pa.nulls(2)]),
        *(R, R, R, R),
    ),
    "tensor": (
        ext(pa.fixed_shape_tensor(pa.int64(), [1]), pa.array([[7], [8]], pa.list_(pa.int64(), 1))),
        *(R, R, R, R),
    ),
}
TABLES = {
    "columns": (LOG_FIELDS, ("query", "image")),
    "label_columns": (LABEL_FIELDS, ("key",)),
    "image_columns": (IMAGE_FIELDS, ("key",)),
    "": (DELETION_FIELDS, ()),
}
USES = ("text", "id", "number", "time")


def test_every_kind_of_type_is_tried_here():
    seen = {case[0].type.id for case in TYPES.values()}
    names = {name for name in dir(pa.lib) if name.startswith("Type_")}
    missing = {name for name in names if getattr(pa.lib, name) not in seen}
    # Python can make no value of the two intervals; a dense union is like the other.
    assert missing <= {"Type_INTERVAL_MONTHS", "Type_INTERVAL_DAY_TIME", "Type_DENSE_UNION"}


def expected_of(case, use):
    """The first value as the use has it; None where it is refused."""
    return case[1 + USES.index(use)]


def read_as(column, use, day=0):
    """What the jobs make of the first value of a readable column."""
    column = column_types.readable(column, use)
    if use == "text":
        return rows.texts_of(column, 2)
    if use == "id":
        return rows.id_texts(column, 2)
    chunked = pa.chunked_array([column])
    read = rows.numbers(chunked, 2) if use == "number" else rows.milliseconds(chunked, 2, day)
    return read.tolist()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", TYPES)
def test_a_column_of_any_type_is_read_or_refused(name, use):
    column, expected = TYPES[name][0], expected_of(TYPES[name], use)
    remedy = column_types.why_not(column.type, use)
    assert (remedy is not None) == (expected is None)
    if remedy is None:
        first, second = read_as(column, use)
        np.testing.assert_equal(first, expected)
        np.testing.assert_equal(second, "" if use in ("text", "id") else np.nan)


def in_parquet(path, columns):
    """Writes a table; False where Parquet has no such type."""
    try:
        pq.write_table(pa.table(columns), path)
    except pa.ArrowNotImplementedError:
        return False
    return True


FIELDS = [(flag, field) for flag, (fields, _) in TABLES.items() for field in fields]


@pytest.mark.parametrize(("flag", "field"), FIELDS)
def test_parquet_of_any_type_is_read_or_refused_by_column_type_and_remedy(tmp_path, flag, field):
    fields, required = TABLES[flag]
    mapping = {name: name for name in fields}
    use = column_types.use_of(field, mapping)
    text = pa.array(["a", "b"])
    for name, case in TYPES.items():
        path = str(tmp_path / "table.parquet")
        columns = {other: text for other in required if other != field} | {field: case[0]}
        if not in_parquet(path, columns):
            continue
        is_read = use == "bytes" or expected_of(case, use) is not None
        if use == "bytes":
            is_read = name in ("null", "opaque") or "text" in name or "binary" in name
            is_read |= "string" in name or name == "uuid"
            is_read &= name != "list of text"
        if is_read:
            check_columns(path, flag, mapping, required)
            for batch in read_table(path, mapping):
                assert not isinstance(batch, BadRows)
                assert batch.num_rows == 2
            continue
        with pytest.raises(PhraseLensError) as caught:
            check_columns(path, flag, mapping, required)
        stored = pq.read_schema(path).field(field).type
        assert f"column {field!r} of {path}" in str(caught.value)
        assert f"found {stored}" in str(caught.value)
        assert caught.value.remedy.startswith(("Write ", "Name "))
        assert not flag or f"--{flag} {field}=" in caught.value.remedy


def ids_of(column):
    return rows.id_texts(column_types.readable(column, "id"), len(column))


@pytest.mark.parametrize("number", [0, 7, -7, 123, 12_345_678_901, 2**53 - 1, 10**15])
def test_one_id_is_one_text_whatever_its_type(number):
    is_small = abs(number) < 2**11
    columns = [
        pa.array([number], pa.int64()),
        pa.array([float(number)]),
        pa.array([D(number)]),
        pa.array([D(f"{number}.00")]),
        pa.array([str(number), f" {number} ", f"{number}.0", f"{number}.000"]),
        pa.array([f"{number}.0".encode()], pa.binary()),
        pa.array([str(number)]).dictionary_encode(),
        *([pa.array(np.array([number]), pa.float16())] if is_small else []),
        *([pa.array([number], pa.float32())] if is_small else []),
        *([pa.array([number], pa.uint64())] if number >= 0 else []),
    ]
    assert {text for column in columns for text in ids_of(column)} == {str(number)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2345678901E10", "12345678901"),  # Java, Spark
        ("1.0E7", "10000000"),
        ("1.2345678901e+10", "12345678901"),
        ("1e+16", "10000000000000000"),  # Python
        ("1.5E0", "1.5E0"),
        *(
            (text, text)
            for text in ("007", "00.0", "1.5", "12e3", "1e5", "5.", ".0", "+7.0", "7.0.0")
        ),
        *((text, text) for text in ("1,0", "0x7.0", "a7.0", "1e1000000", "1.0E-7", "NaN", "7.0 x")),
    ],
)
def test_only_what_was_a_number_is_written_as_one(text, expected):
    assert ids_of(pa.array([text])) == [expected]
    assert column_types.whole_text(text) == expected


@given(
    st.floats(allow_nan=True, allow_infinity=True)
    | st.integers(-(10**22), 10**22).map(float)
    | st.floats(-1e17, 1e17)
)
@example(10_000_000_000.5)
@example(-4_503_599_627_370_495.5)
def test_a_double_has_the_id_of_its_own_text_and_of_javas(value):
    (found,) = ids_of(pa.array([value]))
    if np.isnan(value):
        assert found == ""
        return
    texts = [repr(value)]
    if np.isfinite(value) and value:
        mantissa, _, exponent = np.format_float_scientific(value, trim="0").partition("e")
        texts.append(f"{mantissa}E{int(exponent)}")
    if np.isfinite(value) and (abs(value) >= 1e-4 or value == 0):
        assert ids_of(pa.array(texts[:1])) == [found]
    if np.isfinite(value) and value and value.is_integer() and abs(value) < 1e99:
        assert ids_of(pa.array(texts)) == [found] * len(texts)
        assert int(found) == int(D(repr(value)))


@given(st.lists(st.integers(-(2**53) + 1, 2**53 - 1) | st.none(), max_size=20))
def test_whole_numbers_beside_nulls_have_the_texts_of_python(values):
    expected = ["" if value is None else str(value) for value in values]
    assert ids_of(pa.array(values, pa.int64())) == expected
    doubles = [None if value is None else float(value) for value in values]
    assert ids_of(pa.array(doubles, pa.float64())) == expected
    nans = pa.array(np.array([np.nan if v is None else float(v) for v in values]))
    assert ids_of(nans) == expected


@given(st.lists(st.binary(min_size=16, max_size=16) | st.none(), max_size=9), st.integers(0, 3))
def test_a_uuid_is_the_text_that_python_writes(values, start):
    column = pa.array(values, pa.binary(16)).slice(start)
    assert ids_of(column) == [str(uuid.UUID(bytes=v)) if v else "" for v in values[start:]]


def test_a_struct_has_its_values_by_paths(tmp_path):
    path = str(tmp_path / "log.parquet")
    events = [{"q": {"text": "red"}, "at": 7}, {"q": None, "at": 8}, None]
    table = {"e": events, "e.at": [1, 2, 3], "image": ["a", "b", "c"]}
    pq.write_table(pa.table(table), path)
    mapping = {name: name for name in LOG_FIELDS} | {"query": "e.q.text", "position": "e.at"}
    (unit,), _ = plan_log("log", [path], "auto", mapping, 1 << 20)
    (batch,) = read_log(unit)
    assert batch["query"].to_pylist() == [b"red", None, None]
    assert batch["position"].to_pylist() == [1, 2, 3]  # the column of that name goes first
    with pytest.raises(PhraseLensError, match=r"column 'e.q' .*found struct.*query=e.q.text"):
        plan_log("log", [path], "auto", mapping | {"query": "e.q"}, 1 << 20)
    with pytest.raises(PhraseLensError, match=r"column 'e.q.none' .*found e.q.text, e.at"):
        plan_log("log", [path], "auto", mapping | {"query": "e.q.none"}, 1 << 20)


def test_an_image_column_of_text_names_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"image")
    path = str(tmp_path / "images.parquet")
    pq.write_table(pa.table({"key": pa.array([7.0, None]), "image": ["a.png", "a.png"]}), path)
    mapping = {name: name for name in IMAGE_FIELDS}
    (unit,) = plan_images("images", [path], "auto", mapping, "stem").units
    (batch,) = read_unit(unit)
    assert batch.to_pylist() == [{"key": k, "image": b"image"} for k in ("7", "")]


def test_int96_of_spark_is_a_time_beyond_the_years_of_nanoseconds(tmp_path):
    path = str(tmp_path / "log.parquet")
    far = datetime.datetime(3000, 1, 1)
    table = pa.table({"timestamp": pa.array([far], pa.timestamp("us"))})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    (batch,) = read_table(path, {"timestamp": "timestamp"})
    found = rows.milliseconds(batch["timestamp"], 1)
    assert found == [far.replace(tzinfo=datetime.UTC).timestamp() * 1000]
