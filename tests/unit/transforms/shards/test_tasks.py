"""What is to be read, written down by the launcher and read by workers."""

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.mining.images import LabelFile
from tests.support.datasets.committed import plan
from transforms.images.fetch import FetchLimits
from transforms.images.places import Places
from transforms.images.units import ImageUnit
from transforms.inference.classify import UnitsOfShard
from transforms.rows.layouts import LogUnit
from transforms.rows.text_blocks import Dialect
from transforms.shards import tasks

# What a disk calls a file need be no UTF-8.
PATHS = st.text() | st.just(b"caf\xe9.jpg".decode("utf-8", "surrogateescape"))
TEXTS = st.lists(PATHS, max_size=3).map(tuple)
MAPPINGS = st.dictionaries(st.text(), st.text(), max_size=3)
PLACES = st.builds(
    Places, TEXTS, st.integers(1), st.none() | st.builds(FetchLimits, private_hosts=TEXTS)
)
UNITS = st.builds(
    ImageUnit,
    st.sampled_from(["files", "table"]),
    TEXTS,
    MAPPINGS,
    TEXTS,
    PLACES,
    TEXTS,
    st.none() | st.just("parquet") | st.builds(Dialect, st.sampled_from(",\t"), st.booleans()),
    st.integers(0),
    st.none() | st.integers(0),
)
LOG_UNITS = st.builds(
    LogUnit,
    st.text(),
    PATHS,
    MAPPINGS,
    st.integers(0),
    st.none() | st.integers(0),
    TEXTS,
    st.integers(0),
)
SHARDS = st.builds(UnitsOfShard, st.integers(0), st.lists(UNITS, max_size=2))
FILES = st.builds(LabelFile, PATHS)


def read(run, name, of_json):
    return [task for part in tasks._parts(run, name) for task in tasks._read_part(part, of_json)]


@pytest.mark.parametrize(
    ("kind", "of"),
    [(ImageUnit, UNITS), (LogUnit, LOG_UNITS), (UnitsOfShard, SHARDS), (LabelFile, FILES)],
)
def test_what_workers_read_is_what_was_planned(kind, of, tmp_path_factory):
    @given(st.lists(of, max_size=4))
    def check(planned):
        run = plan(str(tmp_path_factory.mktemp("run")))
        tasks.write_tasks(run, "some", planned)
        assert read(run, "some", kind.of_json) == planned

    check()


@pytest.mark.parametrize("count", [0, 1, 4096, 4097, 10_000])
def test_parts_hold_all_tasks_in_their_order(count, tmp_path):
    run, files = plan(str(tmp_path)), [LabelFile(str(number)) for number in range(count)]
    tasks.write_tasks(run, "files", files)
    assert read(run, "files", LabelFile.of_json) == files


def test_the_graph_is_the_same_however_many_tasks_there_are(tmp_path):
    graphs = []
    for count in (1, 5000):
        run = plan(str(tmp_path))
        tasks.write_tasks(run, "files", [LabelFile(f"{'x' * 50}{n}") for n in range(count)])
        with beam.Pipeline() as pipeline:
            found = pipeline | tasks.ReadTasks(run, "files", LabelFile.of_json)
            counted = found | beam.combiners.Count.Globally()
            assert_that(counted, equal_to([count]))
            graphs.append(len(pipeline.to_runner_api().SerializeToString()))
    assert abs(graphs[0] - graphs[1]) < 500  # paths of folders differ in length
