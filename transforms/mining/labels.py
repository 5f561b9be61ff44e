"""Label files: rows of files → checked labels and splits of images."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.runs.run import Run
from schemas.tables.mined import SPLITS
from transforms.rows.checked import Checked, id_texts
from transforms.shards.outputs import Output

LABEL_FIELDS = ("key", "label", "split")

# Keys and labels are in NFC.
LABELS = pa.schema([("key", pa.string()), ("label", pa.string()), ("split", pa.string())])

_SPLIT_NAMES = {split: split for split in SPLITS} | {"val": "validation", "dev": "validation"}


def parse_labels(table: pa.Table, run: Run, forgotten: pa.Array) -> Output:
    """Checks the rows of a label file.

    Args:
      table: [n] rows with `key` and any of `label` and `split`; text is binary. An image
        with several labels has several rows.
      run: the run, named in dead letters.
      forgotten: [k] string, the keys of images that must be forgotten.

    Returns:
      Table `labels` (rows of LABELS; null for an empty label or split), dead letters,
      counts of `labels`.
    """
    rows = table.num_rows
    checked = Checked(rows)
    values = {}
    for name in LABEL_FIELDS:
        column = table[name] if name in table.column_names else None
        texts = id_texts(column, rows)
        is_bad = np.array([text is None for text in texts], bool)
        checked.drop(is_bad, "bad_encoding", f"in {name}")
        values[name] = [text or "" for text in texts]
    checked.drop(np.array([not key for key in values["key"]], bool), "missing_image_key")
    splits = [_SPLIT_NAMES.get(split.lower(), split) for split in values["split"]]
    unknown = np.array([bool(split) and split not in SPLITS for split in splits], bool)
    checked.drop(unknown, "bad_split", lambda i: splits[i])
    keys = pa.array(values["key"], pa.string())
    checked.drop(pc.is_in(keys, value_set=forgotten).to_numpy(zero_copy_only=False), "forgotten")
    good = np.flatnonzero(checked.good)
    labels = pa.table(
        {
            "key": keys.take(pa.array(good)),
            "label": pa.array([values["label"][i] or None for i in good], pa.string()),
            "split": pa.array([splits[i] or None for i in good], pa.string()),
        },
        schema=LABELS,
    )
    letters = checked.letters(
        run,
        lambda dropped: [values["key"][i] for i in dropped],
        lambda dropped: [values["label"][i].encode() for i in dropped],
    )
    return Output({"labels": labels}, letters, checked.counts("labels"))
