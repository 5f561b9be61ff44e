"""The drawn collection: reproducible, resumable, and as people would have made it."""

import io
import unicodedata
import weakref
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from samples import click_log, make_samples, queries, scenes
from samples.words import LANGUAGES
from schemas.base import storage
from schemas.datasets import checks, dataset, manifest

SMALL = make_samples.Config(output="", images=500, image_size=32, images_per_shard=130)


def make(output, *flags) -> dataset.Dataset:
    argv = ["--output", str(output), "--images=500", "--image_size=32", "--images_per_shard=130"]
    assert make_samples.run([*argv, *flags]) == 0
    return dataset.Dataset(str(output))


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> dataset.Dataset:
    return make(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def events() -> list[click_log.Event]:
    """The log of 3000 images."""
    sessions = click_log.num_sessions(3000, 12)
    return [
        event
        for index in range(sessions)
        for event in click_log.session(0, index, 3000, sessions, miss_share=0.12, bad_share=0.006)
    ]


# --- images ---


@given(seed=st.integers(0, 2**63 - 1), index=st.integers(0, 10_000_000))
def test_shape_of_and_index_of_are_inverses(seed, index):
    block = index // scenes.BLOCK
    assert scenes.index_of(seed, block, scenes.shape_of(seed, index)) == index


@given(seed=st.integers(0, 1000), block=st.integers(0, 1000))
def test_labels_are_balanced_in_every_block(seed, block):
    indexes = range(block * scenes.BLOCK, (block + 1) * scenes.BLOCK)
    shapes = {scenes.shape_of(seed, index) for index in indexes}
    assert shapes == set(scenes.SHAPE_NAMES)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), index=st.integers(0, 100_000))
def test_main_object_is_the_largest_whole_and_visible(seed, index):
    scene = scenes.scene_of(seed, index)
    main = scene.main
    assert main.shape == scenes.shape_of(seed, index)
    assert all(other.radius < main.radius for other in scene.others)
    assert all(other.shape != main.shape for other in scene.others)
    for thing in (main, *scene.others):
        assert thing.radius <= min(thing.x, thing.y) + 1e-9
        assert max(thing.x, thing.y) + thing.radius <= 1 + 1e-9
    for colour in scene.colours:
        assert np.linalg.norm(np.subtract(colour, scenes.COLOURS[main.colour])) > 150


def test_drawing_shows_the_main_object_in_its_colour():
    for index in range(64):
        scene = scenes.scene_of(3, index)
        if scene.main.shape in ("circle", "square", "triangle", "cross", "heart"):  # solid ones
            pixels = scenes.draw(scene, 64, np.random.default_rng(0)).astype(float)
            x, y = int(scene.main.x * 64), int(scene.main.y * 64)
            seen = pixels[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))
            assert np.abs(seen - scenes.COLOURS[scene.main.colour]).max() < 50, index


def test_images_are_pure_functions_of_seed_and_index():
    first = [scenes.image_bytes(7, index, 48) for index in range(30)]
    scenes.scene_of.cache_clear()
    again = [scenes.image_bytes(7, index, 48) for index in reversed(range(30))]
    assert first == again[::-1]
    assert first != [scenes.image_bytes(8, index, 48) for index in range(30)]
    assert len(set(first)) == 30
    assert Image.open(io.BytesIO(first[0])).size == (48, 48)


def test_few_images_are_broken_and_few_are_duplicates():
    count = 20_000
    defects = Counter(scenes.defect_of(0, index) for index in range(count))
    assert set(defects) == {"", "truncated", "html", "empty"}
    assert 0.003 < 1 - defects[""] / count < 0.007
    doubles = [index for index in range(count) if scenes.original_of(0, index) != index]
    assert 0.006 < len(doubles) / count < 0.01
    for index in doubles[:20]:
        original = scenes.original_of(0, index)
        assert scenes.original_of(0, original) == original
        assert scenes.shape_of(0, original) == scenes.shape_of(0, index)
        if not scenes.defect_of(0, index) and not scenes.defect_of(0, original):
            assert scenes.image_bytes(0, index, 32) == scenes.image_bytes(0, original, 32)


def test_defects_are_what_they_are_called():
    indexes = {scenes.defect_of(0, index): index for index in range(20_000)}
    assert scenes.image_bytes(0, indexes["empty"], 32) == b""
    assert scenes.image_bytes(0, indexes["html"], 32).startswith(b"<!DOCTYPE html>")
    with pytest.raises(OSError, match=r"(?i)truncated"):
        Image.open(io.BytesIO(scenes.image_bytes(0, indexes["truncated"], 32))).load()


