import types

import pyarrow as pa

from transforms.mining.labels import parse_labels

STAGE = types.SimpleNamespace(name="mine_pairs", run_id="run")


def test_parse_labels():
    rows = [
        ("a", "shoe", "val"),
        (" a ", "boot", "TEST"),
        ("b", "", "train"),
        ("c", "hat", ""),
        ("", "hat", ""),
        ("d", "hat", "holdout"),
        ("\ud800", "hat", ""),
        ("gone", "hat", ""),
    ]
    columns = zip(*[[v.encode("utf-8", "surrogatepass") for v in row] for row in rows], strict=True)
    table = pa.table(dict(zip(("key", "label", "split"), map(pa.array, columns), strict=True)))
    output = parse_labels(table, STAGE, pa.array(["gone"]))
    assert [tuple(row.values()) for row in output.tables["labels"].to_pylist()] == [
        ("a", "shoe", "validation"),
        ("a", "boot", "test"),
        ("b", None, "train"),
        ("c", "hat", None),
    ]
    dead = [row for letters in output.dead for row in letters.to_pylist()]
    reasons = sorted(row["reason"] for row in dead)
    assert reasons == ["bad_encoding", "bad_split", "missing_image_key"]
    assert "gone" not in {row["key"] for row in dead}
    assert output.counts["labels.in"] == 8
    assert output.counts["labels.out"] == 4
    assert output.counts["labels.dropped_forgotten"] == 1
