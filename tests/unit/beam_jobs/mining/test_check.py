"""What a mined dataset lacks for later stages is told right after mining, and nothing else is."""

import dataclasses
import random
import tracemalloc
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.mining import check as mined_check
from beam_jobs.mining.check import Needs
from beam_jobs.runs import all_stages, chosen, reprocess
from beam_jobs.runs import stages as stages_lib
from model_code.metrics import labelling
from model_code.models.pixel_embedder import data, settings
from schemas.base.errors import PhraseLensError
from schemas.datasets.dataset import Dataset
from schemas.tables.mined import SPLITS
from tests.support.datasets import mined_dataset
from tests.support.datasets.snapshot_work import commit
from tests.support.datasets.work_folder import ROOT
from transforms.training_data.select import LABELLED, label_sets, select

ALL = [step.name for step in stages_lib.STAGES]
Images = Sequence[tuple[str, Sequence[str]]]
GOOD: Images = [("train", ["a"])] * 3 + [("train", ["b"]), ("validation", ["a"]), ("test", ["b"])]


def write(root: str, images: Images, queries: Sequence[int] = (3, 1)) -> str:
    """A mined dataset of images (split, labels) and of queries with so many training images."""
    rows = [
        {"image_id": f"{n:032x}", "keys": [str(n)], "split": split, "labels": list(labels)}
        | {"width": 8, "height": 8, "image": b""}
        for n, (split, labels) in enumerate(images)
    ]
    of_queries = [
        {"query_id": n, "query": str(n), "train_images": many} for n, many in enumerate(queries)
    ]
    return mined_dataset.write_mined(root, rows, [], of_queries, []).root


def check(root: str, stages: Sequence[str] = ALL, **flags: Mapping[str, str]) -> None:
    mined_check.check_dataset(root, {stage: flags.get(stage, {}) for stage in stages})


@pytest.mark.parametrize("least", [1, 3, 6])
def test_counts_are_those_of_a_loop(tmp_path, least):
    rng = random.Random(0)
    images = [
        (rng.choice(SPLITS), rng.sample("abcdefg", rng.choice([0, 1, 1, 1, 2]))) for _ in range(40)
    ]
    root = write(str(tmp_path), images, (0, 1, 2, 3))
    found = labelling.count(labelling.Dataset(root), least, 2)
    counted = images if least == 1 else [row for row in images if row[0] == "train"]
    kept = {k for k in "abcdefg" if sum(k in labels for _, labels in counted) >= least}
    trained = {k for k in kept if any(k in labels for split, labels in images if split == "train")}
    assert set(found.labels) == kept
    assert found.classes == sorted(trained)
    for split in SPLITS:
        mine = [set(labels) & kept for of, labels in images if of == split]
        assert found.images[split] == len(mine)
        assert found.labelled[split] == sum(bool(labels) for labels in mine)
        assert found.known[split] == sum(bool(labels & trained) for labels in mine)
        assert found.without(split) == sorted(kept - set().union(*mine))
    assert found.several == sum(len(set(labels) & kept) > 1 for _, labels in images)
    assert (found.queries, found.head_queries) == (3, 2)


def test_what_can_be_trained_passes(tmp_path, capsys):
    check(write(str(tmp_path), GOOD))
    assert capsys.readouterr().out == (
        "labels: 6 of 6 images labelled (4 for training, 1 for validation, 1 for testing), "
        "2 different ones\n  1 of 2 labels have no image for testing and have no figures of their "
        "own in the report: a\n"
    )