# --- words ---


def test_every_language_can_name_everything():
    for language, words in LANGUAGES.items():
        assert set(words.nouns) == set(scenes.SHAPE_NAMES), language
        assert set(words.colours) == set(scenes.COLOURS), language
        assert set(words.backgrounds) == set(scenes.BACKGROUNDS), language
        first_names = [words.names(shape)[0] for shape in scenes.SHAPE_NAMES]
        assert len(set(first_names)) == len(first_names), language
    assert sum(words.share for words in LANGUAGES.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", "small red star"),
        ("es", "estrella roja pequeña"),
        ("ru", "маленькая красная звезда"),
        ("zh", "小红色星星"),
        ("ar", "نجمة حمراء صغيرة"),
    ],
)
def test_phrase_agrees_in_gender(language, expected):
    facets = {"shape": "star", "colour": "red", "size": "small"}
    assert queries.phrase(language, ("shape", "colour", "size"), facets) == expected


def test_phrase_says_companions_backgrounds_and_themes():
    facets = {"shape": "fish", "theme": "sea", "background": "stripes", "companion": "tree"}
    assert queries.phrase("en", ("shape", "companion"), facets) == "fish and tree"
    assert queries.phrase("es", ("theme", "background"), facets) == "mar con rayas"
    assert queries.phrase("en", ("shape",), facets, name=1) == "goldfish"


@given(st.text("abcdé星круг ", max_size=30), st.randoms(use_true_random=False))
def test_a_slip_changes_one_word_a_little(text, rng):
    wrong = queries.misspell(text, rng)
    longest = max((len(word) for word in text.split()), default=0)
    assert (wrong != text) == (longest >= 2)
    assert abs(len(wrong) - len(text)) <= 1
    assert len(wrong.split()) == len(text.split())


@given(st.sampled_from(sorted(LANGUAGES)), st.integers(0, 5000), st.randoms(use_true_random=False))
def test_search_asks_for_what_is_there_and_reformulations_differ(language, index, rng):
    facets = queries.facets_of(scenes.scene_of(0, index))
    typed = queries.search(language, facets, rng)
    assert 1 <= len(typed) <= 2
    assert len({query.text for query in typed}) == len(typed)
    for query in typed:
        assert query.text.strip()
        assert set(query.wish) <= set(facets)


# --- the log ---


def test_log_has_about_as_many_rows_as_asked_for(events):
    assert len(events) == pytest.approx(3000 * 12, rel=0.05)


def test_shares_of_noise(events):
    clicks = [event for event in events if event.clicks > 0]
    # An oracle that looks at the image, not at `kind`: does any name of the shape or theme fit?
    named = {
        name: shape
        for words in LANGUAGES.values()
        for shape in scenes.SHAPE_NAMES
        for name in words.names(shape)
    }
    plain = [(e.image, named[e.query]) for e in clicks if e.query in named]
    plain = [(image, shape) for image, shape in plain if image.startswith("photo-")]
    wrong = sum(scenes.shape_of(0, int(image[6:14])) != shape for image, shape in plain)
    assert len(plain) > 3000
    assert 0.07 < wrong / len(plain) < 0.13
    assert 0.07 < sum(e.kind == "missed" for e in clicks) / len(clicks) < 0.13
    bad = Counter(e.kind for e in events if e.kind not in ("clicked", "missed", "seen"))
    assert set(bad) == {"unknown_image", "empty_query", "negative_clicks"}
    assert 0.004 < bad.total() / len(events) < 0.008


def test_sessions_are_in_order_and_show_nothing_twice(events):
    pages: dict[tuple[str, str], list[click_log.Event]] = {}
    for event in events:
        if event.kind in ("clicked", "missed", "seen"):
            pages.setdefault((event.session, event.query), []).append(event)
    for page in pages.values():
        positions = [event.position for event in page]
        times = [event.timestamp for event in page]
        assert positions == sorted(set(positions))
        assert times == sorted(set(times))
        assert len({event.image for event in page}) == len(page)
        assert len({event.user for event in page}) == 1


def test_higher_positions_get_more_clicks(events):
    top = [event.clicks > 0 for event in events if event.position <= 2]
    low = [event.clicks > 0 for event in events if event.position >= 8]
    assert np.mean(top) > np.mean(low)


