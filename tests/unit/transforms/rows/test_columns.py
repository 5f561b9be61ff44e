"""Which columns a table has, by its beginning, and what is said of those that cannot be read."""

import pytest

from schemas.base.errors import PhraseLensError
from transforms.rows.columns import check_columns, column_mapping


def write(path, name, data):
    (path / name).write_bytes(data)
    return str(path / name)


def test_column_mapping():
    mapping = column_mapping("log_columns", ("query=q", "image=a=b"), ("query", "image", "clicks"))
    assert mapping == {"query": "q", "image": "a=b", "clicks": "clicks"}


@pytest.mark.parametrize(
    ("fields", "field"), [(("query", "image"), "image"), (("key", "image"), "key")]
)
def test_image_id_names_the_image(fields, field):
    assert column_mapping("columns", ("image_id=img",), fields)[field] == "img"


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
