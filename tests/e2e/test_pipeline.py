"""The whole pipeline on 500 drawn images: nothing is lost, nothing leaks, nothing is done twice."""

import io
import json
import re
import shlex
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_jobs.runs import all_stages, overrides
from schemas.datasets import checks, manifest
from schemas.datasets.dataset import Dataset
from schemas.maintenance import verify
from schemas.tables.mined import SPLITS
from tests.support.datasets import work_folder
from tests.support.datasets.work_folder import STAGES, TinyRun


@pytest.fixture(scope="module")
def datasets(tiny_run: TinyRun) -> dict[str, Dataset]:
    return {name: Dataset(tiny_run.dataset(name)) for name in STAGES}


@pytest.fixture(scope="module")
def counters(datasets) -> dict[str, dict[str, int]]:
    return {name: dataset.manifest.counters for name, dataset in datasets.items()}


def dead(counters: dict[str, int], kind: str) -> int:
    return sum(rows for name, rows in counters.items() if name.startswith(f"{kind}.dropped_"))


def opens(image: bytes) -> bool:
    """Whether Pillow can decode an image to its last pixel."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
    except OSError:
        return False
    return True


# Up to here the stages have loaded TensorFlow, Beam and Keras.
STARTED = "train_text_generator"


@pytest.fixture(scope="module")
def started(tiny_run: TinyRun) -> CompletedProcess[str]:
    """The first stages once more, in processes as people start them."""
    return work_folder.drive(tiny_run.config, f"--until={STARTED}")


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_committed_and_whole(tiny_run, name):
    assert Dataset(tiny_run.dataset(name)).manifest.stage == name
    assert checks.verify(tiny_run.dataset(name)) == []


def test_verify_finds_all_datasets_of_a_work_folder(tiny_run, capsys):
    assert verify.run([tiny_run.config.workdir]) == 0
    assert len(re.findall("^  ok$", capsys.readouterr().out, re.MULTILINE)) == len(STAGES)


def test_every_click_is_a_pair_or_counted(datasets, counters):
    """What mine_pairs counts is what one finds by going through the log by hand."""
    log = datasets["make_samples"].table("click_log").to_pylist()
    images = datasets["make_samples"].table("images").to_pylist()
    good = {row["key"] for row in images if opens(row["image"])}
    planted, mined = counters["make_samples"], counters["mine_pairs"]

    empty = [row for row in log if not row["query"].strip()]
    negative = [row for row in log if row["query"].strip() and row["clicks"] < 0]
    shown = [row for row in log if row["query"].strip() and row["clicks"] >= 0]
    unknown = [row for row in shown if row["image"] not in good]
    assert len(log) == mined["events.in"] == planted["click_log.out"]
    assert len(empty) == mined["events.dropped_empty_query"] == planted["click_log.empty_query"]
    assert (
        len(negative)
        == mined["events.dropped_negative_clicks"]
        == planted["click_log.negative_clicks"]
    )
    assert len(shown) == mined["clicks.in"]
    assert len(unknown) == mined["clicks.dropped_unknown_image"] > 0
    pairs = datasets["mine_pairs"].table("pairs", ["clicks"])
    kept = sum(row["clicks"] for row in shown if row["image"] in good)
    assert sum(pairs["clicks"].to_pylist()) == kept


def test_every_image_arrives_at_the_end_or_is_counted(datasets, counters):
    images = datasets["make_samples"].table("images")["image"].to_pylist()
    planted, mined = counters["make_samples"], counters["mine_pairs"]
    good = [image for image in images if opens(image)]
    broken, duplicates = len(images) - len(good), len(good) - len(set(good))
    assert len(images) == mined["images.in"] == planted["images.out"]
    assert broken == dead(mined, "images") == planted["images.broken"] > 0
    # A broken copy of an image is planted as both, and is found as broken alone.
    assert mined["unique_images.dropped_duplicate"] > 0
    assert duplicates == mined["unique_images.dropped_duplicate"] <= planted["images.duplicate"]
    unique = len(set(good))
    assert unique == mined["unique_images.out"] == datasets["mine_pairs"].table("images").num_rows
    assert unique == counters["prepare_pairs"]["images.in"]
    assert unique == counters["embed_images"]["images.in"]
    assert (
        unique
        == counters["embed_images"]["images.out"]
        == counters["prepare_examples"]["features.in"]
    )
    predicted = counters["classify_images"]
    assert len(images) == predicted["images.in"]
    assert broken == dead(predicted, "images")
    rows = datasets["classify_images"].table("predictions", ["key"])["key"].to_pylist()
    assert len(images) - broken == predicted["images.out"] == len(rows) == len(set(rows))


def test_every_label_is_trained_on_or_counted(datasets, counters):
    labels = datasets["make_samples"].table("labels").to_pylist()
    mined = datasets["mine_pairs"].table("images", ["keys", "split", "labels"]).to_pylist()
    by_key = {key: row for row in mined for key in row["keys"]}
    unknown = [row for row in labels if row["key"] not in by_key]
    assert len(labels) == counters["mine_pairs"]["labels.out"]
    assert len(unknown) == counters["mine_pairs"]["known_labels.dropped_unknown_image"]
    for row in labels:
        assert row in unknown or row["label"] in by_key[row["key"]]["labels"]

    evaluation = all_stages.read_evaluation(datasets["train_fusion"])
    for split in SPLITS:
        labelled = sum(row["split"] == split and bool(row["labels"]) for row in mined)
        shards = datasets["prepare_examples"].shards("examples", split)
        records = [r for s in shards for r in work_folder.tfrecords(f"{_root(datasets)}/{s.path}")]
        assert labelled == len(records) == evaluation["rows"][split]
        assert labelled == counters["train_fusion"][f"examples_{split}.rows"]


def _root(datasets) -> str:
    return datasets["prepare_examples"].root


def test_no_image_is_on_two_sides(datasets):
    images = datasets["mine_pairs"].table("images", ["image_id", "keys", "split"]).to_pylist()
    split_of = {row["image_id"]: row["split"] for row in images}
    assert len(split_of) == len(images)
    assert set(split_of.values()) == set(SPLITS)
    # Two files with the same bytes are one image, and so on one side.
    id_of = {key: row["image_id"] for row in images for key in row["keys"]}
    files = datasets["make_samples"].table("images").to_pylist()
    ids_of_bytes: dict[bytes, set[str]] = {}
    for row in files:
        if row["key"] in id_of:
            ids_of_bytes.setdefault(row["image"], set()).add(id_of[row["key"]])
    assert all(len(ids) == 1 for ids in ids_of_bytes.values())
    assert len(ids_of_bytes) == len(images)

    for stage, table in (("mine_pairs", "pairs"), ("embed_images", "features")):
        for row in datasets[stage].table(table, ["image_id", "split"]).to_pylist():
            assert row["split"] == split_of[row["image_id"]], (stage, row)
    for row in datasets["embed_phrases"].table("image_embs", ["image_id", "split"]).to_pylist():
        assert row["split"] == split_of[row["image_id"]]
        assert row["split"] in ("train", "validation")
    tested = pq.read_table(f"{datasets['train_fusion'].folder('evaluation')}/predictions.parquet")
    assert {split_of[image_id] for image_id in tested["image_id"].to_pylist()} == {"test"}
    for split in SPLITS:
        for shard in datasets["prepare_examples"].shards("examples", split):
            for record in work_folder.tfrecords(f"{_root(datasets)}/{shard.path}"):
                (image_id,) = set(re.findall(rb"[0-9a-f]{32}", record))
                assert split_of[image_id.decode()] == split


# What we write to standard error: how far something is, and what the phrase index is.
OURS = re.compile(
    r"[\w ,.-]+: ([\d,]+( of [\d,]+)? \w+, [\d.,]+/(s|min|h)|[\d:]+ (s|min|h))(, .*)?"
    r"|phrase index: .*"
)


def test_every_line_is_one_of_ours(tiny_run, started):
    """Libraries write to standard error, and none of them was heard."""
    lines = [*tiny_run.told.splitlines(), *started.stderr.splitlines()]
    assert [line for line in lines if not OURS.fullmatch(line)] == []
    libraries = r"^([IWEF]\d{4} |WARNING|E0000|.*(absl|Warning: |oneDNN|cuda))"
    assert re.findall(libraries, tiny_run.printed + started.stdout, re.MULTILINE) == []


def test_flags_are_shown_where_they_are_not_the_defaults(tiny_run):
    """Of every stage those that it was given, and no other setting."""
    shown = re.findall(r"^  ('?--\w+=.*)$", tiny_run.printed, re.MULTILINE)
    given = [overrides.flags_of(step, tiny_run.config) for step in STAGES.values()]
    for line, flags in zip(shown, given, strict=True):
        words = dict(word[2:].split("=", 1) for word in shlex.split(line))
        assert set(words) <= set(flags)
        # A number may be shown as its type writes it: 12 as 12.0.
        assert all(v == flags[n] or float(v) == float(flags[n]) for n, v in words.items())


def table_of(printed: str) -> dict[str, list[float]]:
    """The ablation table that the driver printed: classifier → its figures."""
    rows = re.findall(r"^(pixel-only|text-only|fused) +((?:\d\.\d+ *)+)$", printed, re.MULTILINE)
    return {name: [float(value) for value in values.split()] for name, values in rows[-3:]}


def test_printed_table_is_that_of_the_evaluation(tiny_run, datasets):
    path = Path(datasets["train_fusion"].folder("evaluation"), "evaluation.json")
    test = json.loads(path.read_text())["test"]
    titles = {"pixel": "pixel-only", "text": "text-only", "fused": "fused"}
    expected = {
        titles[name]: [round(test[name][metric], 3) for metric in ("top1", "top5", "map")]
        for name in titles
    }
    assert table_of(tiny_run.printed) == {
        name: pytest.approx(values, abs=6e-4) for name, values in expected.items()
    }


def test_report_is_where_the_driver_says(tiny_run, datasets):
    (path,) = re.findall(r"^report: (\S+\.html)$", tiny_run.printed, re.MULTILINE)
    page = Path(path).read_text(encoding="utf-8")
    assert Path(path).is_relative_to(datasets["report"].folder("report"))
    for text in ("pixel-only", "text-only", "fused", "mine_pairs", "empty_query"):
        assert text in page


def files_of(folder: str) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change."""
    stats = {path: path.stat() for path in Path(folder).rglob("*") if path.is_file()}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def done_already(printed: str) -> set[str]:
    return set(re.findall(r"^(\w+): already done", printed, re.MULTILINE))


