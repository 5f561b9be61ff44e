"""Whether the log and the label files call images what they are called here.

A log or label file may be of a larger collection than the images at hand, and images may be more
than the log knows: either is in order. Where hardly anything matches on both sides, keys are of
another kind, and nothing but an error with examples helps.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.base.errors import PhraseLensError
from transforms.images.units import KEY_KINDS, key_of_path
from transforms.shards.ceilings import EXAMPLES
from transforms.shards.outputs import Notes

# Kind of row → what it is called, what counts the images that it names, and what is its flag.
SIDES = {
    "clicks": ("rows of the log", "in_log", "--columns image_id=COLUMN"),
    "known_labels": ("labels", "labelled", "--label_columns key=COLUMN"),
}
SCANNED_PATHS = 200_000  # of all image files, to tell which kind of key would match


@dataclasses.dataclass(frozen=True)
class Match:
    """Which rows name an image that is there.

    Attributes:
      is_known: [rows] bool.
      counts: of the rows, and of the image keys that they name.
      notes: the unknown keys with most rows, and keys of images.
    """

    is_known: pa.ChunkedArray
    counts: dict[str, int]
    notes: dict[str, list[tuple[int, str]]]


def match(
    named: pa.ChunkedArray,
    keys: pa.ChunkedArray,
    kind: str,
    *,
    found: str,
    weights: pa.ChunkedArray | None = None,
    earlier: pa.ChunkedArray | None = None,
) -> Match:
    """Compares the keys that rows name with those of the images.

    Args:
      named: [rows] string.
      keys: [images] string.
      kind: what the rows are, one of SIDES.
      found: what to call the image keys that they name, for the counts.
      weights: [rows] int64, rows of the log that each stands for; None for one.
      earlier: [earlier images] string, of an earlier run: rows that name one of those which is
        there no more are counted as such, and are no examples of what is unknown.
    """
    if weights is None:
        weights = pa.chunked_array([np.ones(len(named), np.int64)])
    is_known = pc.is_in(named, value_set=pc.unique(keys))
    was_there = pc.is_in(named, value_set=pc.unique(named[:0] if earlier is None else earlier))
    is_retired = pc.and_not(was_there, is_known)
    is_lost = pc.invert(pc.or_(is_known, is_retired))
    lost = pa.table({"key": named.filter(is_lost), "rows": weights.filter(is_lost)})
    lost = lost.group_by("key", use_threads=False).aggregate([("rows", "sum")])
    lost = lost.sort_by([("rows_sum", "descending"), ("key", "descending")]).slice(0, EXAMPLES)
    rows, good, retired = (
        pc.sum(w).as_py() or 0
        for w in (weights, weights.filter(is_known), weights.filter(is_retired))
    )
    counts = {
        f"{kind}.in": rows,
        f"{kind}.out": good,
        f"{kind}.dropped_retired_image": retired,
        f"{kind}.dropped_unknown_image": rows - good - retired,
        f"image_keys.{found}": pc.count_distinct(named.filter(is_known)).as_py(),
    }
    images = pc.unique(keys).sort().slice(0, EXAMPLES).to_pylist()
    notes = {
        f"{kind}.dropped_unknown_image": list(
            zip(lost["rows_sum"].to_pylist(), lost["key"].to_pylist(), strict=True)
        ),
        "image_keys.all": [(0, key) for key in images],
    }
    return Match(is_known, counts, notes)


def check_matches(counters: Mapping[str, int], notes: Notes, least: float) -> None:
    """Refuses a run in which hardly anything matches.

    Args:
      counters: of all steps; see `match`.
      notes: the heaviest of them.
      least: share of the rows, or of the images, that must match: the larger one counts.

    Raises:
      PhraseLensError: neither does, for the log or for the labels.
    """
    images = counters.get("image_keys.all", 0)
    for kind, (what, found, flag) in SIDES.items():
        rows = counters.get(f"{kind}.in", 0)
        matched, named = counters.get(f"{kind}.out", 0), counters.get(f"image_keys.{found}", 0)
        if not rows or not images or max(matched / rows, named / images) >= least:
            continue
        theirs, ours = (
            ", ".join(repr(key) for _, key in notes.get(name, ()))
            for name in (f"{kind}.dropped_unknown_image", "image_keys.all")
        )
        raise PhraseLensError(
            f"{matched:,} of {rows:,} {what} name one of the {images:,} images, whose keys are "
            f"such as {ours}; not known are {theirs}",
            f"at least {least:.0%} of the {what}, or of the images, to match",
            f"Name the column that holds the images' keys with {flag}, or say with --image_key "
            "what part of its path an image file is called by. Where so few belong together, "
            "lower --min_match.",
        )


def check_image_key(
    samples: Mapping[str, Collection[str]], paths: Sequence[str], image_key: str
) -> None:
    """Refuses, before any work, a kind of key under which nothing matches, where another would do.

    Args:
      samples: what names images ("the log") → some keys that it has.
      paths: of all image files.
      image_key: the kind of key, of KEY_KINDS.

    Raises:
      PhraseLensError: nothing matches, but would with another kind.
    """
    matches: dict[str, dict[str, str]] = {name: {} for name in samples}
    for path in paths[:: max(1, len(paths) // SCANNED_PATHS)]:
        for kind in KEY_KINDS:
            key = key_of_path(path, kind)
            for name, keys in samples.items():
                if key in keys:
                    matches[name].setdefault(kind, path)
        if all(image_key in found for found in matches.values()):
            return
    for name, found in matches.items():
        if found and image_key not in found:
            kind, path = next(iter(found.items()))
            for_all = [k for k in KEY_KINDS if all(k in other for other in matches.values())]
            remedy = (
                f"Give --image_key={for_all[0]}."
                if for_all
                else (
                    "Let the log and the label files call an image alike; --image_key says what an "
                    "image file is called."
                )
            )
            raise PhraseLensError(
                f"{name} calls {path} {key_of_path(path, kind)!r}, but --image_key={image_key} "
                f"calls it {key_of_path(path, image_key)!r}, and so none of the images matches",
                "one name for an image everywhere",
                remedy,
            )
