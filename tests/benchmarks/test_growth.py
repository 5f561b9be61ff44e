"""The counts of bench growth, and a job in small: what must not grow does not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.growth import growth, inputs
from schemas.base.errors import PhraseLensError
from tests.support.processes import cloud, emulator

bucket, credentials = cloud.bucket, cloud.credentials


@given(
    power=st.floats(0, 3),
    factor=st.floats(1e-3, 1e6),
    sizes=st.lists(st.integers(1, 10**9), min_size=2, max_size=4, unique=True).map(sorted),
)
def test_an_exponent_is_that_of_the_power(power, factor, sizes):
    values = [factor * size**power for size in sizes]
    assert growth.exponent(sizes, values) == pytest.approx(power, abs=1e-6)


def test_what_is_nothing_does_not_grow():
    assert growth.exponent([1, 4], [5, 0]) == 0
    assert growth.exponent([1], [5]) == 0


def test_what_grows_too_fast_is_named_and_nothing_else():
    sizes = [10, 40]
    counts = [
        {"reads": float(size**2), "writes": float(size), "graph_bytes": 9 * math.sqrt(size)}
        for size in sizes
    ]
    named = growth.growing(sizes, {"a job": counts})
    assert [line.split(" grows")[0] for line in named] == ["a job: reads", "a job: graph_bytes"]


def test_needed_jobs_come_along_in_their_order():
    assert [work.name for work in growth.chosen(["embed_images"])] == [
        "mine_pairs",
        "embed_phrases",
        "embed_images",
    ]
    with pytest.raises(PhraseLensError, match="embed_image: expected one of: mine_log"):
        growth.chosen(["embed_image"])


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ("GET /storage/v1/b/bucket/o?prefix=a", "lists"),
        ("GET /storage/v1/b/bucket/o/a%2Fb?projection=full", "looks"),
        ("GET /storage/v1/b/bucket/o/a%2Fb?alt=media", "reads"),
        ("GET /download/storage/v1/b/bucket/o/a?alt=media", "reads"),
        ("GET /bucket/a/b", "reads"),
        ("POST /upload/storage/v1/b/bucket/o?uploadType=resumable", "writes"),
        ("POST /storage/v1/b/bucket/o/a/rewriteTo/b/bucket/o/b", "copies"),
        ("DELETE /storage/v1/b/bucket/o/a", "deletes"),
        ("POST /batch/storage/v1", "batches"),
        ("GET /requests", "others"),
    ],
)
def test_each_request_is_of_one_kind(asked, kind):
    assert emulator.kind_of(*asked.split(" ")) == kind


@pytest.mark.parametrize(
    ("case", "column", "share"),
    [("popular_image", "image", 0.5), ("hot_query", "query", 0.4), ("one_person", "user", 0.9)],
)
def test_a_case_has_the_shape_that_it_is_called_by(case, column, share):
    rows = inputs.click_log(500, case)[column].value_counts().to_pylist()
    most = max(row["counts"] for row in rows) / (500 * inputs.EVENTS_PER_IMAGE)
    assert most == pytest.approx(share, abs=0.05)


def test_one_picture_has_one_in_twenty_files():
    pictures = [inputs.picture(number, "one_picture", 400) for number in range(400)]
    assert max(map(pictures.count, set(pictures))) == 20
    assert len(set(pictures)) == 381


def test_the_graph_of_a_job_and_its_launcher_stay_as_they_are(bucket, tiny_run):
    config = growth.Config(
        tiny_run.config.workdir, images=40, images_per_shard=20, jobs=("mine_log",), steps=2
    )
    works = growth.chosen(config.jobs)
    sizes, found = growth.grow(config, bucket, works)
    assert sizes == [40, 160]
    small, large = found["mine_log"]
    assert large["writes"] > small["writes"] > 0
    assert large["bytes_read"] > 2 * small["bytes_read"]
    for kind in ("graph_bytes", "launcher_bytes", "launcher_lists"):
        assert large[kind] <= 1.05 * small[kind], kind
    assert large["shuffled_bytes"] > small["shuffled_bytes"]
