"""Every bundle is executed twice, as a runner does after a worker was lost: the same rows."""

import pytest

from schemas.datasets import checks, dataset
from tests.support.datasets import work_folder
from tests.support.datasets.work_folder import STAGES
from tests.support.processes import forked

QUICK = {"mine_pairs", "prepare_examples"}
JOBS = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name, step in STAGES.items()
    if step.module.startswith("beam_jobs.")
]


@pytest.mark.parametrize("job", JOBS)
def test_bundles_executed_twice(job, tiny_run, tmp_path, figure):
    output = str(tmp_path / "twice")
    repeat = "--direct_runner_bundle_repeat=1"
    command = work_folder.command_into(job, tiny_run.config, output, repeat)
    forked.run(command, str(tmp_path / "log"))
    expected = work_folder.rows_of(tiny_run.dataset(job))
    assert work_folder.rows_of(output) == expected
    assert checks.verify(output) == []
    counters = dataset.Dataset(output).manifest.counters
    assert counters == dataset.Dataset(tiny_run.dataset(job)).manifest.counters
    figure(f"{sum(map(len, expected.values())):,} rows and all counters equal")
