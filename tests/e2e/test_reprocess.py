"""Some days in the life of a work folder, each compared with what it would be from scratch.

The days are run once; the tests look at what each of them did.
"""

import csv
import dataclasses
import io
import itertools
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.runs import chosen, reprocess
from beam_jobs.runs import plan as reprocess_plan
from model_code.images.embedder import ImageEmbedder
from model_code.models.fusion.classifier import Classifier
from samples import scenes
from schemas.base import storage
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.maintenance import gc
from schemas.runs import changes, command_line, pointer, snapshots
from schemas.runs import folders as run_folders
from schemas.tables.vectors import arrow_to_vectors
from tests.support.datasets import work_folder
from transforms.images import read as images

pytestmark = pytest.mark.slow
MADE = ("mined", "phrases", "features", "model", "predictions")
NEW, GONE, RELABELLED = 5, 3, 4


@dataclasses.dataclass
class Inputs:
    """Images, labels and a log that change from day to day."""

    folder: Path
    log: str
    images: dict[str, bytes]
    labels: dict[str, str]

    def write(self) -> list[str]:
        """The flags; a file that is as it was stays, with its time of change."""
        rows = [{"key": key, "image": data} for key, data in self.images.items()]
        images, labels = pa.BufferOutputStream(), io.StringIO()
        pq.write_table(pa.Table.from_pylist(rows), images)
        csv.writer(labels).writerows([("key", "label"), *self.labels.items()])
        files = {
            "images.parquet": bytes(images.getvalue()),
            "labels.csv": labels.getvalue().encode(),
        }
        for name, data in files.items():
            path = self.folder / name
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)
        paths = {"images": "images.parquet", "labels": "labels.csv"}
        flags = [f"--{name}={self.folder / path}" for name, path in paths.items()]
        return [*flags, f"--log={self.log}"]


@dataclasses.dataclass
class Day:
    """What one reprocess did.

    Attributes:
      done: its stages by name.
      planned: what its plan said before, by name.
      calls: images that were decoded ("clean"), embedded for the features or phrases ("embed",
        "queries"), or for the predictions ("classify").
      snapshot: its snapshot.
    """

    done: dict
    planned: dict
    calls: Counter
    snapshot: snapshots.Snapshot


class Work:
    def __init__(self, tiny_run, folder: Path):
        self.root = str(folder / "work")
        shutil.copytree(tiny_run.config.workdir, self.root)
        dataset = Dataset(tiny_run.dataset("make_samples"))
        drawn, labels = dataset.table("images").to_pylist(), dataset.table("labels").to_pylist()
        self.inputs = Inputs(
            folder,
            f"{dataset.folder('click_log')}/*.parquet",
            {row["key"]: row["image"] for row in drawn},
            {row["key"]: row["label"] for row in labels},
        )
        self.more: dict[str, dict[str, str]] = {
            "mine_pairs": {"num_shards": "8", "max_dead_fraction": "0.2"}
        }

    def run(self, date: str, *flags: str, root: str = "") -> Day:
        settings = work_folder.config(self.root, self.more).set
        argv = [f"--workdir={root or self.root}", f"--date={date}", f"--set={settings}"]
        argv += [*self.inputs.write(), *flags]
        config = command_line.parse(chosen.Config, "reprocess", "", argv)
        planned = {row.stage: row for row in reprocess_plan.plan(config)}
        calls: Counter = Counter()
        with pytest.MonkeyPatch.context() as patch:
            # All in this process: what another one decodes could not be counted.
            _count(patch, images, "clean_safely", calls, lambda data, *_: {"clean": [data]})
            _count(patch, ImageEmbedder, "decode", calls, _decoded)
            _count(patch, Classifier, "embed", calls, lambda _, given, *__: {"classify": given})
            done = {row.stage: row for row in reprocess.reprocess(config)}
        return Day(done, planned, calls, snapshots.read(config.workdir, date))


def _count(patch, where, name, calls, of):
    run = getattr(where, name)

    def counting(*args):
        for kind, given in of(*args).items():
            calls[kind] += len(given)
        return run(*args)

    patch.setattr(where, name, counting)


