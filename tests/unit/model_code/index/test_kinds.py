"""Kinds of index: the rule that chooses one, and what each finds, against a NumPy scan."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_code.index import kinds as index_kinds
from model_code.index.choice import (
    FLAT_MAX,
    HNSW_MAX,
    KINDS,
    IndexSettings,
    Kind,
    choose_kind,
    kind_of,
    resident_bytes,
)
from model_code.index.search import Effort, Searcher
from model_code.index.tuning import recall, tune
from schemas.base.errors import PhraseLensError
from tests.support.datasets.work_folder import environment
from tests.support.inputs.phrase_vectors import draw, images, scan

MIB = 1 << 20


@pytest.mark.parametrize(
    ("rows", "memory", "wanted", "kind"),
    [
        (1000, 0, 0.99, "flat"),
        (FLAT_MAX, 0, 0.99, "flat"),
        (FLAT_MAX + 1, 0, 0.99, "hnsw"),
        (HNSW_MAX, 0, 0.99, "hnsw"),
        (HNSW_MAX, 256 * MIB, 0.99, "ivf_pq"),
        (HNSW_MAX, 1200 * MIB, 0.999, "ivf_flat"),
        (HNSW_MAX + 1, 0, 0.99, "ivf_pq"),
        (HNSW_MAX + 1, 0, 0.999, "ivf_flat"),
        (4_000_000, 0, 0.99, "hnsw"),
        (4_000_000, 0, 1.0, "flat"),
        (4_000_000, 200 * MIB, 0.999, "ivf_pq"),
    ],
)
def test_the_rule(rows, memory, wanted, kind):
    assert choose_kind(rows, 64, IndexSettings(recall=wanted, memory=memory)).name == kind


@given(
    st.integers(2000, 10_000_000),
    st.sampled_from([16, 64, 128]),
    st.integers(1, 1 << 33),
    st.sampled_from([0.9, 0.99, 0.999]),
)
def test_what_is_chosen_fits_or_is_the_smallest(rows, width, memory, wanted):
    kind = choose_kind(rows, width, IndexSettings(recall=wanted, memory=memory))
    sizes = {name: resident_bytes(kind_of(name, rows, width), rows, width) for name in KINDS}
    assert sizes[kind.name] <= max(memory, sizes["ivf_pq"])


def test_a_kind_that_does_not_fit_is_an_error():
    with pytest.raises(PhraseLensError, match="index_memory"):
        choose_kind(1_000_000, 64, IndexSettings("hnsw", memory=100 * MIB))


@pytest.mark.parametrize("wanted", [0, -1, 99])
def test_a_recall_that_is_none_is_an_error(wanted):
    with pytest.raises(PhraseLensError, match="index_recall"):
        choose_kind(1000, 64, IndexSettings(recall=wanted))


def test_a_code_is_an_eighth_of_a_vector_with_its_id():
    kind = kind_of("ivf_pq", 4_000_000, 64)
    assert resident_bytes(kind, 4_000_000, 64) < 4_000_000 * 64 * 4 / 8


@pytest.fixture(scope="module")
def vectors():
    return draw(5000)


@pytest.fixture(scope="module")
def sample():
    return np.arange(0, 5000, 2)


@pytest.fixture(scope="module", params=KINDS)
def searcher(request, vectors, sample):
    kind = kind_of(request.param, *vectors.shape)
    return Searcher(kind, index_kinds.build(kind, vectors, sample), vectors)


def test_the_tuned_effort_finds_what_a_scan_finds(searcher, vectors):
    effort, reached = tune(searcher, images(vectors, seed=2), 0.99)
    assert reached >= 0.99
    asked = images(vectors, seed=3)
    rows, scores = searcher.nearest(asked, 3, effort)
    expected, expected_scores = scan(vectors, asked, 3)
    found = (rows[:, :3, np.newaxis] == expected[:, np.newaxis]).any(2).mean()
    assert found >= 0.97
    assert recall(scores, expected_scores) == pytest.approx(found, abs=1e-3)
    held = rows >= 0
    inner = np.einsum("nd,nkd->nk", asked, vectors[rows])
    np.testing.assert_allclose(scores[held], inner[held], atol=1e-6)
    assert (np.diff(scores[:, :3]) <= 0).all()


def test_all_effort_is_a_scan(searcher, vectors):
    asked = images(vectors, 50)
    rows, _ = searcher.nearest(asked, 3, Effort(1024, searcher.kind.lists))
    np.testing.assert_array_equal(rows[:, :3], scan(vectors, asked, 3)[0])


def test_more_phrases_than_the_lists_hold(searcher, vectors):
    asked = images(vectors, 3)
    rows, scores = searcher.nearest(asked, 600, Effort(lists=1))
    assert (rows[:, :600] >= 0).all()
    assert all(len(set(row)) == 600 for row in rows[:, :600].tolist())
    np.testing.assert_allclose(scores[:, 0], scan(vectors, asked, 1)[1][:, 0], atol=0.2)


def test_an_answer_does_not_depend_on_its_batch(searcher, vectors):
    asked = images(vectors, 70)
    rows, scores = searcher.nearest(asked, 3, Effort(64, 8))
    alone = [searcher.nearest(asked[i : i + 1], 3, Effort(64, 8)) for i in range(70)]
    np.testing.assert_array_equal(rows[:, :3], [r[0, :3] for r, _ in alone])
    np.testing.assert_array_equal(scores[:, :3], [s[0, :3] for _, s in alone])


def test_of_equals_the_lower_row_comes_first(vectors):
    twice = np.concatenate([vectors[:50], vectors[:50]])
    rows, _ = Searcher(Kind("flat"), None, twice).nearest(images(vectors[:50], 20), 2, Effort())
    np.testing.assert_array_equal(rows[:, 0] + 50, rows[:, 1])


@pytest.mark.parametrize("name", ["ivf_flat", "ivf_pq"])
def test_merged_parts_are_the_whole_index(name, vectors, sample):
    kind = kind_of(name, *vectors.shape)
    whole = index_kinds.build(kind, vectors, sample)
    trained = index_kinds.to_bytes(index_kinds.train(kind, vectors[sample]))
    parts = []
    for start, stop in ((0, 1), (1, 1700), (1700, 1733), (1733, 5000)):
        part = index_kinds.from_bytes(trained)
        index_kinds.add(part, vectors[start:stop], start)
        parts.append(index_kinds.from_bytes(index_kinds.to_bytes(part)))
    merged = index_kinds.merge(index_kinds.from_bytes(trained), parts)
    assert index_kinds.to_bytes(merged) == index_kinds.to_bytes(whole)


@pytest.mark.parametrize("name", KINDS[1:])
def test_equal_vectors_give_equal_bytes(name, vectors, sample):
    kind = kind_of(name, *vectors.shape)
    once, again = (index_kinds.build(kind, vectors, sample) for _ in range(2))
    assert index_kinds.to_bytes(once) == index_kinds.to_bytes(again)


def test_product_codes_take_an_eighth_of_the_vectors(tmp_path):
    vectors = draw(20_000, 64)
    kind = Kind("ivf_pq", lists=64, code_bytes=16)
    index = index_kinds.build(kind, vectors, np.arange(4000))
    index_kinds.save(index, str(tmp_path / "index.faiss"))
    assert (tmp_path / "index.faiss").stat().st_size <= vectors.nbytes / 8


def test_few_phrases_are_scanned_whatever_is_asked_for():
    assert kind_of("ivf_pq", 9, 64) == Kind("flat")
    assert kind_of("ivf_flat", 1000, 64) == Kind("flat")


@pytest.mark.parametrize(("gpus", "expected"), [(0, set()), (1, {"flat", "ivf_flat"})])
def test_what_goes_to_a_gpu(monkeypatch, gpus, expected):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: gpus)
    assert {name for name in KINDS if index_kinds.is_for_gpu(Kind(name))} == expected


class Gpu:
    """Stands for an index on a GPU: says how many searched at once."""

    def __init__(self, vectors):
        self.index, self.inside, self.most = faiss.IndexFlatIP(vectors.shape[1]), 0, 0
        self.index.add(vectors)

    def search(self, *arguments, **more):
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.005)
        found = self.index.search(*arguments)
        self.inside -= 1
        return found


def test_one_thread_at_a_time_searches_on_a_gpu(vectors):
    asked = [vectors[i : i + 5] for i in range(0, 100, 5)]
    gpu = Gpu(vectors)
    found = []
    for index in (gpu, None):
        searcher = Searcher(Kind("flat"), index, vectors, is_on_gpu=index is gpu)
        with ThreadPoolExecutor(4) as pool:
            found.append(list(pool.map(lambda q, s=searcher: s.nearest(q, 3, Effort(3))[0], asked)))
    assert gpu.most == 1
    np.testing.assert_array_equal(*found)


_OPEN = """
import sys
import numpy as np
from model_code.index import kinds as index_kinds
from model_code.index.choice import Kind
from model_code.phrases.evaluate_index import private_bytes
kind = Kind(sys.argv[1], lists=int(sys.argv[2]), links=int(sys.argv[3]))
is_mapped = sys.argv[5] == "mapped"
before = private_bytes()
index = index_kinds.load(kind, sys.argv[4], is_mapped)
index.search(np.zeros((1, index.d), np.float32), 3)
print(private_bytes() - before)
"""


@pytest.mark.parametrize("name", ["ivf_flat", "hnsw"])
def test_a_mapped_index_is_no_process_s_own_memory(name, tmp_path):
    vectors = draw(6000, 512)
    kind = Kind(name, lists=32) if name == "ivf_flat" else Kind(name, links=4)
    path = str(tmp_path / "index.faiss")
    index_kinds.save(index_kinds.build(kind, vectors, np.arange(2000)), path)
    private = {}
    for how in ("mapped", "copied"):
        args = [name, str(kind.lists), str(kind.links), path, how]
        done = subprocess.run(
            [sys.executable, "-c", _OPEN, *args],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        private[how] = int(done.stdout)
    size = Path(path).stat().st_size
    assert private["mapped"] < size / 4
    assert private["copied"] > size / 2
