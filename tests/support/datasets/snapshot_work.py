"""Tiny committed datasets, and snapshots of them."""

import dataclasses

from schemas.base import storage
from schemas.console.flags import flag
from schemas.runs import changes
from schemas.runs import run as run_lib


@dataclasses.dataclass(frozen=True)
class Config:
    output: str = flag("Dataset.", role="runtime")
    text: str = flag("What it holds.", default="")


def commit(work, name, text, made_by="job"):
    """Commits a dataset of one file that holds `text`; returns its run."""
    planned = run_lib.plan(made_by, Config(f"{work}/{name}", text), [], {})
    folder = planned.empty_folder("model")
    storage.write_bytes(f"{folder}/text", text.encode())
    planned.commit_files("model", folder, {})
    return planned.run_id


def snapshot(work, date, text):
    return changes.write(work, date, {n: commit(work, n, text) for n in ("model", "phrases")})


def text_of(dataset):
    (shard,) = dataset.shards("model")
    return storage.read_bytes(dataset.path(shard)).decode()
