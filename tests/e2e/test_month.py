"""A schedule over days: whatever happens on one, what must be in use is, and nothing else.

The model of what must be is in tests/support/oracles/month.py.
"""

import contextlib
import random

import pytest

from beam_jobs.runs import reprocess
from schemas.base import storage
from schemas.maintenance import metrics, status, summaries
from tests.support.oracles.month import EVENTS, Month

WEEK = ["usual", "new_images", "retired", "forget", "flipped", "rolled_back", "killed"]
SHOWN = (5, 15, 30)  # days after which docs/operate/schedule.md shows the status


@pytest.fixture
def month(tiny_run, tmp_path, monkeypatch):
    # One process: what another one would load beside mining is loaded here already.
    monkeypatch.setattr(reprocess, "miner_of", lambda _: contextlib.nullcontext())
    return lambda seed: Month(tiny_run, tmp_path, seed)


def test_a_week(month):
    played = month(1)
    for event in WEEK:
        played.play(event)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_a_month(month, seed, tmp_path):
    """Every event at least once, in an order that chance decides."""
    played = month(seed)
    rng = random.Random(seed)
    events = [*EVENTS, *rng.choices(EVENTS, k=29 - len(EVENTS))]
    rng.shuffle(events)
    for day, event in enumerate(["usual", *events], 1):
        print(f"day {day}: {event}", flush=True)
        played.play(event)
        if day in SHOWN:
            told = status.text(status.status(played.work, str(played.days)))
            (tmp_path / f"status-{day:02}.txt").write_text(told)
    (tmp_path / "summary.json").write_bytes(
        storage.read_bytes(summaries.path_of(played.work, max(played.contents)))
    )
    (tmp_path / "metrics.prom").write_bytes(
        storage.read_bytes(f"{played.work}/{metrics.FILE_NAME}")
    )
