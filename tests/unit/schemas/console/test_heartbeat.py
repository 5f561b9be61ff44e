import gc
import io
import os
import pty
import re
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_code.runtime import training
from schemas.console import heartbeat, progress
from schemas.console.heartbeat import Heartbeat, duration, how_far, rate


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Screen(io.StringIO):
    """A log, or with `terminal` a terminal."""

    def __init__(self, terminal=False):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


class Says:
    def __init__(self, text):
        self.text = text

    def news(self):
        return self.text


def run_for(beat, clock, seconds, step=0.5):
    """What is shown within some seconds, as (second, line)."""
    shown, before = [], beat._out.getvalue()
    for _ in range(round(seconds / step)):
        clock.now += step
        beat.tick()
        if (now := beat._out.getvalue()) != before:
            shown.append((clock.now - 100, now[len(before) :]))
            before = now
    return shown


@given(st.lists(st.floats(0.1, 40), min_size=1, max_size=30))
def test_nothing_takes_longer_than_ten_seconds_in_silence(lengths):
    """Whatever activities follow one another, a line comes every ten seconds and no sooner."""
    clock, out = Clock(), Screen()
    beat, times = Heartbeat(out, clock), [100.0]
    for length in lengths:
        activity = Says("at work")
        beat.begin(activity)
        times += [100 + when for when, _ in run_for(beat, clock, length, 0.1)]
        beat.end(activity)
    gaps = [b - a for a, b in zip(times, [*times[1:], clock.now], strict=True)]
    assert max(gaps) <= heartbeat.EVERY + 0.2
    assert all(gap > heartbeat.EVERY - 0.2 for gap in gaps[:-1])


def test_the_newest_activity_with_news_is_shown():
    clock, out = Clock(), Screen()
    beat = Heartbeat(out, clock)
    job, idle = Says("job"), Says(None)
    beat.begin(job)
    beat.begin(idle)
    assert run_for(beat, clock, 10) == [(10, "job\n")]
    step = Says("step")
    beat.begin(step)
    assert run_for(beat, clock, 10) == [(20, "step\n")]
    beat.end(step)
    assert run_for(beat, clock, 10) == [(30, "job\n")]


def test_an_activity_that_died_is_not_shown():
    clock, out = Clock(), Screen()
    beat = Heartbeat(out, clock)
    died = Says("died")
    beat.begin(died)
    del died
    gc.collect()
    assert beat.is_idle()
    assert run_for(beat, clock, 30) == []


def test_what_ends_while_it_is_asked_is_not_shown():
    clock, out = Clock(), Screen()
    beat = Heartbeat(out, clock)

    class Ends:
        def news(self):
            beat.end(self)
            return "late"

    activity = Ends()
    beat.begin(activity)
    assert run_for(beat, clock, 20) == []


def test_a_terminal_has_one_line_that_is_rewritten_and_gone_at_the_end(monkeypatch):
    monkeypatch.setenv("COLUMNS", "21")
    clock, out, stdout = Clock(), Screen(terminal=True), io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    beat = Heartbeat(out, clock)
    activity = Says("a line that is longer than the terminal")
    beat.begin(activity)
    run_for(beat, clock, 1)
    # Twenty columns of it, taken back before they are written again.
    assert out.getvalue() == "a line that is longe\r\x1b[Ka line that is longe"
    print("a result")
    assert out.getvalue().endswith("longe\r\x1b[K")
    assert stdout.getvalue() == "a result\n"
    run_for(beat, clock, 0.5)
    beat.end(activity)
    assert out.getvalue().endswith("a line that is longe\r\x1b[K")
    print("another")
    assert stdout.getvalue() == "a result\nanother\n"


class Broken(Screen):
    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("out", [Broken(), Screen()])
def test_work_goes_on_where_nobody_listens(out):
    clock = Clock()
    beat = Heartbeat(out, clock)
    out.close()
    beat.say("to nobody")
    activity = Says("to nobody")
    beat.begin(activity)
    clock.now += 60
    beat.tick()
    beat.end(activity)


