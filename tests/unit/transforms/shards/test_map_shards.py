"""Bisection of failing batches and resume by shard."""

import dataclasses
import threading
import time

import apache_beam as beam
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.console.flags import flag
from schemas.datasets import checks, manifest
from schemas.datasets import dataset as dataset_lib
from schemas.runs import run as run_lib
from transforms.inference.bisect import run_or_bisect
from transforms.shards import commit, outputs
from transforms.shards.ceilings import Ceilings
from transforms.shards.map_shards import MapShards

SCHEMA = pa.schema([("id", pa.int64())])


@given(st.lists(st.booleans(), max_size=40))
def test_only_the_bad_rows_of_a_batch_die(is_bad):
    def run(items):
        if any(bad for _, bad in items):
            raise ValueError("one of them is bad")
        return [place for place, _ in items]

    good, bad = run_or_bisect(run, list(enumerate(is_bad)))
    for start, result in good:
        assert result == list(range(start, start + len(result)))
    assert sorted(place for _, result in good for place in result) == [
        i for i, b in enumerate(is_bad) if not b
    ]
    assert sorted(place for place, _ in bad) == [i for i, b in enumerate(is_bad) if b]


@dataclasses.dataclass(frozen=True)
class _Config:
    output: str = flag("Dataset.", role="runtime")


@dataclasses.dataclass(frozen=True)
class _Worker:
    log: str
    dies_at: int | None
    label: str = "rows"
    unit: str = "rows"
    total: int | None = None

    def load(self):
        return None

    def process(self, task, loaded, progress):
        if task == self.dies_at:
            raise RuntimeError("the worker dies")
        with open(self.log, "a") as f:
            f.write(f"{task}\n")
        table = pa.table({"id": list(range(task * 10, task * 10 + 10))}, SCHEMA)
        return outputs.Output({"rows": table}, (), {"rows.in": 10, "rows.out": 10})


def _run(root, log, dies_at=None, worker=_Worker, flags=()):
    stage = run_lib.plan("rows", _Config(str(root)), [], {})
    options = beam.options.pipeline_options.PipelineOptions(["--runner=FnApiRunner", *flags])
    with beam.Pipeline(options=options) as pipeline:
        done = (
            pipeline
            | beam.Create(list(enumerate(range(4))))
            | MapShards(stage, worker(str(log), dies_at), {"rows": ["id"]}, 4)
        )
        {name: done[name] for name in (outputs.SHARDS, outputs.COUNTS)} | commit.CommitManifest(
            stage, {"rows": commit.parquet(SCHEMA)}, 4, Ceilings(0.05, rows=0)
        )


def test_a_run_that_died_goes_on_after_its_last_whole_shard(tmp_path):
    with pytest.raises(RuntimeError):
        _run(tmp_path / "d", tmp_path / "log", dies_at=2)
    assert manifest.read(str(tmp_path / "d")) is None
    before = (tmp_path / "log").read_text().split()
    _run(tmp_path / "d", tmp_path / "log")
    after = (tmp_path / "log").read_text().split()
    assert sorted(after) == ["0", "1", "2", "3"], (before, after)
    dataset = dataset_lib.Dataset(str(tmp_path / "d"))
    assert dataset.table("rows")["id"].to_pylist() == list(range(40))
    assert checks.verify(str(tmp_path / "d")) == []
    _run(tmp_path / "fresh", tmp_path / "log")
    assert manifest.read(str(tmp_path / "fresh")).content_hash == dataset.manifest.content_hash


def test_a_shard_that_was_cut_is_done_again(tmp_path):
    with pytest.raises(RuntimeError):
        _run(tmp_path / "d", tmp_path / "log", dies_at=3)
    part = next((tmp_path / "d").glob("runs/*/rows/part-00001*.parquet"))
    part.write_bytes(part.read_bytes()[:-5])
    _run(tmp_path / "d", tmp_path / "log")
    assert checks.verify(str(tmp_path / "d")) == []


class _Loading(_Worker):
    """Takes a while to load and to work, and writes down in which thread it did which."""

    def load(self):
        time.sleep(0.2)
        _loads.append(threading.get_ident())
        return _loads

    def process(self, task, loaded, progress):
        assert loaded is _loads
        _workers.add(threading.get_ident())
        time.sleep(0.1)
        return super().process(task, loaded, progress)


_loads: list[int] = []
_workers: set[int] = set()


def test_models_are_loaded_once_a_process_and_shared_by_its_threads(tmp_path):
    _loads.clear()
    threads = ("--direct_running_mode=multi_threading", "--direct_num_workers=4")
    _run(tmp_path / "d", tmp_path / "log", worker=_Loading, flags=threads)
    assert len(_workers) > 1
    assert len(_loads) == 1
