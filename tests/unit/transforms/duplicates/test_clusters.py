"""Clusters of links, whatever their order."""

import itertools
from collections import defaultdict

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.duplicates import clusters as clusters_lib
from transforms.duplicates import tables as tables_lib
from transforms.duplicates.compare import COPY, MARKED


def link_table(edges, sizes):
    rows = [(a, b, sizes[a], sizes[b], kind, difference) for a, b, kind, difference in edges]
    columns = list(zip(*rows, strict=True)) or [()] * len(tables_lib.LINKS)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, tables_lib.LINKS, strict=True)]
    return pa.table(arrays, tables_lib.LINKS)


def clusters(edges, sizes):
    table = clusters_lib.clusters_of(link_table(edges, sizes))
    return dict(
        zip(table["image_id"].to_pylist(), table["representative"].to_pylist(), strict=True)
    )


IDS = "abcdefghij"
EDGES = st.lists(
    st.tuples(
        st.sampled_from(IDS),
        st.sampled_from(IDS),
        st.sampled_from([COPY, MARKED]),
        st.floats(0, 8, width=32),
    ).filter(lambda edge: edge[0] < edge[1]),
    max_size=25,
    unique_by=lambda edge: edge[:2],
)
SIZES = st.tuples(*[st.integers(1, 3)] * len(IDS)).map(lambda v: dict(zip(IDS, v, strict=True)))


class TestClusters:
    @given(EDGES, SIZES, st.randoms(use_true_random=False))
    @settings(max_examples=150, deadline=None)
    def test_rules_that_hold_for_every_graph(self, edges, sizes, rng):
        found = clusters(edges, sizes)
        shuffled = [(b, a, *rest) if rng.random() < 0.5 else (a, b, *rest) for a, b, *rest in edges]
        rng.shuffle(shuffled)
        assert clusters(shuffled, sizes) == found
        near = defaultdict(set)
        for a, b, _, _ in edges:
            near[a].add(b)
            near[b].add(a)
        for image, first in found.items():
            assert first not in found  # stands for itself
            assert (-sizes[first], first) < (-sizes[image], image)
            reached = {first}
            for _ in range(4):
                reached |= {other for seen in reached for other in near[seen]}
            assert image in reached

    @given(st.lists(st.integers(0, 3), min_size=len(IDS), max_size=len(IDS)), SIZES)
    @settings(deadline=None)
    def test_cliques_come_out_whole(self, groups, sizes):
        group = dict(zip(IDS, groups, strict=True))
        edges = [
            (a, b, COPY, 0.1) for a, b in itertools.combinations(IDS, 2) if group[a] == group[b]
        ]
        found = {image: image for image in IDS} | clusters(edges, sizes)
        for a, b in itertools.combinations(IDS, 2):
            assert (found[a] == found[b]) == (group[a] == group[b])

    def test_a_chain_is_cut(self):
        chain = [f"{i:02d}" for i in range(20)]
        edges = [(a, b, COPY, 0.1) for a, b in itertools.pairwise(chain)]
        found = clusters(edges, dict.fromkeys(chain, 1))
        for image, first in found.items():
            assert abs(int(image) - int(first)) <= 2

    def test_a_marked_copy_joins_the_picture_that_it_fits_best(self):
        edges = [("a", "b", COPY, 0.1), ("c", "d", COPY, 0.1)]
        edges += [("a", "m", MARKED, 2.0), ("c", "m", MARKED, 1.0)]
        assert clusters(edges, {"a": 9, "b": 8, "c": 7, "d": 6, "m": 5}) == {
            "b": "a",
            "d": "c",
            "m": "c",
        }

    def test_a_mark_does_not_join_two_pictures(self):
        edges = [("a", "b", COPY, 0.1), ("c", "d", COPY, 0.1), ("a", "c", MARKED, 1.0)]
        assert clusters(edges, {"a": 9, "b": 8, "c": 7, "d": 6}) == {"b": "a", "d": "c"}

    def test_marked_copies_of_one_original_are_one_cluster(self):
        edges = [("o", mark, MARKED, 1.0) for mark in "xyz"]
        assert clusters(edges, {"o": 1, "x": 5, "y": 4, "z": 3}) == {"o": "x", "y": "x", "z": "x"}
