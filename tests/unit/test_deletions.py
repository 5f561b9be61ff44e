import numpy as np
import pyarrow as pa
import pytest

from schemas import fingerprint
from schemas.errors import PhraseLensError
from transforms.deletions import Deletions, read_deletions

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
