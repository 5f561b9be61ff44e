"""The sizing formula, and that its figures can be measured."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.runs import sizing
from schemas.base.errors import PhraseLensError

NUMBERS = st.floats(1e5, 1e11)


def test_a_day_of_one_worker_by_hand():
    config = sizing.Config(
        events_per_image=10,
        event_us=100,
        clean_ms=9,
        embed_ms=25,
        search_ms=1,
        build_us=90,
        event_shuffle=50,
        image_bytes=1000,
        image_shuffle=2,
        feature_bytes=500,
        phrase_bytes=100,
        cores=4,
        hours=10,
        core_price=0.5,
        shuffle_price=2,
        storage_price=3,
    )
    found = sizing.size(config, 36e6, 4e6)
    assert found.mine_hours == pytest.approx(10 + 90)
    assert found.embed_hours == pytest.approx(260)
    assert found.index_hours == pytest.approx(0.1)
    assert found.workers == 10  # 360.1 core hours, 40 a worker
    assert found.shuffle == pytest.approx(36e6 * (10 * 50 + 2000))
    assert found.stored == pytest.approx(36e6 * 1500 + 4e8)
    assert found.run_price == pytest.approx(360.1 * 0.5 + 90 * 2)
    assert found.month_price == pytest.approx(54.4 * 3)


@given(NUMBERS, NUMBERS)
def test_more_takes_more(images, queries):
    config = sizing.Config()
    one, more = sizing.size(config, images, queries), sizing.size(config, 2 * images, 2 * queries)
    for name, value in dataclasses.asdict(one).items():
        assert getattr(more, name) >= value
    assert more.mine_hours == pytest.approx(2 * one.mine_hours)
    assert more.workers * config.cores * config.hours >= sum(
        (more.mine_hours, more.embed_hours, more.index_hours)
    )


def test_what_is_no_number_is_refused(capsys):
    assert sizing.run(["--images=many"]) == 2
    assert "--images=many: expected a number above 0" in capsys.readouterr().err
    with pytest.raises(PhraseLensError, match="measure in"):
        sizing.measure(sizing.Config(measure_events=10))


def test_the_table_has_a_line_for_each_combination(capsys):
    assert sizing.run(["--images=1e6,1e8,1e10", "--queries=4e6,4e8"]) == 0
    rows = re.findall(r"^\| [\d,]+ \|", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == 6


def test_shuffled_bytes_are_measured(tmp_path, capsys):
    argv = [f"--workdir={tmp_path}", "--measure_events=3000", "--measure_images=60"]
    assert sizing.run(argv) == 0
    found = dict(re.findall(r"--(\w+)=(-?[\d.]+)", capsys.readouterr().out))
    # An event has a query, a user, a session and an image, of some bytes each.
    assert 20 < float(found["event_shuffle"]) < 2000
    # Of an image rows cross that say where its bytes are; the bytes wait in a file.
    assert 0 < float(found["image_shuffle"]) < 1
    assert float(found["clean_ms"]) > 0
