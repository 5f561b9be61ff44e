"""kill -9 while the text generator trains: the next run ends with the same losses and vectors."""

import signal

import numpy as np
import pytest

from tests.support.processes import forked, train_on_devices

STEPS_BEFORE_DEATH = 15  # of 24 in 4 epochs: in the middle of the third


@pytest.mark.parametrize(
    "queries", [10_000, pytest.param(1_000_000, marks=pytest.mark.slow)], ids="{:,}".format
)
def test_killed_training_ends_as_an_undisturbed_one(queries, tmp_path, figure):
    def train(name: str, *more: str) -> int | None:
        """Trains in a process; returns its exit status."""
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        argv = [str(folder), f"--queries={queries}", *more]
        process = forked.server().Process(target=train_on_devices.run, args=(argv,))
        process.start()
        process.join()
        return process.exitcode

    assert train("killed", f"--kill_at={STEPS_BEFORE_DEATH}") == -signal.SIGKILL
    assert not (tmp_path / "killed" / "done-0.npz").exists()
    assert train("killed") == 0
    assert train("whole") == 0
    found, expected = (np.load(tmp_path / name / "done-0.npz") for name in ("killed", "whole"))
    off = {
        name: np.abs(found[name] - expected[name]).max().item() for name in ("losses", "vectors")
    }
    figure(
        f"killed before step {STEPS_BEFORE_DEATH + 1} of {len(expected['losses'])}; greatest "
        f"difference of a loss {off['losses']:.1e}, of a vector's element {off['vectors']:.1e}"
    )
    assert len(found["losses"]) == 24
    assert expected["losses"][-1] < expected["losses"][0]
    assert max(off.values()) <= 1e-6