NONE: Images = [(split, []) for split, _ in GOOD]
ONE_CLASS: Images = [(split, ["a"]) for split, _ in GOOD]
UNKNOWN: Images = [*GOOD[:4], ("validation", ["x"]), ("test", ["x"])]


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (NONE, "at least two different ones, found 0; 0 of 6 images labelled"),
        (ONE_CLASS, "at least two different ones, found 1 (a); 6 of 6 images labelled"),
        (GOOD[:3] + GOOD[4:], "at least two different ones, found 1 (a)"),
        ([*GOOD[:4], ("test", ["a"])], "labelled images for validation: expected at least one"),
        (GOOD[:5], "labelled images for testing: expected at least one"),
        ([*GOOD[:5], ("test", [])], "labelled images for testing: expected at least one"),
        (GOOD[4:], "at least two different ones, found 0; 2 of 2 images labelled (0 for training"),
        (UNKNOWN, "labelled images for validation: expected at least one"),
    ],
)
def test_labels_that_are_not_enough_are_told_with_their_numbers(tmp_path, images, says):
    root = write(str(tmp_path), images)
    with pytest.raises(PhraseLensError) as caught:
        check(root)
    assert says in str(caught.value)
    # Stages that train no classifier need none of it.
    check(root, ["prepare_pairs", "train_text_generator", "train_text_embedder", "embed_phrases"])
    check(root, ["embed_images", "classify_images"])


@pytest.mark.parametrize(
    ("queries", "stage", "flags"),
    [
        ((), "prepare_pairs", {}),
        ((0, 0), "prepare_pairs", {}),
        ((2, 2), "prepare_pairs", {"min_query_images": "3"}),
        ((5,), "train_text_embedder", {}),
        ((5, 0), "train_text_embedder", {}),
    ],
)
def test_queries_that_are_not_enough_are_told(tmp_path, queries, stage, flags):
    root = write(str(tmp_path), GOOD, queries)
    with pytest.raises(PhraseLensError, match="mined queries"):
        check(root, **{stage: flags})
    check(root, [name for name in ALL if name not in ("prepare_pairs", "train_text_embedder")])


def test_settings_that_ask_for_more_or_less_are_heeded(tmp_path):
    root = write(str(tmp_path / "good"), GOOD)
    with pytest.raises(PhraseLensError, match="min_label_images"):
        check(root, prepare_examples={"min_label_images": "3"})
    one = write(str(tmp_path / "one"), ONE_CLASS)
    with pytest.raises(PhraseLensError):
        check(one, ["train_pixel_embedder"])
    check(one, ["train_pixel_embedder"], train_pixel_embedder={"weights": "imagenet"})
    check(one, ["prepare_examples"])


def test_several_labels_are_told_and_make_the_classifier_give_any_number(tmp_path, capsys):
    many = [(split, [*labels, "c"]) for split, labels in GOOD]
    root = write(str(tmp_path), many)
    check(root)
    assert "6 of 6 labelled images have several labels: the classifier gives any number" in (
        capsys.readouterr().out
    )
    check(root, prepare_examples={"task": "multi"})
    with pytest.raises(PhraseLensError, match=r"expected one label an image, found several on 6"):
        check(root, prepare_examples={"task": "single"})


def test_a_stray_image_of_several_labels_is_left_out(tmp_path, capsys):
    root = write(str(tmp_path), [*GOOD * 20, ("train", ["a", "b"])])
    check(root)
    assert "1 of 121 labelled images have several labels and are left out" in (
        capsys.readouterr().out
    )


def test_the_settings_that_are_assumed_are_the_stages_own():
    from beam_jobs.models import prepare_examples, prepare_pairs

    configs = [prepare_examples.Config] * 3 + [prepare_pairs.Config, settings.Config]
    for field, config in zip(dataclasses.fields(Needs), configs, strict=True):
        (own,) = [f for f in dataclasses.fields(config) if f.name == field.name]
        assert own.default == field.default
    flags = {"prepare_pairs": {"max_dead_fraction": "0.9", "min_query_images": "4"}}
    assert Needs.of(flags) == Needs(min_query_images=4)


label_lists = st.lists(st.lists(st.sampled_from("abc"), max_size=3, unique=True), max_size=300)


@given(label_lists, st.integers(0, 300))
def test_driver_examples_and_pixel_embedder_find_the_same_task(lists, single):
    lists = [*lists, *[["a"]] * single]
    labelled = sum(bool(labels) for labels in lists)
    several = sum(len(labels) > 1 for labels in lists)
    table = LABELLED.empty_table().from_pylist(
        [{"image_id": str(n), "split": "train", "labels": of} for n, of in enumerate(lists)],
        LABELLED,
    )
    found = select(label_sets(table).items(), 1, "auto")
    assert found.task == labelling.task_of(several, labelled)
    assert found.task == ("multi" if several * 100 > labelled else "single")
    for task in ("single", "multi"):
        assert select(label_sets(table).items(), 1, task).task == task


