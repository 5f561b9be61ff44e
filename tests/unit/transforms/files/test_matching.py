"""Which files a path, a folder or a pattern stands for, on a disk and in a bucket."""

import contextlib
import fnmatch
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import storage
from schemas.base.errors import PhraseLensError
from transforms.files.matching import base_of, files_of, match

NAMES = (
    "a.csv",
    "b [1].csv",
    "b 1.csv",
    "c,d.csv",
    "e{f}.csv",
    'it\'s "g".csv',
    "h*.csv",
    "hi.csv",
    "~j.csv",
    "k%20l.csv",
    "m#n.csv",
    "[2024] photos/o.csv",
    "[2024] photos/[x]/p.csv",
    "2/q.csv",
    "x/r.csv",
)
FOUND = {
    "b [1].csv": ["b [1].csv"],
    "b [12].csv": ["b 1.csv"],
    "c,d.csv": ["c,d.csv"],
    "e{f}.csv": ["e{f}.csv"],
    'it\'s "g".csv': ['it\'s "g".csv'],
    "h*.csv": ["h*.csv"],
    "h?.csv": ["h*.csv", "hi.csv"],
    "~j.csv": ["~j.csv"],
    "k%20l.csv": ["k%20l.csv"],
    "m#n.csv": ["m#n.csv"],
    "[2024] photos": ["[2024] photos/[x]/p.csv", "[2024] photos/o.csv"],
    "[2024] photos/": ["[2024] photos/[x]/p.csv", "[2024] photos/o.csv"],
    "[2024] photos/*.csv": ["[2024] photos/o.csv"],
    "[2024] photos/[op].csv": ["[2024] photos/o.csv"],
    "[2024] photos/**": ["[2024] photos/[x]/p.csv", "[2024] photos/o.csv"],
    "[2024] photos/[x]/*": ["[2024] photos/[x]/p.csv"],
    "*/[x]/*.csv": ["[2024] photos/[x]/p.csv"],
    "[0-9]/*.csv": ["2/q.csv"],
    "*[!a-z].csv": ["b [1].csv", "b 1.csv", "e{f}.csv", "h*.csv", 'it\'s "g".csv'],
    "**.csv": sorted(NAMES),
    "*/r.csv": ["x/r.csv"],
    "?/*.csv": ["2/q.csv", "x/r.csv"],
    "nothing.csv": [],
    "[ab].csv": ["a.csv"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd [names], it's")
    for name in NAMES:
        storage.write_bytes(f"{root}/{name}", b"x")
    return root


@pytest.mark.parametrize("pattern", FOUND)
def test_what_exists_wins_over_what_it_would_mean(folder, pattern):
    found = [os.path.relpath(file.path, folder) for file in files_of(f"{folder}/{pattern}")]
    assert sorted(found) == sorted(FOUND[pattern])
    with contextlib.chdir(folder):
        assert sorted(file.path for file in files_of(pattern)) == sorted(FOUND[pattern])


def test_in_a_bucket_it_is_the_same(bucket):
    for name in NAMES:
        storage.write_bytes(f"{bucket}/odd/{name}", b"x")
    for pattern, expected in FOUND.items():
        found = [file.path for file in files_of(f"{bucket}/odd/{pattern}")]
        assert sorted(found) == sorted(f"{bucket}/odd/{name}" for name in expected), pattern
    size_and_time = {
        f.size_in_bytes > 0 and f.last_updated_in_seconds > 0 for f in files_of(bucket)
    }
    assert size_and_time == {True}
    assert files_of(f"{bucket}/od") == []
    with pytest.raises(PhraseLensError, match="expected a place that can be listed"):
        match("log", [f"{bucket}-that-is-not/log*.csv"])


PIECES = st.sampled_from(["a", "b", "[", "]", "!", "*", "?", "{a,b}", "-", " ", ",", "'", "é", "~"])
ODD = st.lists(PIECES, min_size=1, max_size=6).map("".join).filter(lambda name: name.strip())


@given(st.sets(ODD, min_size=1, max_size=4), ODD)
def test_a_name_finds_itself_alone_and_a_pattern_what_fnmatch_finds(tmp_path_factory, names, other):
    folder = tmp_path_factory.mktemp("f")
    for name in names:
        Path(folder, name).touch()
    for name in names:
        assert [f.path for f in files_of(f"{folder}/{name}")] == [f"{folder}/{name}"]
    if other not in names:
        found = {os.path.basename(f.path) for f in files_of(f"{folder}/{other}")}
        literal = set(fnmatch.filter(names, other.replace("[", "[[]")))
        assert found == (literal or set(fnmatch.filter(names, other)))


def test_links_are_followed_but_in_no_circle(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.csv").write_text("a", encoding="utf-8")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "log" / "round").symlink_to(tmp_path / "log")
    (tmp_path / "log" / "broken.csv").symlink_to(tmp_path / "nothing")
    (tmp_path / "short").symlink_to(tmp_path / "log")
    below = ["broken.csv", "linked/a.csv"]
    for root in (tmp_path / "log", tmp_path / "short"):
        for spelling in (f"{root}", f"{root}/", f"{root}//", f"{root}/**"):
            found = match("log", [spelling])
            assert [os.path.relpath(file.path, root) for file in found] == below, spelling


@pytest.mark.parametrize(
    ("pattern", "base"),
    [
        ("[2024] photos", "[2024] photos"),
        ("[2024] photos/*.csv", "[2024] photos"),
        ("[2024] photos/[x]/**", "[2024] photos/[x]"),
        ("x/*", "x"),
        ("x/r.csv", "x/r.csv"),
    ],
)
def test_the_folder_that_a_person_named_is_the_part_that_exists(folder, pattern, base):
    assert base_of(f"{folder}/{pattern}") == f"{folder}/{base}"


def test_the_folder_of_a_short_pattern_is_where_we_are(bucket):
    assert base_of("*.csv") == "."
    assert base_of("/*.csv") == "/"
    assert base_of(f"{bucket}/*.csv") == bucket
