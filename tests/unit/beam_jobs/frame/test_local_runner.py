"""A job of this machine says where it is while it runs."""

import re
import threading

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.frame import local_runner
from beam_jobs.frame.local_runner import LocalRunner

reached, go_on = threading.Event(), threading.Event()


def wait_at_four(value):
    if value == 4:
        reached.set()
        assert go_on.wait(60)
    return value


@pytest.fixture
def asked():
    """What the runner says from another thread while a step is at its fifth element of twelve."""
    reached.clear()
    go_on.clear()
    runner, found = LocalRunner(), [LocalRunner().position()]

    def ask():
        assert reached.wait(60)
        found.append(runner.position())
        go_on.set()

    thread = threading.Thread(target=ask)
    thread.start()
    with beam.Pipeline(runner=runner, options=PipelineOptions([])) as pipeline:
        values = (
            pipeline
            | beam.Create([("one", list(range(12)))])
            | beam.FlatMapTuple(lambda _, values: [(value, value) for value in values])
            | beam.GroupByKey()
        )
        values | "Careful" >> beam.MapTuple(lambda key, _: wait_at_four(key))
    thread.join()
    return found


def test_it_says_the_step_its_elements_and_the_time_left(asked):
    before, within = asked
    assert before is None
    line = r"step (\d+) of (\d+), [\w/]+: 4 of 12 blocks, [\d.,]+/(s|min), [\d:]+ (s|min) left"
    step, of = map(int, re.fullmatch(line, within).groups()[:2])
    assert 1 < step <= of


def test_it_runs_on_where_beam_tells_nothing(monkeypatch):
    def refuse(_):
        raise AttributeError("another version of Beam")

    monkeypatch.setattr(local_runner, "_infos", refuse)
    runner = LocalRunner()
    with beam.Pipeline(runner=runner, options=PipelineOptions([])) as pipeline:
        pipeline | beam.Create([1, 2])
    assert re.fullmatch(r"step \d+ of \d+", runner.position())


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("FindDuplicates/Links", "FindDuplicates/Links"),
        ("Build/ParDo(CallableWrapperDoFn)/ParDo(CallableWrapperDoFn)", "Build"),
        ("Map(<lambda at job.py:3>)", "Map(<lambda at job.py:3>)"),
    ],
)
def test_labels_that_beam_made_up_are_left_out(name, shown):
    assert local_runner._short(name) == shown


@pytest.mark.parametrize(("data", "value"), [(b"\x00", 0), (b"\x7f", 127), (b"\xac\x02", 300)])
def test_numbers_are_read_as_beam_writes_them(data, value):
    assert local_runner._varint(data) == value
