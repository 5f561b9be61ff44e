"""A manifest of format 1 as it was written a year ago, without today's fields and with one of then.

Frozen by hand: it must stay as it is, whatever `manifest.Manifest` becomes.
"""

import hashlib
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.base.errors import PhraseLensError
from schemas.datasets import commit, manifest
from schemas.datasets import dataset as dataset_lib
from schemas.maintenance import verify

ROWS = pa.table({"id": ["a", "b", "c"]})
SCHEMA = "b18d68800607b605f236b5c349a8a4d98742b49f0506a8eb32cd70a2541f85bf"  # of ROWS


def old_manifest(shard: bytes) -> dict:
    return {
        "format_version": 1,
        "stage": "mine_pairs",
        "run_id": "20251121",
        "fingerprint": "f" * 64,
        "config": {"min_clicks": 2, "a_flag_that_is_gone": True},
        "code": "c" * 64,
        "inputs": {"log": "1" * 64},
        "models": {},
        "tables": {
            "pairs": {
                "format": "parquet",
                "schema": SCHEMA,
                "rows_in_all": 3,
                "shards": [
                    {
                        "path": "runs/20251121/pairs/part-00000-of-00001.parquet",
                        "index": 0,
                        "rows": 3,
                        "bytes": len(shard),
                        "sha256": hashlib.sha256(shard).hexdigest(),
                        "compression": "zstd",
                    }
                ],
            }
        },
        "counters": {"pairs.in": 4, "pairs.out": 3, "pairs.dropped_bad_row": 1},
        "written_by": "a field that nobody reads any more",
    }


@pytest.fixture
def dataset(tmp_path):
    """Writes the old dataset; `changes` are fields of its manifest, None for those it lacks."""

    def write(**changes) -> str:
        buffer = io.BytesIO()
        pq.write_table(ROWS, buffer)
        path = tmp_path / "runs" / "20251121" / "pairs" / "part-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(buffer.getvalue())
        fields = old_manifest(buffer.getvalue())
        kept = {k: v for k, v in (fields | changes).items() if v is not None}
        (tmp_path / "manifest.json").write_text(json.dumps(kept))
        return str(tmp_path)

    return write


def test_it_is_read_and_verified(dataset, capsys, figure):
    root = dataset()
    found = dataset_lib.Dataset(root)
    assert found.table("pairs").equals(ROWS)
    assert (found.manifest.model_fingerprint, found.manifest.num_shards) == ("", 0)
    assert verify.run([root]) == 0
    assert capsys.readouterr().out.endswith("  ok\n")
    figure("fields unknown, fields absent: read and verified")


def test_it_is_replaced_by_a_commit_of_today(dataset):
    root = dataset()
    old = dataset_lib.Dataset(root).manifest
    assert commit.commit(root, old, commit.token(root))
    assert dataset_lib.Dataset(root).table("pairs").equals(ROWS)
    assert json.loads(old.to_json())["format_version"] == manifest.FORMAT_VERSION


@pytest.mark.parametrize("field", ["tables", "fingerprint", "format_version"])
def test_what_cannot_do_without_is_named(dataset, field, capsys):
    root = dataset(**{field: None})
    with pytest.raises(PhraseLensError, match=rf"manifest.json, which .*'{field}'"):
        dataset_lib.Dataset(root)
    assert verify.run([root]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1'])
def test_what_is_no_manifest_is_said(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(
        PhraseLensError, match=r"manifest.json, which cannot be read.*Remove that file"
    ):
        dataset_lib.Dataset(str(tmp_path))
