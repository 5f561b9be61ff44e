import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import storage
from transforms.shards import records


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=30),
    wanted=st.sets(st.integers(0, 29)),
    bounds=st.tuples(st.integers(0, 400), st.integers(1, 900)),
)
def test_records_come_back_whatever_is_read_together(tmp_path_factory, sizes, wanted, bounds):
    folder = str(tmp_path_factory.mktemp("spill"))
    rng = np.random.default_rng(len(sizes))
    parts = [rng.bytes(size) for size in sizes]
    half = len(parts) // 2
    places = []
    for file in (parts[:half], parts[half:]):
        if file:
            name, start = records.write_file(folder, file), 0
            for part in file:
                places.append((name, start, len(part)))
                start += len(part)
    asked = [places[i] for i in wanted if i < len(places)]
    old = records.GAP_BYTES, records.READ_BYTES
    records.GAP_BYTES, records.READ_BYTES = bounds
    try:
        found = records.read_records(folder, asked)
    finally:
        records.GAP_BYTES, records.READ_BYTES = old
    content = dict(zip(places, parts, strict=True))
    assert found == {place: content[place] for place in asked}


def test_equal_content_is_one_file(tmp_path):
    names = {records.write_file(str(tmp_path), parts) for parts in ([b"ab", b"c"], [b"a", b"bc"])}
    assert set(os.listdir(tmp_path)) == names
    assert len(names) == 1


def test_neighbours_are_one_read(tmp_path, monkeypatch):
    name = records.write_file(str(tmp_path), [b"x" * 100] * 50)
    ranges = []
    read_range = storage.read_range

    def counting(path, start, size):
        ranges.append((start, size))
        return read_range(path, start, size)

    monkeypatch.setattr(storage, "read_range", counting)
    places = [(name, 100 * i, 100) for i in range(50)]
    assert records.read_records(str(tmp_path), places)[places[7]] == b"x" * 100
    assert ranges == [(0, 5000)]
    monkeypatch.setattr(records, "READ_BYTES", 1000)
    ranges.clear()
    records.read_records(str(tmp_path), places)
    assert sorted(ranges) == [(1000 * i, 1000) for i in range(5)]
