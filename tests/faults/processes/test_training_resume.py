"""kill -9 while a network trains: the next run ends with the same weights and losses."""

import json
import os
import random
import re
import time
from pathlib import Path

import numpy as np
import pytest

from schemas.datasets.dataset import Dataset
from tests.support.datasets import work_folder
from tests.support.processes import forked

EPOCHS = 6
KILLED_IN = (2, 4)  # epochs
FLAGS = {
    "train_fusion": ("--min_steps=1",),
    "train_text_generator": (),
    "train_text_embedder": (),
    "train_pixel_embedder": (),
}


def finished_epochs(output: Path) -> int:
    """Whole epochs that a run which still works has saved."""
    # os.walk passes over folders that vanish meanwhile.
    names = [name for _, _, files in os.walk(output / "scratch") for name in files]
    found = [re.fullmatch(r"history-(\d+)\.json", name) for name in names]
    return max((int(match[1]) for match in found if match), default=0)


def kill_in(epoch: int, command: list[str], output: Path, log: str, rng: random.Random) -> None:
    """Starts a training run and kills it at a random moment of an epoch."""
    process = forked.start(command, log)
    last = time.monotonic()
    while process.exitcode is None and finished_epochs(output) < epoch - 1:
        time.sleep(0.01)
    took = (time.monotonic() - last) / epoch
    process.join(rng.random() * min(took, 0.5))
    assert forked.kill(process), Path(log).read_text()


def losses(root: str) -> np.ndarray:
    """[epochs] losses of every history that a model keeps, one after the other."""
    dataset, found = Dataset(root), []
    for shard in dataset.shards("model"):
        if shard.path.endswith("history.json"):
            epochs = json.loads(Path(dataset.path(shard)).read_text())["epochs"]
            found += [epoch["loss"] for epoch in epochs]
    return np.array(found)


@pytest.mark.parametrize(
    "trainer",
    [
        "train_fusion",
        *(pytest.param(n, marks=pytest.mark.slow) for n in FLAGS if n != "train_fusion"),
    ],
)
def test_killed_training_ends_with_the_same_weights(trainer, tiny_run, tmp_path, figure):
    log, rng = str(tmp_path / "log"), random.Random(trainer)
    flags = (*FLAGS[trainer], f"--epochs={EPOCHS}", f"--patience={EPOCHS}")

    def command(name: str) -> list[str]:
        return work_folder.command_into(trainer, tiny_run.config, str(tmp_path / name), *flags)

    killed, whole = str(tmp_path / "killed"), str(tmp_path / "whole")
    for epoch in KILLED_IN:
        kill_in(epoch, command("killed"), tmp_path / "killed", log, rng)
        assert not (tmp_path / "killed" / "manifest.json").exists()
    done = finished_epochs(tmp_path / "killed")
    forked.run(command("killed"), log)
    forked.run(command("whole"), log)
    found, expected = losses(killed), losses(whole)
    assert len(found) == len(expected) >= EPOCHS
    off = np.abs(found - expected).max()
    assert off <= 1e-6
    weights = [Dataset(root).manifest.model_fingerprint for root in (killed, whole)]
    assert weights[0] == weights[1] != ""
    figure(
        f"killed in epochs {KILLED_IN[0]} and {done + 1} of {EPOCHS}: weights equal to the bit, "
        f"greatest difference of a loss {off:.1e}"
    )