@pytest.mark.parametrize(
    ("done", "seconds", "says"),
    [
        (0, 1, "0/s"),
        (12345, 10, "1,234/s"),
        (42, 10, "4.2/s"),
        (2, 10, "12/min"),
        (1, 40, "1.5/min"),
        (2, 3600, "2.0/h"),
    ],
)
def test_rates_have_digits_that_tell(done, seconds, says):
    assert rate(done, seconds) == says


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**5))
def test_time_left_is_what_the_rest_takes_at_the_rate_so_far(done, rest, seconds):
    text = how_far(done, done + rest, "rows", seconds)
    assert text.endswith(f", {duration(rest * seconds / done)} left")
    # What an earlier attempt did says nothing of how fast this one is.
    assert how_far(done + 7, done + 7 + rest, "rows", seconds, 7).split(",")[-1] == (
        f" {duration(rest * seconds / done)} left"
    )
    assert "left" not in how_far(done, None, "rows", seconds)
    assert "left" not in how_far(done, done, "rows", seconds)


def test_threads_count_together_and_only_what_was_seen_is_said_to_end(capsys):
    mine = progress.shared("rows of a test", 1000, "rows")
    assert progress.shared("rows of a test", 1000, "rows") is mine
    threads = [threading.Thread(target=lambda: [mine.add(1) for _ in range(250)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mine.line().startswith("rows of a test: 1,000 of 1,000 rows, ")
    mine.close()
    assert capsys.readouterr().err == ""
    other = progress.shared("rows of a test", 1000, "rows")
    assert other is not mine
    other.add(10)
    assert other.news() == other.line()
    other.close()
    other.close()
    assert capsys.readouterr().err.count("10 of 1,000 rows") == 1


def test_a_shared_count_has_no_news_when_it_rests():
    clock = Clock()
    found = progress._Shared("resting", None, "rows", clock)
    assert found.news() is None
    clock.now += 2
    found.add(5)
    clock.now += 1
    assert found.news() == "resting: 5 rows, 2.5/s"
    clock.now += 60
    assert found.news() is None


def test_training_that_goes_on_says_the_rate_of_this_attempt(tmp_path, capsys):
    """Steps of an earlier attempt took no time of this one."""
    import tensorflow as tf

    weights = tf.Variable(0.0)
    state = {"weights": tf.Module()}
    state["weights"].value = weights

    def step():
        time.sleep(0.05)
        return weights.assign_add(1.0)

    def run(epochs):
        training.fit(
            "toy",
            str(tmp_path),
            state,
            lambda epoch: [()] * 4,
            step,
            evaluate=lambda: {"score": float(weights)},
            epochs=epochs,
            steps_per_epoch=4,
            monitor="score",
            patience=99,
        )
        (line,) = re.findall("^toy: (.*)$", capsys.readouterr().err, re.MULTILINE)
        return line

    assert run(4).startswith("16 of 16 steps, ")
    resumed = run(5)
    per_second = float(re.findall(r"20 of 20 steps, ([\d.]+)/s", resumed)[0])
    assert per_second < 20.5  # 4 steps of 0.05 s each, and not 20 in that time


SCRIPT = """
import sys, time
from schemas.console import heartbeat
heartbeat.EVERY = 0.6
with heartbeat.doing("waits"):
    time.sleep(1.5)
    print("in between", flush=True)
for nap in heartbeat.counted("counts", [0.5] * 4, "naps"):
    time.sleep(nap)
print("done", flush=True)
"""


def test_a_process_tells_a_log_what_it_does():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout == "in between\ndone\n"
    lines = done.stderr.splitlines()
    assert re.fullmatch(r"waits: \d s", lines[0])
    assert re.fullmatch(r"counts: \d s, \d of 4 naps, [\d.]+/(s|min), \d s left", lines[-1])
    assert 3 <= len(lines) <= 7


def test_a_forked_process_tells_too():
    script = """
import os, sys, time
from schemas.console import heartbeat
heartbeat.EVERY = 0.3
with heartbeat.doing("parent"), heartbeat._heartbeat._lock:
    child = os.fork()
    if not child:
        with heartbeat.doing("child"):
            time.sleep(1.5)
        os._exit(0)
os.waitpid(child, 0)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "child: " in done.stderr


def test_a_process_tells_a_terminal_in_one_line():
    main, other = pty.openpty()
    with os.fdopen(main, "rb", 0) as terminal:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=other, stderr=other)
        os.close(other)
        shown = b""
        try:
            while data := terminal.read(4096):
                shown += data
        except OSError:  # how the end of a terminal looks
            pass
        assert process.wait() == 0
    # What stays is what was printed: all else was taken back.
    assert re.sub(rb"[^\r\n]*\r\x1b\[K", b"", shown) == b"in between\r\ndone\r\n"
    assert shown.count(b"waits: ") >= 2
