"""Queries that share an id, forced by a hash of a few bits: none is merged in silence."""

import numpy as np
import pyarrow as pa

from schemas.base import fingerprint
from schemas.datasets.dataset import Dataset
from tests.support.datasets.messy_mining import checksums, mine
from tests.support.inputs.image_files import encode, photo

WORDS = [f"thing {number}" for number in range(24)]
IDS = 8


def narrowed(monkeypatch):
    """Ids of queries of three bits; people and shards keep their hashes."""
    whole = fingerprint.hash64_array

    def narrow(values, key=b""):
        found = whole(values, key)
        if key or not all(str(value).startswith("thing ") for value in values.to_pylist()):
            return found
        return (found.view(np.uint64) % IDS).astype(np.int64)

    monkeypatch.setattr(fingerprint, "hash64_array", narrow)


def test_texts_with_one_id_are_counted_and_one_is_kept(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        (folder / f"p{number}.png").write_bytes(encode(photo(number), "PNG"))
    rows = [f"{word}\tp{number % 6}" for number, word in enumerate(WORDS)]
    log = tmp_path / "log.tsv"
    log.write_text("\n".join(["query\timage", *rows]))
    flags = ["--max_dead_fraction=1", "--near_duplicates=false"]
    status, root = mine(tmp_path, log, folder, *flags)
    assert status == 0
    sound = Dataset(root).manifest.counters
    assert sound["query_texts.in"] == sound["query_texts.out"] == len(WORDS)
    narrowed(monkeypatch)
    found = []
    for name, lines in (("one", rows), ("other", rows[::-1])):
        log.write_text("\n".join(["query\timage", *lines]))
        status, root = mine(tmp_path, log, folder, *flags, output=name)
        assert status == 0
        mined = Dataset(root)
        queries = mined.table("queries").to_pylist()
        counters = mined.manifest.counters
        assert len(queries) == counters["query_texts.out"] <= IDS
        assert counters["query_texts.in"] == len(WORDS)
        dead = counters["query_texts.dropped_id_collision"]
        assert dead == len(WORDS) - len(queries) >= len(WORDS) - IDS
        letters = mined.table("dead_letters").to_pylist()
        assert [letter["reason"] for letter in letters] == ["id_collision"] * dead
        assert not any("thing" in str(letter) for letter in letters)
        of_id = {}
        for word in sorted(WORDS):
            of_id.setdefault(fingerprint.hash64_array(pa.array([word]))[0], word)
        assert {row["query_id"]: row["query"] for row in queries} == of_id
        found.append(checksums(root))
    assert found[0] == found[1]
