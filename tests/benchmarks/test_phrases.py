"""./run.sh bench phrases in small."""

import numpy as np
import pytest

from benchmarks.models import phrase_search
from benchmarks.models import phrases as bench
from model_code.phrases.evaluate_index import Measured


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
