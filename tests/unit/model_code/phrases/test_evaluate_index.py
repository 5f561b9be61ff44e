"""./run.sh evaluate_index and ./run.sh bench phrases in small."""

import json

import numpy as np
import pyarrow as pa
import pytest

from model_code.phrases import evaluate_index as index_eval
from model_code.phrases import folder as folder_lib
from schemas.datasets import commit, manifest, shards
from schemas.runs import run as run_lib
from schemas.tables.vectors import vectors_to_arrow
from tests.support.inputs.phrase_vectors import TEXT_WIDTH, draw, images, phrases


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of phrases as embed_phrases commits it."""
    folder = tmp_path_factory.mktemp("phrases")
    root = str(folder / "dataset")
    vectors = draw(3000)
    local = folder / "index"
    local.mkdir()
    folder_lib.build(str(local), phrases(vectors, np.arange(3000)).to_batches(), 0.1)
    asked = images(vectors, 300)
    table = pa.table(
        {
            "image_id": [f"image {i}" for i in range(300)],
            "query_emb": vectors_to_arrow(asked),
        }
    )
    planned = run_lib.plan("embed_phrases", index_eval.Config("", output=root), [], {})
    path = planned.shard_path("image_embs", 0, 1, "parquet")
    shard = shards.write_parquet(root, path, 0, table)
    planned.commit_files("index", str(local), {})
    committed = manifest.read(root)
    committed.tables["image_embs"] = manifest.Table(
        "parquet", shards.schema_fingerprint(table.schema), (shard,)
    )
    assert commit.commit(root, committed, commit.token(root))
    assert json.loads((local / "config.json").read_text())["text_width"] == TEXT_WIDTH
    return root


def test_every_kind_is_measured(dataset, tmp_path, capsys):
    output = str(tmp_path / "kinds.json")
    flags = [f"--phrases={dataset}", f"--output={output}", "--kinds=stored,ivf_pq"]
    assert index_eval.run(flags) == 0
    rows = json.loads((tmp_path / "kinds.json").read_text())
    assert [row["name"] for row in rows] == ["stored", "ivf_pq"]
    for row in rows:
        assert row["recall"] >= 0.95
        assert row["queries_per_second"] > 0
        assert row["log_partition_error"][0] < 0.05
    assert rows[0]["recall"] == 1
    assert rows[0]["file_bytes"] == 0 < rows[1]["file_bytes"]
    assert rows[0]["build_seconds"] is None
    printed = capsys.readouterr().out
    assert printed.count("\n") == 5
    assert "| ivf_pq |" in printed


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--kinds=hsnw", "some of"), ("--features=nowhere", "a committed dataset")],
)
def test_what_is_missing_is_said(dataset, capsys, flag, message):
    assert index_eval.run([f"--phrases={dataset}", flag]) == 2
    assert message in capsys.readouterr().err


def test_private_memory_is_what_this_process_wrote():
    before = index_eval.private_bytes()
    mine = np.ones(4 << 20, np.float64)
    # Other threads may give some pages back meanwhile.
    assert index_eval.private_bytes() - before >= 0.95 * mine.nbytes
