"""How many rows of a kind may die."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.mining import mine_log, mine_pairs
from beam_jobs.mining.flags import Config as MiningConfig
from beam_jobs.models import (
    classify_images,
    embed_images,
    embed_phrases,
    prepare_examples,
    prepare_pairs,
)
from schemas.base.errors import AccountingError, DeadShareError
from schemas.console.parser import parser_for
from schemas.runs import command_line
from transforms.shards.ceilings import Ceilings, check_counters


def counters(dead, harmless=0, rows=1000, kind="rows", reason="bad_row"):
    return {
        f"{kind}.in": rows,
        f"{kind}.out": rows - dead - harmless,
        f"{kind}.dropped_{reason}": dead,
        f"{kind}.dropped_no_click": harmless,
    }


def fails(counted, *args, **named):
    try:
        check_counters(counted, Ceilings(*args, **named))
    except DeadShareError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("dead", "died"), [(0, False), (49, False), (50, False), (51, True)])
def test_more_dead_rows_than_the_share_fail(dead, died):
    error = fails(counters(dead))
    assert ("5.1% of rows died: 51 of 1,000 (bad_row 51)" in error) == died
    assert ("--max_dead_fraction" in error) == died


@pytest.mark.parametrize(
    ("dead", "rows", "died"),
    [(1, 11, False), (1, 19, False), (10, 20, False), (11, 22, True), (6, 11, True), (1, 1, True)],
)
def test_a_few_bad_rows_among_more_good_ones_are_no_failure(dead, rows, died):
    assert bool(fails(counters(dead, rows=rows))) == died


@given(
    st.integers(0, 40),
    st.integers(1, 400),
    st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    st.integers(0, 20),
)
def test_the_ceiling_is_a_share_or_a_few_while_half_are_good(dead, rows, share, few):
    dead = min(dead, rows)
    by_share = dead * 100 <= rows * round(share * 100)
    is_few = share > 0 and dead <= few and 2 * dead <= rows
    assert bool(fails(counters(dead, rows=rows), share, few)) == (not (by_share or is_few))


def test_no_share_allows_none_to_die():
    assert fails(counters(1, rows=1000), 0.0)
    assert not fails(counters(0, harmless=1000), 0.0)


def test_of_files_that_cannot_be_read_to_their_end_only_a_share_may_die():
    files = counters(1, rows=2, kind="events_files", reason="unreadable_file")
    assert "50.0% of events_files died" in fails(files)
    assert not fails(files, 0.5)


@pytest.mark.parametrize("reason", ["unknown_image", "blocked_query", "robot", "near_duplicate"])
def test_rows_dropped_as_a_matter_of_course_are_not_dead(reason):
    assert not fails(counters(1000, reason=reason), 0.0)


def test_each_kind_of_row_has_its_own_count_and_ceiling():
    others = counters(1, rows=1, kind="others")
    assert "100.0% of others" in fails(counters(0) | others)
    images = counters(300, kind="images") | counters(40, kind="labels") | counters(0)
    assert "30.0% of images" in fails(images)
    assert not fails(images, of_kinds=(("images", 0.3),))
    error = fails(images, of_kinds=(("images", 0.3), ("labels", 0.01)))
    assert "4.0% of labels" in error
    assert "at most 1.0%" in error
    assert "raise --max_dead_labels" in error


def test_the_error_names_examples_of_the_commonest_reason_and_where_all_are():
    counted = counters(90) | {"rows.dropped_bad_clicks": 10, "rows.out": 900}
    with pytest.raises(DeadShareError) as caught:
        check_counters(counted, Ceilings(), {"bad_row": ["'a'", "'b'"]}.get, "out/dead_letters")
    error = str(caught.value)
    assert "(bad_clicks 10, bad_row 90)" in error
    assert "Most are bad_row" in error
    assert "Such as 'a', 'b'. All are in out/dead_letters." in error


@pytest.mark.parametrize("name", ["rows.in", "rows.out", "rows.dropped_bad_row"])
def test_rows_that_vanish_are_a_bug(name):
    wrong = counters(1)
    wrong[name] += 1
    with pytest.raises(AccountingError, match="rows were lost"):
        check_counters(wrong, Ceilings(1.0))


def test_nothing_at_all_is_in_order():
    assert not fails({}, 0.0)
    assert not fails({"rows.in": 0}, 0.0)


JOBS = (
    classify_images,
    embed_images,
    embed_phrases,
    mine_log,
    mine_pairs,
    prepare_examples,
    prepare_pairs,
)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.JOB.name)
def test_every_job_that_drops_rows_has_the_same_flags(job):
    parser = parser_for(job.JOB.config, job.JOB.name, "")
    required = [action.dest for action in parser._actions if action.required]
    argv = [*(f"--{name}=x" for name in required), "--max_dead_fraction=0.2", "--max_dead_rows=3"]
    config = command_line.from_args(job.JOB.config, parser.parse_args(argv))
    assert config.ceilings() == Ceilings(0.2, 3)


def test_mining_has_ceilings_of_images_and_labels():
    argv = ["--output=x", "--max_dead_images=0.5", "--max_dead_labels=0"]
    config = command_line.parse(MiningConfig, "mine_pairs", "", argv)
    assert config.ceilings() == Ceilings(0.05, 10, (("images", 0.5), ("labels", 0.0)))
