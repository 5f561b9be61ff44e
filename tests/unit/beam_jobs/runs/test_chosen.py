"""Which stages a reprocess runs, on what, and what it refuses, without running any."""

import dataclasses

import pytest

from beam_jobs.runs import chosen, reprocess
from beam_jobs.runs.chosen import Config
from schemas.base.errors import PhraseLensError
from schemas.runs import changes as changes_lib
from tests.support.datasets.snapshot_work import commit

INPUTS = {"log": "log", "images": "images", "labels": "labels"}


@pytest.fixture
def config(tmp_path):
    work = str(tmp_path / "work")
    for name in chosen.MODELS:
        commit(work, name, f"first {name}")
    return Config(workdir=work, date="2026-01-02", **INPUTS)


def names(config, **changes):
    changed = dataclasses.replace(config, **changes)
    return [step.name for step in chosen.stages_of(changed)]


ALWAYS = ["mine_pairs", "embed_phrases", "embed_images", "export_model", "classify_images"]
LEARNT = {"prepare_examples", "train_fusion"}


@pytest.mark.parametrize(
    ("retrain", "more"),
    [
        (("none",), set()),
        (("fusion",), LEARNT),
        (("text_embedder",), {"train_text_embedder", *LEARNT}),
        (("pixel_embedder",), {"train_pixel_embedder", *LEARNT}),
        (("text_generator",), {"prepare_pairs", "train_text_generator", *LEARNT}),
    ],
)
def test_models_stay_unless_asked_for(config, retrain, more):
    found = names(config, retrain=retrain)
    assert set(found) == {*ALWAYS, *more}
    assert [name for name in found if name in ALWAYS] == ALWAYS


def test_what_holds_images_is_made_anew_when_something_is_forgotten(config):
    assert names(config, forget="list.csv") == ALWAYS
    for name in ("training_pairs", "examples", "report"):
        commit(config.workdir, name, "")
    found = names(config, forget="list.csv", days="days", log="")
    assert found[:3] == ["forget", "mine_pairs", "prepare_pairs"]
    assert "prepare_examples" in found
    assert "train_fusion" not in found
    assert found[-1] == "report"
    assert names(config) == ALWAYS


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"retrain": ("generator",)}, "--retrain generator"),
        ({"retrain": ("fusion",), "forget": "list.csv"}, "--retrain with --forget"),
    ],
)
def test_flags_that_cannot_work_are_refused(config, changes, problem):
    with pytest.raises(PhraseLensError, match=problem):
        names(config, **changes)


def test_models_in_use_are_those_of_the_promoted_snapshot(config):
    work, steps = config.workdir, chosen
    runs = {name: commit(work, name, f"first {name}") for name in steps.MODELS}
    assert {path[-16:] for path in steps.models_in_use(config).values()} == set(runs.values())
    changes_lib.write(work, "2026-01-01", runs)
    changes_lib.promote(work, "2026-01-01")
    refused = commit(work, "fusion", "a worse one")
    found = steps.models_in_use(config)
    assert found["fusion"] == f"{work}/fusion/runs/{runs['fusion']}" != refused
    step = next(s for s in steps.stages_of(config) if s.name == "export_model")
    flags = steps.flags_of(step, config, found, {})
    assert flags["generator"] == found["text_generator"]
    assert flags["fusion"] == found["fusion"]
    assert flags["output"] == f"{work}/model"


def test_networks_are_loaded_ahead_unless_something_is_trained_before(config):
    where = dict.fromkeys(chosen.MODELS, "somewhere")
    steps = chosen.stages_of(config)
    assert reprocess.loading(steps, config, where, {})
    retrained = dataclasses.replace(config, retrain=("text_embedder",))
    steps = chosen.stages_of(retrained)
    assert reprocess.loading(steps, retrained, where, {}) is None


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--date=tomorrow"], "--date tomorrow"),
        (["--date=2026-01-02", "--until=mine_pairs"], "--until"),
        (["--date=2026-01-02", "--images="], "--images"),
    ],
)
def test_a_command_line_that_is_wrong_ends_with_an_error(config, capsys, flags, problem):
    argv = [f"--workdir={config.workdir}", *(f"--{k}={v}" for k, v in INPUTS.items()), *flags]
    assert reprocess.run(argv) == 2
    assert problem in capsys.readouterr().err
