"""./run.sh index-eval and ./run.sh bench phrases in small."""

import json

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.models import phrase_search
from benchmarks.models import phrases as bench
from model_code.phrases import evaluate_index as index_eval
from model_code.phrases import index as phrase_index
from model_code.phrases.evaluate_index import Measured
from schemas.datasets import commit, manifest, shards
from schemas.runs import stage
from schemas.tables import mined as tables
from tests.phrase_vectors import TEXT_WIDTH, draw, images, phrases


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of phrases as embed_phrases commits it."""
    folder = tmp_path_factory.mktemp("phrases")
    root = str(folder / "dataset")
    vectors = draw(3000)
    local = folder / "index"
    local.mkdir()
    phrase_index.build(str(local), phrases(vectors, np.arange(3000)).to_batches(), 0.1)
    asked = images(vectors, 300)
    table = pa.table(
        {
            "image_id": [f"image {i}" for i in range(300)],
            "query_emb": tables.vectors_to_arrow(asked, tables.vector(16)),
        }
    )
    planned = stage.plan("embed_phrases", index_eval.Config("", output=root), [], {})
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


def test_the_drawn_vectors_are_what_they_are_said_to_be(tmp_path):
    phrase_search.write_tables(tmp_path / "t", 4000, 0)
    read = {path.stem: np.load(path) for path in (tmp_path / "t").glob("*.npy")}
    vectors = read["query_vectors"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    scores = read["questions"] @ vectors.T
    best = -np.sort(-scores, axis=1)[:, :3]
    np.testing.assert_allclose(read["exact_scores"], best, atol=1e-5)
    whole = np.log(np.exp(scores[:256].astype(float) / 0.05).sum(axis=1))
    np.testing.assert_allclose(read["log_partitions"][0], whole, atol=1e-3)
    assert np.median(best[:, 0]) == pytest.approx(0.86, abs=0.03)
    phrase_search.write_tables(tmp_path / "u", 4000, 0)
    np.testing.assert_array_equal(np.load(tmp_path / "u" / "query_vectors.npy"), vectors)


def test_the_benchmark_in_small_and_what_is_done_is_kept(tmp_path, capsys, monkeypatch):
    flags = ["--queries=4000", "--parts=search", f"--workdir={tmp_path}", "--engines=ivf_pq"]
    assert bench.run(flags) == 0
    printed = capsys.readouterr().out
    assert "| 4,000 | ivf_pq | " in printed
    assert "| 4,000 | ivf_pq | 0.05 | " in printed
    monkeypatch.setattr(phrase_search, "measure_ours", None)
    assert bench.run(flags) == 0
    assert bench.run([*flags[:-1], "--engines=faster"]) == 2
    assert "some of matrix, flat" in capsys.readouterr().err


def test_the_table_compares_with_the_scan():
    common = {"file_bytes": 256 * 1000 // 10, "private_bytes": 2**20, "build_seconds": 2.0}
    scan = Measured(phrase_search.SCAN, 1.0, 50.0, 0, 10, 0, 0, None, (0, 0), {})
    ours = Measured("ivf_pq", 0.99, 2.0, 0, 999, **common, log_partition_error=(0, 0), effort={})
    lines = phrase_search.table(1000, [scan, ours]).splitlines()
    assert "| 1.0 |" in lines[0]
    assert "| 2.00 | 25.0 | 999 | 0 | 0.100 | 1 | 2 |" in lines[1]