def test_queries_and_images_have_a_long_tail(events):
    queries_seen = Counter(event.query for event in events if event.clicks > 0)
    counts = sorted(queries_seen.values(), reverse=True)
    assert sum(counts[: len(counts) // 10]) > 0.5 * sum(counts)
    assert counts.count(1) > 0.1 * len(counts)
    images = Counter(event.image for event in events if event.image.startswith("photo-"))
    assert len(images) > 0.98 * 3000
    assert max(images.values()) > 10 * np.median(list(images.values()))


def test_people_search_in_four_scripts_one_of_them_without_spaces(events):
    def script(text: str) -> str:
        return next((unicodedata.name(c).split()[0] for c in text if c.isalpha()), "")

    scripts = Counter(script(event.query) for event in events)
    for name in ("LATIN", "CYRILLIC", "CJK", "ARABIC"):
        assert scripts[name] > 0.05 * len(events), name
    chinese = [e.query for e in events if script(e.query) == "CJK"]
    assert not any(" " in query for query in chinese)


def test_queries_go_beyond_the_taxonomy_yet_often_name_the_main_object(events):
    clicks = [e for e in events if e.kind == "clicked"]
    texts = {event.query.lower() for event in clicks}
    assert len(texts) > 20 * len(scenes.SHAPE_NAMES)
    naming = sum(
        any(
            name in event.query.lower()
            for words in LANGUAGES.values()
            for name in words.names(scenes.shape_of(0, int(event.image[6:14])))
        )
        for event in clicks
    )
    assert 0.7 < naming / len(clicks) < 0.95


def test_some_sessions_reformulate(events):
    typed: dict[str, set[str]] = {}
    for event in events:
        typed.setdefault(event.session, set()).add(event.query)
    assert 0.2 < np.mean([len(texts) > 1 for texts in typed.values()]) < 0.5


# --- the stage ---


def test_dataset_is_sound_and_labels_few(sample):
    assert checks.verify(sample.root) == []
    images, labels = sample.table("images"), sample.table("labels")
    assert images["key"].to_pylist() == [scenes.key_of(index) for index in range(500)]
    assert 0.15 < labels.num_rows / images.num_rows < 0.25
    for row in labels.to_pylist():
        assert row["label"] == scenes.shape_of(0, int(row["key"][6:14]))
    assert sample.table("click_log").schema == make_samples.CLICK_LOG


def test_any_shard_can_be_made_alone(sample):
    tables, _ = make_samples.shard_tables(SMALL, 2)
    for name, table in tables.items():
        shard = sample.shards(name)[2]
        with pq.ParquetFile(storage.open_input(sample.path(shard))) as file:
            assert file.read() == table


def test_one_worker_and_two_give_the_same_bytes(sample, tmp_path):
    other = make(tmp_path, "--workers=2")
    assert manifest.shards_of(other.manifest) == manifest.shards_of(sample.manifest)
    assert other.manifest.counters == sample.manifest.counters


def test_a_run_that_died_resumes_after_the_shards_it_had_finished(sample, tmp_path, monkeypatch):
    made = []
    real = make_samples.shard_tables

    def dies_at_the_third(config, shard):
        made.append(shard)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(config, shard)

    monkeypatch.setattr(make_samples, "shard_tables", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    assert manifest.read(str(tmp_path)) is None
    resumed = make(tmp_path)
    assert made == [0, 1, 2, 2, 3]
    assert manifest.shards_of(resumed.manifest) == manifest.shards_of(sample.manifest)
    make(tmp_path)
    assert made == [0, 1, 2, 2, 3]


def test_memory_is_that_of_one_shard(sample, tmp_path, monkeypatch):
    """A shard's tables are gone before the next one's are made."""
    alive: list[weakref.ref] = []
    real = make_samples.shard_tables

    def watched(config, shard):
        assert all(reference() is None for reference in alive)
        tables, counts = real(config, shard)
        alive.extend(weakref.ref(table) for table in tables.values())
        return tables, counts

    monkeypatch.setattr(make_samples, "shard_tables", watched)
    make(tmp_path)
    assert len(alive) == 12


@pytest.mark.parametrize("flag", ["--images=499", "--images=10000001", "--labelled_share=1.5"])
def test_values_out_of_range_are_refused(flag, tmp_path, capsys):
    assert make_samples.run(["--output", str(tmp_path), flag]) == 2
    assert flag.split("=")[0] in capsys.readouterr().err


def test_dry_run_writes_nothing(tmp_path):
    assert make_samples.run(["--output", str(tmp_path / "new"), "--dry_run"]) == 0
    assert not (tmp_path / "new").exists()
