"""A new day's phrases in yesterday's index: rows go and come, the quantizer stays.

Where phrases and their vectors are equal, an index keeps what it holds of them. What was
removed is taken out of its lists (in a graph: never returned again), what is new is added.
The more has changed since the quantizer was trained, the worse it fits: past a drift of
`IndexSettings.max_drift` the index is built anew. A new day moves most prototypes a little;
such a phrase is encoded again, but counts as drift only as far as it moved.
"""

import dataclasses
import os
from typing import Any

import faiss
import numpy as np

from model_code.index import kinds as index_kinds
from model_code.index.choice import IndexSettings, Kind, choose_kind
from model_code.phrases.folder import open_vectors, read_config, save_index
from schemas.tables.arrays import load_array


@dataclasses.dataclass(frozen=True)
class Change:
    """How many phrases are equal to one of the earlier index, and how many are not.

    Attributes:
      kept: same query, same vector.
      added: the query is new.
      changed: same query, another vector.
      removed: the query is gone.
      moved: sum over the changed ones of how far, in lengths of the old vector, at most 1.
    """

    kept: int
    added: int
    changed: int
    removed: int
    moved: float

    @property
    def drifted_rows(self) -> float:
        """How much of the index the quantizer was not trained for, in rows."""
        return self.added + self.removed + self.moved


class EarlierIndex:
    """The index that an update starts from.

    Args:
      folder: its local folder.
    """

    def __init__(self, folder: str):
        self.folder, self.config = folder, read_config(folder)
        self.kind = Kind(**self.config["kind"])
        self.vectors, query_ids = open_vectors(folder)
        self._order = np.argsort(query_ids, kind="stable")
        self._sorted_ids = query_ids[self._order]

    def __len__(self) -> int:
        return len(self._order)

    def places(self) -> np.ndarray:
        """[ids] int64: the row of each id of its Faiss index, -1 where it was removed."""
        path = os.path.join(self.folder, "places.npy")
        return load_array(path) if os.path.exists(path) else np.arange(len(self))

    def match(self, query_ids: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds phrases again.

        Args:
          query_ids: [n] int64.
          vectors: [n, M] float32.

        Returns:
          [n] int64, the row here, -1 where there is none; and [n] float32, how far its vector
          moved in lengths of the old one, at most 1: 0 where it is equal, 1 where it is new.
        """
        place = np.minimum(np.searchsorted(self._sorted_ids, query_ids), len(self) - 1)
        is_known = self._sorted_ids[place] == query_ids
        rows = np.where(is_known, self._order[place], -1)
        if vectors.shape[1] != self.vectors.shape[1]:
            return rows, np.ones(len(rows), np.float32)
        old = self.vectors[rows]
        distance = np.linalg.norm(vectors - old, axis=1)
        length = np.maximum(np.linalg.norm(old, axis=1), np.finfo(np.float32).tiny)
        return rows, np.where(is_known, np.minimum(distance / length, 1), np.float32(1))

    def change(self, rows: np.ndarray, moved: np.ndarray) -> Change:
        """What changed, from what `match` found of all new phrases."""
        known, same = int((rows >= 0).sum()), int((moved == 0).sum())
        distance = float(moved[rows >= 0].sum(dtype=np.float64))
        return Change(same, len(rows) - known, known - same, len(self) - known, distance)

    def drift(self, change: Change) -> float:
        """Share of rows added, removed or moved since the quantizer was trained."""
        before = self.config["drift"]
        return (before["drifted_rows"] + change.drifted_rows) / before["trained_rows"]

    def is_usable(self, change: Change, kind: Kind, settings: IndexSettings) -> bool:
        """Whether to update it rather than to build anew an index of the kind `kind`.

        A flat index has nothing to update: its vectors are its tables. A graph forgets no node:
        of one that would hold too many dead ones the drift is too great, too.
        """
        if kind.name != self.kind.name or kind.name == "flat":
            return False
        rows = change.kept + change.added + change.changed
        nodes = len(self.places()) + change.added + change.changed
        grown = kind.name == "hnsw" and nodes > (1 + settings.max_drift) * rows
        return not grown and self.drift(change) <= settings.max_drift


def update(
    earlier: EarlierIndex,
    folder: str,
    temperature: float,
    settings: IndexSettings,
    probes: np.ndarray | None = None,
) -> Change | None:
    """Makes the index of new tables from an earlier one.

    Args:
      earlier: the index to start from; its files stay as they are.
      folder: holds the tables of the new phrases (`phrase_index.write_tables`); gets the rest.
      temperature: τ of equation (1).
      settings: what is asked of the index.
      probes: see `phrase_index.save_index`.

    Returns:
      What changed; or None, and nothing is written, where the index must be built anew.
    """
    vectors, query_ids = open_vectors(folder)
    rows, moved = earlier.match(query_ids, vectors)
    change = earlier.change(rows, moved)
    kind = choose_kind(len(vectors), vectors.shape[1], settings)
    if not earlier.is_usable(change, kind, settings):
        return None
    index = index_kinds.load(
        earlier.kind, os.path.join(earlier.folder, "index.faiss"), is_mapped=False
    )
    places = _move(index, earlier, rows, moved == 0, vectors)
    before = earlier.config["drift"]
    drift = {**before, "drifted_rows": before["drifted_rows"] + change.drifted_rows}
    save_index(
        folder,
        earlier.kind,
        index,
        temperature=temperature,
        settings=settings,
        probes=probes,
        places=places,
        drift=drift,
    )
    return change


def _move(
    index: Any,
    earlier: EarlierIndex,
    rows: np.ndarray,
    is_same: np.ndarray,
    vectors: np.ndarray,
) -> np.ndarray:
    """Takes out of an index what is gone and adds what is new; returns its new places."""
    old_places = earlier.places()
    new_rows = np.flatnonzero(~is_same)
    row_of = np.full(len(earlier), -1)
    row_of[rows[is_same]] = np.flatnonzero(is_same)
    kept = np.where(old_places >= 0, row_of[old_places], -1)
    gone = np.flatnonzero((old_places >= 0) & (kept < 0))
    if isinstance(index, faiss.IndexIVF):
        index.remove_ids(faiss.IDSelectorBatch(gone))
    index_kinds.add(index, vectors[new_rows], len(old_places))
    return np.concatenate([kept, new_rows])
