"""What is told of a DoFn's state is what Beam finds by itself."""

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.transforms import userstate
from apache_beam.transforms.timeutil import TimeDomain

from beam_jobs.frame import stateless

COUNT = userstate.CombiningValueStateSpec("count", VarIntCoder(), sum)
COUNTED = beam.DoFn.StateParam(COUNT)
TIMER = userstate.TimerSpec("late", TimeDomain.WATERMARK)
TIMED = beam.DoFn.TimerParam(TIMER)


class Plain(beam.DoFn):
    def process(self, element, window=beam.DoFn.WindowParam):
        yield element


class Counting(beam.DoFn):
    def process(self, element, count=COUNTED):
        count.add(1)
        yield element


class Waiting(beam.DoFn):
    def process(self, element, timer=TIMED):
        timer.set(1)
        yield element

    @userstate.on_timer(TIMER)
    def late(self, count=COUNTED):
        yield count.read()


class Batched(beam.DoFn):
    def process_batch(self, batch, count=COUNTED):
        yield batch


def mapped(fn):
    return beam.Map(fn).fn


@pytest.mark.parametrize(
    ("dofn", "states", "timers"),
    [
        (Plain(), 0, 0),
        (Counting(), 1, 0),
        (Waiting(), 1, 1),
        (Batched(), 1, 0),
        (mapped(lambda element, more=3: element), 0, 0),
        (mapped(len), 0, 0),
    ],
    ids=["plain", "state", "timer", "batch", "lambda", "builtin"],
)
def test_states_and_timers_are_those_that_beam_finds(dofn, states, timers):
    found = stateless.specs(dofn)
    assert tuple(map(len, found)) == (states, timers)
    assert found == stateless._of_beam(dofn)
