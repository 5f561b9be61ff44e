"""Rows against the TFMD schema, and the selection of examples."""

import numpy as np
import pyarrow as pa
import pytest

from model_code.models.fusion.preprocessing import raw_schema
from schemas.runs import run as run_lib
from schemas.tables.vectors import vectors_to_arrow
from transforms.training_data.select import LABELLED, Selection, label_sets, select, select_rows
from transforms.training_data.validation import anomalies, validate

VECTORS = {"text_emb": (2,), "pixel_emb": (3,)}
STAGE = run_lib.Run("prepare_examples", "", "f", {}, "", {}, {}, "", False)


def _features(rows: int = 3, **changes) -> pa.Table:
    columns = {
        "image_id": pa.array([f"{i:032x}" for i in range(rows)]),
        "split": pa.array(["train", "validation", "test"][:rows]),
        "labels": pa.array([["a"]] * rows, pa.list_(pa.string())),
        "phrases": pa.array([["p"]] * rows, pa.list_(pa.string())),
        "text_emb": vectors_to_arrow(np.zeros((rows, 2), np.float32)),
        "pixel_emb": vectors_to_arrow(np.ones((rows, 3), np.float32)),
    }
    return pa.table(columns | changes)


def test_good_rows_pass():
    assert validate(_features(), raw_schema(VECTORS)) == []


@pytest.mark.parametrize(
    ("field", "column", "row", "says"),
    [
        ("image_id", pa.array(["a", None, "c"]), 1, "missing"),
        ("split", pa.array(["train", "dev", "test"]), 1, "not one of"),
        ("phrases", pa.array([["a"], ["b"], []], pa.list_(pa.string())), 2, "0 values"),
        ("pixel_emb", pa.array([[1.0] * 3, [1.0] * 2, [1.0] * 3]), 1, "2 values, expected 3"),
        ("pixel_emb", pa.array([[1.0] * 3, [1.0] * 3, [np.nan] * 3]), 2, "not finite"),
        ("text_emb", pa.array([[0.0, 7.0], [0.0, 0.0], [0.0, 0.0]]), 0, "above 1.01"),
        ("text_emb", pa.array([[0.0, np.inf], [0.0, 0.0], [0.0, 0.0]]), 0, "not finite"),
    ],
)
def test_a_broken_field_is_named_with_its_row(field, column, row, says):
    findings = validate(_features(**{field: column}), raw_schema(VECTORS))
    assert [(r, f) for r, f, _ in findings] == [(row, field)]
    assert says in findings[0][2]


def test_a_missing_column_is_named_for_every_row():
    findings = validate(_features().drop_columns("pixel_emb"), raw_schema(VECTORS))
    assert findings == [(row, "pixel_emb", "missing") for row in range(3)]


def test_anomalies_count_rows_by_field():
    text = anomalies([(("pixel_emb", "not finite"), 2)])
    assert "pixel_emb" in text
    assert "2 rows" in text


@pytest.mark.parametrize(
    ("task", "labels", "selection", "counts"),
    [
        ("single", [["a"], ["a"], ["a"]], frozenset("a"), {"out": 3}),
        (
            "single",
            [["a"], [], ["b"]],
            frozenset("a"),
            {"out": 1, "dropped_unlabelled": 1, "dropped_rare_label": 1},
        ),
        (
            "single",
            [["a", "b"], ["a"], ["a"]],
            frozenset("ab"),
            {"out": 2, "dropped_schema_anomaly": 1},
        ),
        ("multi", [["a", "b"], ["a"], ["a"]], frozenset("ab"), {"out": 3}),
    ],
)
def test_rows_become_examples_or_say_why_not(task, labels, selection, counts):
    table = _features(labels=pa.array(labels, pa.list_(pa.string())))
    output, _ = select_rows(table, Selection(selection, task), raw_schema(VECTORS), STAGE)
    found = {k.removeprefix("features."): v for k, v in output.counts.items() if "features" in k}
    assert found == {"in": 3} | counts
    assert sum(part.num_rows for part in output.tables.values()) == counts["out"]
    assert sum(t.num_rows for t in output.dead) == counts.get("dropped_schema_anomaly", 0)


def test_labels_are_those_that_enough_training_images_have():
    rows = [(f"{i:02d}", "train" if i < 9 else "test", ["ab"[i % 2]]) for i in range(9)]
    rows += [(f"{i}", split, ["b", "c"]) for i in range(6) for split in ("validation", "test")]
    ids, splits, labels = zip(*rows, strict=True)
    labelled = pa.table([list(ids), list(splits), list(labels)], LABELLED)
    sets = label_sets(labelled.slice(5)) + label_sets(labelled.slice(0, 5))
    assert len(sets) == 3, "what one worker takes grows with the sets of labels, not with images"
    parts = sets.items()
    # What training has not counts as wrong.
    assert select(parts, 1, "auto") == Selection(frozenset("abc"), "multi")
    for least, chosen in ((2, "ab"), (4, "ab"), (5, "a"), (6, "")):
        assert select(parts, least, "auto") == Selection(frozenset(chosen), "single")