def test_running_again_does_nothing(tiny_run, started, tmp_path):
    names = list(STAGES)
    assert started.returncode == 0, started.stderr
    assert done_already(started.stdout) == set(names[: names.index(STARTED) + 1])
    before = files_of(tiny_run.config.workdir)
    done = work_folder.drive_forks(tiny_run.config, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done_already(done.stdout) == set(STAGES)
    assert files_of(tiny_run.config.workdir) == before
    assert table_of(done.stdout) == table_of(tiny_run.printed)


def test_dry_run_prints_every_command_and_makes_nothing(tmp_path, capsys):
    config = work_folder.config(str(tmp_path / "work"))
    flags = ["--samples", f"--workdir={config.workdir}", f"--set={config.set}", "--dry_run"]
    assert all_stages.run(flags) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [command[2] for command in commands] == [step.module for step in STAGES.values()]
    for command, step in zip(commands, STAGES.values(), strict=True):
        assert command[1:] == overrides.command_of(step, config)[1:]
    assert not list(tmp_path.iterdir())


def test_changed_setting_runs_what_depends_on_it_and_nothing_else(tiny_run, tmp_path):
    (tmp_path / "printed").mkdir()
    dependent = ["train_fusion", "export_model", "classify_images", "report"]
    kept = {name: shutil.copytree(tiny_run.dataset(name), tmp_path / name) for name in dependent}
    changed = work_folder.config(tiny_run.config.workdir, {"train_fusion": {"epochs": "1"}})
    try:
        done = work_folder.drive_forks(changed, tmp_path / "printed")
        assert done.returncode == 0, done.stderr
        assert done_already(done.stdout) == set(STAGES) - set(dependent)
        for name in dependent:
            old, new = Dataset(str(kept[name])).manifest, manifest.read(tiny_run.dataset(name))
            assert new is not None
            assert new.fingerprint != old.fingerprint
    finally:
        for name in dependent:
            shutil.rmtree(tiny_run.dataset(name))
            shutil.move(kept[name], tiny_run.dataset(name))
