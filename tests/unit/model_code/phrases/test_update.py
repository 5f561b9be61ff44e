"""An updated index against one that knows only the new phrases."""

import json

import numpy as np
import pytest

from model_code.index.choice import IndexSettings
from model_code.index.search import Effort
from model_code.phrases import folder as folder_lib
from model_code.phrases import update as index_update
from model_code.phrases.index import PhraseIndex
from model_code.phrases.update import Change, EarlierIndex
from tests.support.inputs.phrase_vectors import draw, images, phrases, scan

ROWS = 3000


@pytest.fixture(scope="module", params=["ivf_flat", "hnsw", "ivf_pq"])
def settings(request):
    return IndexSettings(request.param, max_drift=0.3)


@pytest.fixture(scope="module")
def first(settings, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("first"))
    table = phrases(draw(ROWS), np.arange(ROWS))
    folder_lib.build(folder, table.to_batches(), 0.1, settings)
    return folder


def next_day(ids, vectors, seed):
    """Of a day's phrases: 3 % go, 2 % get another vector, 4 % come; in another order."""
    rng = np.random.default_rng(seed)
    count = len(ids)
    keep = rng.permutation(count)[count * 3 // 100 :]
    new = draw(count * 4 // 100, vectors.shape[1], seed + 100)
    vectors = vectors.copy()
    changed = keep[: count * 2 // 100]
    vectors[changed] = draw(len(changed), vectors.shape[1], seed + 200)
    ids = np.concatenate([ids[keep], ids.max() + 1 + np.arange(len(new))])
    vectors = np.concatenate([vectors[keep], new])
    order = rng.permutation(len(ids))
    return ids[order], vectors[order]


def update(earlier, folder, ids, vectors, settings):
    table = phrases(vectors, ids)
    folder_lib.write_tables(str(folder), table.to_batches(500), table.num_rows)
    return index_update.update(EarlierIndex(str(earlier)), str(folder), 0.1, settings)


def check(folder, ids, vectors):
    index = PhraseIndex(str(folder))
    asked = images(vectors, 300, 5)
    found = index.search(asked, 3)
    rows, _ = scan(vectors, asked, 3)
    assert (np.isin(found.rows, np.arange(len(ids)))).all()
    assert (ids[found.rows] == ids[rows]).mean() >= 0.97
    inner = np.einsum("nd,nkd->nk", asked, vectors[found.rows])
    np.testing.assert_allclose(found.scores, inner, atol=1e-6)
    assert index.texts(found.rows[:1]).tolist() == [[f"query {i}" for i in ids[found.rows[0]]]]
    np.testing.assert_array_equal(index.query_ids, ids)
    if index.searcher.kind.lists:
        # Everything is in some list, once, and nothing else is.
        index.searcher.exact = None
        effort = Effort(len(ids), index.searcher.kind.lists)
        every = index.searcher.nearest(asked[:5], len(ids), effort)[0]
        assert (np.sort(every, axis=1) == np.arange(len(ids))).all()


def test_days_of_updates(first, settings, tmp_path):
    ids, vectors, folder = np.arange(ROWS), draw(ROWS), first
    drifted = 0.0
    for day in range(2):
        new_ids, new_vectors = next_day(ids, vectors, day)
        new_folder = tmp_path / str(day)
        new_folder.mkdir()
        change = update(folder, new_folder, new_ids, new_vectors, settings)
        assert change.added == len(ids) * 4 // 100
        assert change.removed == len(ids) * 3 // 100
        assert change.changed == len(ids) * 2 // 100
        assert change.kept + change.changed + change.removed == len(ids)
        check(new_folder, new_ids, new_vectors)
        config = json.loads((new_folder / "config.json").read_text())
        old = dict(zip(ids, vectors, strict=True))
        pairs = [(old[i], new) for i, new in zip(new_ids, new_vectors, strict=True) if i in old]
        lengths = [np.linalg.norm(new - was) / np.linalg.norm(was) for was, new in pairs]
        moved = np.minimum(lengths, 1).sum()
        assert 0 < moved <= change.changed
        drifted += change.added + change.removed + moved
        assert config["drift"] == {
            "trained_rows": ROWS,
            "drifted_rows": pytest.approx(drifted, rel=1e-5),
        }
        ids, vectors, folder = new_ids, new_vectors, new_folder


def test_what_was_removed_never_comes_back(first, settings, tmp_path):
    vectors = draw(ROWS)
    gone = np.zeros(ROWS, bool)
    gone[100:300] = True
    update(first, tmp_path, np.arange(ROWS)[~gone], vectors[~gone], settings)
    asked = vectors[gone] / np.linalg.norm(vectors[gone], axis=1, keepdims=True)
    found = PhraseIndex(str(tmp_path)).search(asked, 50)
    assert not np.isin(PhraseIndex(str(tmp_path)).query_ids[found.rows], np.flatnonzero(gone)).any()


def test_nothing_changed(first, settings, tmp_path):
    change = update(first, tmp_path, np.arange(ROWS), draw(ROWS), settings)
    assert change == Change(ROWS, 0, 0, 0, 0.0)
    check(tmp_path, np.arange(ROWS), draw(ROWS))


def test_too_much_drift_builds_anew(first, settings, tmp_path):
    ids, vectors = np.arange(ROWS), draw(ROWS)
    more = draw(ROWS * 31 // 100, seed=9)
    new_ids = np.concatenate([ids, ROWS + np.arange(len(more))])
    found = update(first, tmp_path, new_ids, np.concatenate([vectors, more]), settings)
    assert found is None
    assert not (tmp_path / "config.json").exists()


def test_drift_adds_up_over_days(first, settings, tmp_path):
    ids, vectors = np.arange(ROWS), draw(ROWS)
    earlier = first
    for day, expected in enumerate(("updated", "updated", "built anew")):
        more = draw(360, seed=50 + day)
        ids = np.concatenate([ids, ids.max() + 1 + np.arange(360)])
        vectors = np.concatenate([vectors, more])
        folder = tmp_path / str(day)
        folder.mkdir()
        found = update(earlier, folder, ids, vectors, settings)
        assert ("built anew" if found is None else "updated") == expected
        earlier = folder


def test_another_kind_or_width_builds_anew(first, settings, tmp_path):
    other = IndexSettings("ivf_flat" if settings.kind != "ivf_flat" else "ivf_pq")
    assert update(first, tmp_path, np.arange(ROWS), draw(ROWS), other) is None
    wide = draw(ROWS, 32)
    rows, moved = EarlierIndex(first).match(np.arange(ROWS), wide)
    assert (rows == np.arange(ROWS)).all()
    assert (moved == 1).all()


def test_small_moves_are_little_drift(first, settings, tmp_path):
    vectors = draw(ROWS)
    moved = vectors + np.float32(0.01) * draw(ROWS, seed=4)
    change = update(first, tmp_path, np.arange(ROWS), moved, settings)
    if settings.kind == "hnsw":  # Each phrase would leave a dead node behind.
        assert change is None
        return
    assert change is not None
    assert change.changed == ROWS
    assert change.moved < 0.05 * ROWS
    check(tmp_path, np.arange(ROWS), moved)


def test_an_index_does_not_grow_by_small_moves(first, settings, tmp_path):
    """A tenth of the phrases moves a little every day: drift alone would never end that."""
    vectors, earlier, anew = draw(ROWS), first, 0
    for day in range(4):
        moving = slice(day * ROWS // 10, (day + 1) * ROWS // 10)
        vectors = vectors.copy()
        vectors[moving] += np.float32(0.01) * draw(ROWS // 10, seed=60 + day)
        folder = tmp_path / str(day)
        folder.mkdir()
        change = update(earlier, folder, np.arange(ROWS), vectors, settings)
        if change is None:
            anew += 1
            folder_lib.build(
                str(folder), phrases(vectors, np.arange(ROWS)).to_batches(), 0.1, settings
            )
        if settings.kind == "hnsw":
            assert len(EarlierIndex(str(folder)).places()) <= (1 + settings.max_drift) * ROWS
        earlier = folder
    assert anew == (settings.kind == "hnsw")
    check(earlier, np.arange(ROWS), vectors)
