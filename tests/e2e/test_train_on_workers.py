"""The command that trains the text generator, on several devices and in several processes."""

import json
import subprocess

import numpy as np
import pytest

from schemas.datasets.dataset import Dataset
from tests.support.datasets import work_folder
from tests.support.processes.ports import free_ports

HEAD = ("--trainable=head", "--epochs=3", "--patience=3")


@pytest.fixture
def command(tiny_run, tmp_path):
    return lambda output, *flags: work_folder.command_into(
        "train_text_generator", tiny_run.config, str(tmp_path / output), *flags
    )


def result(root) -> tuple[np.ndarray, np.ndarray]:
    """[epochs] losses and [K, M] query vectors of a generator."""
    folder = Dataset(str(root)).folder("model")
    with open(f"{folder}/history.json") as f:
        losses = [epoch["loss"] for epoch in json.load(f)["epochs"]]
    return np.array(losses), np.load(f"{folder}/query_vectors.npy")


@pytest.mark.slow
def test_two_workers_run_the_same_command(command, tmp_path):
    work_folder.run(command("alone", *HEAD))
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    workers = []
    for index in range(2):
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        environment = work_folder.environment() | {"TF_CONFIG": json.dumps(task)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        workers.append(subprocess.Popen(command("together", *HEAD), env=environment, **pipes))
    for worker in workers:
        printed, _ = worker.communicate(timeout=240)
        assert worker.returncode == 0, printed
    losses, vectors = result(tmp_path / "together")
    expected_losses, expected_vectors = result(tmp_path / "alone")
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-3)
    np.testing.assert_allclose(vectors, expected_vectors, atol=1e-2)


@pytest.mark.slow
def test_statistics_of_batches_are_refused_on_several_devices(command, tmp_path):
    refused = subprocess.run(
        command("refused", "--devices=2"),
        env=work_folder.environment(),
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert "batch normalisation is frozen" in refused.stderr
    assert not (tmp_path / "refused" / "manifest.json").exists()