@pytest.mark.parametrize(("images", "task"), [(GOOD, "single"), ([("train", "ab")] * 9, "multi")])
def test_the_pixel_embedder_learns_the_task_of_the_labels(tmp_path, images, task):
    root = write(str(tmp_path), images)
    config = settings.Config(mined=root, output="")
    classes, found, train, _ = data.load_labels(config)
    assert (classes, found) == (["a", "b"], task)
    targets = train.targets.of(np.arange(len(train.targets)))
    assert targets.sum(axis=1).tolist() == [2 if task == "multi" else 1] * len(targets)


def test_stray_labels_share_the_target_of_an_image(tmp_path):
    root = write(str(tmp_path), [*GOOD * 20, ("train", ["a", "b"])])
    config = settings.Config(mined=root, output="")
    _, found, train, _ = data.load_labels(config)
    assert found == "single"
    targets = train.targets.of(np.arange(len(train.targets)))
    assert targets[-1].tolist() == [0.5, 0.5]
    assert (targets.sum(axis=1) == 1).all()


def test_the_driver_stops_after_mining_before_a_stage_that_would_fail(
    tmp_path, monkeypatch, capsys
):
    """Two stages that only note that they ran; the first has mined one class alone."""
    ran = tmp_path / "ran"
    (tmp_path / "noted.py").write_text(
        f"import sys; open({str(ran)!r}, 'a').write(sys.argv[1] + ' ')"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    steps = [
        stages_lib.Stage(name=name, module="noted", does="notes", output=output)
        for name, output in (("mine_pairs", "mined"), ("train_fusion", "fusion"))
    ]
    config = all_stages.Config(workdir=str(tmp_path), log="l", images="i", labels="l")
    write(f"{tmp_path}/mined", ONE_CLASS)
    with pytest.raises(PhraseLensError, match="found 1 \\(a\\)"):
        all_stages.run_stages(config, steps)
    assert len(ran.read_text().split()) == 1
    assert all_stages.run_stages(config, steps[:1]) == 0
    assert "6 of 6 images labelled" in capsys.readouterr().out


def test_a_reprocess_stops_after_mining_too(tmp_path, monkeypatch, capsys):
    """Two stages that only note that they ran, in place of those that mine and make examples."""
    work, ran = str(tmp_path / "work"), tmp_path / "ran"
    for name in chosen.MODELS:
        commit(work, name, f"first {name}")
    for name in ("noted_mining", "noted_examples"):
        (tmp_path / f"{name}.py").write_text(
            f"def run(argv):\n    open({str(ran)!r}, 'a').write('{name} ')\n    return 0\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    steps = (
        stages_lib.Stage(name="mine_pairs", module="noted_mining", does="notes", output="mined"),
        stages_lib.Stage(
            name="prepare_examples", module="noted_examples", does="notes", output="examples"
        ),
    )
    monkeypatch.setattr(stages_lib, "STAGES", steps)
    write(f"{work}/mined", [(split, []) for split, _ in GOOD])
    argv = [f"--workdir={work}", "--date=2026-01-31", "--log=l", "--images=i", "--labels=l"]
    argv += ["--retrain=fusion"]
    assert reprocess.run(argv) == 2
    assert "0 of 6 images labelled" in capsys.readouterr().err
    assert ran.read_text() == "noted_mining "


def test_labels_take_a_few_bytes_an_image(tmp_path):
    """Whatever the number of classes: a dense row of targets has 4 bytes for each."""
    images = [("train", [f"label {number % 500:03}"]) for number in range(5000)]
    config = settings.Config(mined=write(str(tmp_path), images), output="")
    data.load_labels(config)  # what is imported late is no image's
    tracemalloc.start()
    try:
        classes, _, train, _ = data.load_labels(config)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(classes) == 500
    labels = Dataset(config.mined).table("images", ["labels"])["labels"].to_pylist()
    columns = train.targets.of(np.arange(5000)).argmax(axis=1)
    assert [[classes[column]] for column in columns] == labels
    assert (held / 5000 < 60, peak / 5000 < 200) == (True, True)
