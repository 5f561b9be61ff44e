"""The work folder of a whole tiny run: what the real driver makes of 500 drawn images.

And how two runs of a stage are compared: row by row, whatever the files that hold them.
"""

import contextlib
import dataclasses
import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq

from beam_jobs.runs import all_stages, overrides, stages
from schemas.base import storage
from schemas.console import launch
from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import GRAPH_FILES
from tests.support.processes import forked

ROOT = Path(__file__).resolve().parents[3]

SMALL_NETWORK = {"backbone": "small_resnet", "small_resnet_width": "4", "image_size": "32"}
SETTINGS: dict[str, dict[str, str]] = {
    "make_samples": {
        "images": "500",
        "events_per_image": "12",
        "image_size": "48",
        "images_per_shard": "125",
        "labelled_share": "0.6",
    },
    # A log of a few hundred people: whatever one of them did counts, so that it can be added up.
    "mine_pairs": {
        "num_shards": "3",
        "min_users": "1",
        "one_person_pairs": "true",
        "max_person_clicks": "100",
    },
    "prepare_pairs": {"backbone": "small_resnet", "image_size": "32"},
    "train_text_generator": {
        "small_resnet_width": "4",
        "epochs": "2",
        "batch_size": "64",
        "width": "16",
    },
    "train_text_embedder": {
        "width": "24",
        "buckets": "4096",
        "epochs": "2",
        "batch_size": "64",
        "max_steps_per_epoch": "10",
    },
    "train_pixel_embedder": SMALL_NETWORK | {"epochs": "2", "pixel_width": "32"},
    # Not the defaults: the export must follow.
    "embed_images": {
        "num_phrases": "4",
        "diversity": "mmr",
        "phrase_pool": "20",
        "mmr_lambda": "0.4",
        "phrase_weights": "probability",
    },
    "prepare_examples": {"num_shards": "2"},
    "train_fusion": {
        "layers": "16",
        "dropouts": "0.2",
        "weight_decays": "0.1",
        "pixel_scales": "0.3",
        "epochs": "2",
        "min_steps": "4",
    },
}
STAGES = {step.name: step for step in (stages.SAMPLES, *stages.STAGES)}


def config(workdir: str, more: Mapping[str, Mapping[str, str]] | None = None) -> all_stages.Config:
    """The driver's config of the tiny run, with `more` settings over its own."""
    settings = {name: dict(flags) for name, flags in SETTINGS.items()}
    for name, flags in (more or {}).items():
        settings.setdefault(name, {}).update(flags)
    text = ",".join(
        f"{stage}.{name}={value}"
        for stage, flags in settings.items()
        for name, value in flags.items()
    )
    return all_stages.Config(workdir=workdir, samples=True, set=text)


def environment() -> dict[str, str]:
    """This process's environment, in which modules come from this repository."""
    return os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def drive(of: all_stages.Config, *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs the driver as people do; its output is text."""
    command = [sys.executable, "-m", "beam_jobs.runs.all_stages", "--samples"]
    command += [f"--workdir={of.workdir}", f"--set={of.set}", *flags]
    return subprocess.run(command, env=environment(), capture_output=True, text=True)


def drive_forks(of: all_stages.Config, folder: Path) -> subprocess.CompletedProcess[str]:
    """What `drive` does, with stages that are forks: they need not load the libraries.

    Args:
      of: the config.
      folder: where what is printed goes, an empty one.
    """
    argv = ["--samples", f"--workdir={of.workdir}", f"--set={of.set}"]
    out, err = folder / "out", folder / "err"

    def call(command: Sequence[str]) -> int:
        process = forked.start(command, str(out), str(err))
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    with (
        open(out, "a") as to_out,
        open(err, "a") as to_err,
        contextlib.redirect_stdout(to_out),
        contextlib.redirect_stderr(to_err),
        mock.patch.object(launch, "call", call),
    ):
        status = all_stages.run(argv)
    return subprocess.CompletedProcess(argv, status, out.read_text(), err.read_text())


def command_into(name: str, of: all_stages.Config, output: str, *more: str) -> list[str]:
    """The command of one stage on the inputs of a work folder, but with another output."""
    elsewhere = dataclasses.replace(STAGES[name], output=os.path.relpath(output, of.workdir))
    return [*overrides.command_of(elsewhere, of), *more]


def run(command: Sequence[str], cwd: str | Path | None = None) -> str:
    """Runs a command that must succeed, in a folder; returns what it printed."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclasses.dataclass(frozen=True)
class TinyRun:
    """What the driver made.

    Attributes:
      config: its config.
      printed: its standard output.
      told: its standard error.
      seconds: how long it took.
    """

    config: all_stages.Config
    printed: str
    told: str
    seconds: float

    def dataset(self, stage: str) -> str:
        """The folder of a stage's dataset."""
        return storage.join(self.config.workdir, STAGES[stage].output)


# These files hold dates or temporary paths; what they mean is compared by the dataset's content
# hash, which is the fingerprint of a model's weights.
DATED = (".keras", *GRAPH_FILES)


def rows_of(root: str) -> dict[str, list[str]]:
    """The rows of a committed dataset, to be compared with those of another run.

    Returns:
      table → sorted hex SHA-256 of its rows. A row of a table of files is a file with its name.
      "content_hash" is that of the dataset.
    """
    dataset = Dataset(root)
    found = {}
    for name, table in dataset.manifest.tables.items():
        rows: list[bytes] = []
        for shard in table.shards:
            path = dataset.path(shard)
            if table.format == "parquet":
                read = pq.read_table(storage.open_input(path))
                # A letter names its run, which is another one where an earlier run was reused.
                read = read.drop_columns(["run_id"]) if name == "dead_letters" else read
                rows += [repr(row).encode() for row in read.to_pylist()]
            elif table.format == "tfrecord":
                rows += [shard.group.encode() + record for record in tfrecords(path)]
            elif not path.endswith(DATED) and "tfevents" not in path:
                rows.append(
                    path.removeprefix(dataset.folder(name)).encode() + storage.read_bytes(path)
                )
        found[name] = sorted(hashlib.sha256(row).hexdigest() for row in rows)
    found["content_hash"] = [dataset.manifest.content_hash]
    return found


def tfrecords(path: str) -> Iterator[bytes]:
    """The records of a TFRecord file: length (8 bytes), its CRC (4), the record, its CRC (4)."""
    data, start = storage.read_bytes(path), 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        yield data[start + 12 : start + 12 + length]
        start += length + 16