def _decoded(embedder, given, *_):
    """Of images for features, or, without a pixel network, for what stands for a query."""
    return {"embed" if embedder.pixel_config else "queries": given}


@pytest.fixture(scope="module")
def work(tiny_run, tmp_path_factory):
    return Work(tiny_run, tmp_path_factory.mktemp("reprocess"))


@pytest.fixture(scope="module")
def days(work, tmp_path_factory):
    found, inputs = {}, work.inputs
    found["same"] = work.run("2026-01-01")
    changes.promote(work.root, "2026-01-01")

    keys = sorted(inputs.images)
    for key in keys[:GONE]:
        del inputs.images[key]
        inputs.labels.pop(key, None)
    for key in keys[10 : 10 + RELABELLED]:
        inputs.labels[key] = "changed"
    whole = (i for i in range(99) if not scenes.defect_of(77, i) and scenes.original_of(77, i) == i)
    for number, index in enumerate(itertools.islice(whole, NEW)):
        inputs.images[f"new{number}"] = scenes.image_bytes(77, index, 48)
        inputs.labels[f"new{number}"] = "changed"
    found["changed"] = work.run("2026-01-02")

    scratch = str(tmp_path_factory.mktemp("scratch") / "work")
    for name in chosen.MODELS:
        shutil.copytree(f"{work.root}/{name}", f"{scratch}/{name}")
    found["scratch"] = work.run("2026-01-02", root=scratch)

    work.more["mine_pairs"]["min_pair_clicks"] = "2"
    found["threshold"] = work.run("2026-01-03")
    work.more |= {"train_text_embedder": {"seed": "5"}}
    found["text"] = work.run("2026-01-04", "--retrain=text_embedder")
    return found


def dead(day: Day) -> int:
    """Images that cannot be used: they are looked at every day, by mining and by classifying."""
    counters = day.snapshot.dataset("mined").manifest.counters
    return counters["images.in"] - counters["images.out"]


def test_other_shards_and_files_of_the_same_images_change_no_pixel(days):
    day = days["same"]
    assert day.calls["embed"] == day.calls["queries"] == day.calls["classify"] == 0
    assert day.calls["clean"] == 2 * dead(day)
    assert day.done["embed_images"].reused > 400
    assert not day.done["mine_pairs"].skipped


def test_new_images_are_decoded_and_embedded_and_no_others(days):
    day = days["changed"]
    assert day.calls["clean"] == 2 * (dead(day) + NEW)
    assert day.calls["embed"] == NEW
    assert day.calls["queries"] <= NEW
    # Classification reads files as they come: it decodes and embeds each new one.
    assert day.calls["classify"] == NEW
    assert day.done["embed_images"].images == NEW
    assert day.done["classify_images"].images == day.done["mine_pairs"].images == NEW + dead(day)


@pytest.mark.parametrize("name", MADE)
def test_rows_are_those_of_a_run_from_scratch(days, name):
    found = work_folder.rows_of(days["changed"].snapshot.path(name))
    expected = work_folder.rows_of(days["scratch"].snapshot.path(name))
    assert found == expected
    assert days["scratch"].calls["embed"] > 400


def test_deleted_images_vanish_and_new_labels_appear(days, work):
    snapshot, before = days["changed"].snapshot, days["same"].snapshot

    def keys_of(dataset):
        return {
            key for keys in dataset.table("images", ["keys"])["keys"].to_pylist() for key in keys
        }

    gone = keys_of(before.dataset("mined")) - keys_of(snapshot.dataset("mined"))
    assert len(gone) > 0
    mined = snapshot.dataset("mined").table("images", ["image_id"])["image_id"].to_pylist()
    for name, table in (("features", "features"), ("phrases", "image_embs"), ("mined", "pairs")):
        ids = snapshot.dataset(name).table(table, ["image_id"])["image_id"].to_pylist()
        assert set(ids) <= set(mined)
    predicted = snapshot.dataset("predictions").table("predictions", ["key"])["key"].to_pylist()
    assert not gone & set(predicted)
    assert "new0" in predicted
    labels = snapshot.dataset("features").table("features", ["labels"])["labels"].to_pylist()
    assert sum("changed" in row for row in labels) >= NEW
    # The old snapshot is as it was.
    assert keys_of(before.dataset("mined")) >= gone


