import decimal
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.base import fingerprint
from schemas.base.errors import PhraseLensError
from transforms.mining.deletions import Deletions, read_deletions
from transforms.mining.events import LogRules, parse_events
from transforms.mining.labels import parse_labels
from transforms.rows.tabular import read_table

KEY = b"a key of 16 bytes or more"


def write(tmp_path, text):
    path = tmp_path / "deletions.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_row_names_an_image_or_a_person_or_a_query_of_one(tmp_path):
    path = write(tmp_path, 'image,user,query\np1,,\n,jane,\n,joe," Red  SHOES "\np2,jim,\n')
    jane, joe, jim = (fingerprint.hash64(name, KEY) for name in ("jane", "joe", "jim"))
    found = read_deletions(path, KEY)
    assert found.keys == ("p1", "p2")
    assert set(found.users) == {jane, jim}
    assert found.user_queries == ((joe, fingerprint.hash64("red shoes")),)


def test_parts_of_a_query_go_with_it(tmp_path):
    path = write(tmp_path, "user,query\njoe,Red Leather Shoes\n")
    joe = fingerprint.hash64("joe", KEY)
    texts = ["red leather shoes", "red", "leather", "shoes", "red leather", "leather shoes"]
    found = read_deletions(path, KEY, longest_part=2)
    assert set(found.user_queries) == {(joe, fingerprint.hash64(text)) for text in texts}
    assert len(read_deletions(path, KEY).user_queries) == 1


@pytest.mark.parametrize("header", ["image", "user"])
def test_one_column_is_enough(tmp_path, header):
    found = read_deletions(write(tmp_path, f"{header}\nx\n"), b"")
    assert (found.keys, found.users) == (
        (("x",), ()) if header == "image" else ((), (fingerprint.hash64("x"),))
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name\nx\n", "a column image or user"),
        ("image,user\nx,\n,\n", "an image or a user"),
        ("image,user\nx\n", "rows that can be read"),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused(tmp_path, text, expected):
    with pytest.raises(PhraseLensError, match=expected):
        read_deletions(write(tmp_path, text), b"")


NUMBER = 12_345_678_901
# One person and one image, as parts of a log and lists of deletions come to be written.
WRITTEN = {
    "int64.parquet": pa.array([NUMBER]),
    "double.parquet": pa.array([float(NUMBER), None]),
    "nan.parquet": pa.array(np.array([float(NUMBER), np.nan])),
    "decimal.parquet": pa.array([decimal.Decimal(f"{NUMBER}.00")]),
    "text.parquet": pa.array([str(NUMBER)]),
    "dictionary.parquet": pa.array([str(NUMBER)]).dictionary_encode(),
    "uint64.parquet": pa.array([NUMBER], pa.uint64()),
    "a.csv": f"{NUMBER}",
    "pandas.csv": f"{NUMBER}.0",
    "spark.tsv": f"{NUMBER / 10**10!r}E10",
    "spaces.csv": f" {NUMBER} ",
    "number.jsonl": f"{NUMBER}",
    "double.jsonl": f"{NUMBER}.0",
    "text.jsonl": f'"{NUMBER}"',
}


def written(folder, name):
    """A table of one person and one image by the same id."""
    value, path = WRITTEN[name], folder / name
    if isinstance(value, str):
        text = f'{{"user": {value}, "image": {value}, "query": "red"}}\n'
        if "jsonl" not in name:
            delimiter = "," if name.endswith("csv") else "\t"
            rows = (("user", "image", "query"), (value, value, "red"))
            text = "".join(delimiter.join(row) + "\n" for row in rows)
        path.write_text(text)
    else:
        queries = ["red", *[None] * (len(value) - 1)]
        pq.write_table(pa.table({"user": value, "image": value, "query": queries}), path)
    return str(path)


def test_one_person_is_one_whatever_the_type_of_the_column(tmp_path):
    """In logs, label files, image tables and lists of deletions alike."""
    people, sessions, keys, listed, labelled = set(), set(), set(), set(), set()
    for name in WRITTEN:
        path = written(tmp_path, name)
        stage = types.SimpleNamespace(name="mine_log", run_id="run")
        (batch,) = read_table(path, {"user": "user", "image": "image", "query": "query"})
        events = parse_events(batch, stage, LogRules(person_key=KEY)).tables["events"].slice(0, 1)
        people |= set(events["user"].to_pylist())
        sessions |= set(events["session"].to_pylist())
        keys |= set(events["key"].to_pylist())
        (batch,) = read_table(path, {"key": "image", "label": "query"})
        labels = parse_labels(batch, stage, pa.array([], pa.string())).tables["labels"]
        labelled.add(labels["key"][0].as_py())
        if len(batch) == 1:
            found = read_deletions(path, KEY)
            listed |= {key for key, _ in found.user_queries} | set(found.keys)
    assert keys == labelled == {str(NUMBER)}
    assert people == {fingerprint.hash64(str(NUMBER), KEY)}
    assert len(sessions) == 1
    assert listed >= people | keys  # and people as older versions hashed them


def test_a_list_of_a_type_that_no_id_has_is_refused(tmp_path):
    path = str(tmp_path / "list.parquet")
    pq.write_table(pa.table({"user": pa.array([1], pa.duration("s"))}), path)
    with pytest.raises(PhraseLensError, match=r"column 'user' .*found duration\[s\].*as text"):
        read_deletions(path, KEY)


def test_match():
    deletions = Deletions(("gone",), (7,), ((8, 1),))
    found = deletions.match(
        pa.array(["here", "gone"]),
        np.array([0, 1, 0, 0, 0]),
        np.array([1, 1, 1, 1, 2]),
        np.array([9, 9, 7, 8, 8]),
    )
    assert found.tolist() == [False, True, True, True, False]
    assert (
        not Deletions()
        .match(pa.array([""]), np.zeros(2, int), np.ones(2, int), np.ones(2, int))
        .any()
    )
