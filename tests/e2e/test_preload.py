"""What a reprocess loads while it mines is what its stages then use."""

import pytest

from beam_jobs import embed_images, reprocess
from beam_jobs.pipeline import Step
from beam_jobs.preload import preload
from model_code import image_embedder
from tests import work_folder

LOADED = image_embedder._load_network


@pytest.fixture
def argv(tiny_run, tmp_path):
    """The command line of embed_images on the tiny run."""
    LOADED.cache_clear()
    output = str(tmp_path / "features")
    return work_folder.command_into("embed_images", tiny_run.config, output)[3:]


def test_networks_are_loaded_once(argv):
    preload(argv, ["model_code.export_model"])
    before = LOADED.cache_info()
    assert (before.misses, before.hits) == (2, 0)
    assert embed_images.run(argv) == 0
    after = LOADED.cache_info()
    assert (after.misses, after.hits) == (2, 2)


@pytest.mark.parametrize(
    "flags",
    [
        ["--runner=FlinkRunner", "--flink_master=localhost:8081"],
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
    ],
)
def test_nothing_is_loaded_for_workers_elsewhere(argv, flags):
    preload([*argv, *flags], [])
    assert LOADED.cache_info().misses == 0


def test_a_stage_that_fails_beside_is_a_stage_that_failed(capfd):
    meanwhile = []
    step = Step("mine_pairs", "beam_jobs.mine_pairs", "", "", {})
    with pytest.raises(reprocess.StageError) as failed:
        reprocess.run_step(
            step, ["--output=work/x", "--no_such_flag"], "", lambda: meanwhile.append("done")
        )
    assert (failed.value.stage, failed.value.status) == ("mine_pairs", 2)
    assert meanwhile == ["done"]
    assert "--no_such_flag" in capfd.readouterr().err