def test_a_threshold_mines_again_without_decoding_or_embedding(days):
    day, before = days["threshold"], days["changed"]
    assert not day.done["mine_pairs"].skipped
    assert day.calls["clean"] == 2 * dead(day)
    assert day.calls["embed"] == day.calls["queries"] == day.calls["classify"] == 0
    pairs, fewer = (
        d.snapshot.dataset("mined").manifest.tables["pairs"].rows for d in (before, day)
    )
    assert 0 < fewer < pairs


def test_a_new_text_embedder_changes_texts_and_no_pixels(days):
    day, before = days["text"], days["threshold"]
    assert {"train_text_embedder", "train_fusion"} < set(day.done)
    assert "train_text_generator" not in day.done
    assert day.calls == {"clean": dead(day)}, "classification alone looks at files"
    assert day.done["mine_pairs"].skipped
    old, new = (
        d.snapshot.dataset("features").table("features").sort_by("image_id") for d in (before, day)
    )
    for column in ("image_id", "query_emb", "pixel_emb"):
        assert new[column].equals(old[column])
    assert (arrow_to_vectors(new["text_emb"]) != arrow_to_vectors(old["text_emb"])).any()
    for name in ("text_generator", "pixel_embedder"):
        assert day.snapshot.datasets[name] == before.snapshot.datasets[name]
    assert day.snapshot.datasets["text_embedder"] != before.snapshot.datasets["text_embedder"]


@pytest.mark.parametrize("name", ["same", "changed", "scratch", "threshold", "text"])
def test_the_plan_said_what_would_happen(days, name):
    day = days[name]
    assert list(day.planned) == list(day.done)
    for stage, planned in day.planned.items():
        done = day.done[stage]
        assert planned.why
        if not planned.runs:
            assert done.skipped
        elif planned.most:
            assert done.images <= planned.images
        else:
            assert done.images == planned.images
            assert done.reused == planned.reused
    assert day.planned["mine_pairs"].runs == (name != "text")


def test_models_in_use_stay_when_a_retrained_one_is_refused(days, work):
    """The last runs are those of the new text embedder; in use is the first snapshot."""
    models = chosen.models_in_use(
        command_line.parse(chosen.Config, "", "", [f"--workdir={work.root}", "--date=2026-01-05"])
    )
    used = snapshots.read(work.root, "2026-01-01")
    assert models == {name: used.path(name) for name in chosen.MODELS}


def test_forgotten_images_are_nowhere(days, work, tmp_path):
    """Last, for it deletes the other days."""
    mined = snapshots.read(work.root, "2026-01-04").dataset("mined")
    row = next(r for r in mined.table("images").to_pylist() if len(r["keys"]) == 1)
    (key,) = row["keys"]
    deletions = tmp_path / "deletions.csv"
    deletions.write_text(f"image,user,query\n{key},,\n")
    changes.promote(work.root, "2026-01-04")
    del work.inputs.images[key]
    day = work.run("2026-01-05", f"--forget={deletions}")
    assert snapshots.dates(work.root) == ["2026-01-05"]
    assert pointer.current(work.root).date == "2026-01-05"
    needles = row["image_id"].encode(), row["image"]
    for name in snapshots.dataset_names(work.root):
        # The input; and models that learned from it, which only training again changes.
        if name not in ("samples", *chosen.MODELS):
            for run in run_folders.runs(f"{work.root}/{name}"):
                found = Dataset(manifest.run_folder(f"{work.root}/{name}", run.run_id))
                assert not _holds(found, needles), name
    assert "prepare_pairs" in day.done
    assert gc.run([f"--workdir={work.root}", "--keep=1"]) == 0
    assert storage.size(f"{work.root}/snapshots/2026-01-05.json")


def _holds(dataset: Dataset, needles) -> bool:
    for name, table in dataset.manifest.tables.items():
        if table.format == "parquet" and table.rows:
            for row in dataset.table(name).to_pylist():
                if needles[0] in repr(row).encode() or row.get("image") == needles[1]:
                    return True
        for shard in table.shards:
            if needles[0] in storage.read_bytes(dataset.path(shard)):
                return True
    return False
