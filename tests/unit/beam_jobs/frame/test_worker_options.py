"""How many processes and threads the workers of a job get."""

import copy
import dataclasses
import os

import pytest
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions

from beam_jobs.frame import parsing, worker_options
from beam_jobs.mining.flags import Config as MiningConfig
from beam_jobs.models import classify_images, embed_images, embed_phrases

INPUTS = {
    embed_images: ("mined", "generator", "pixel_embedder", "phrases", "output"),
    embed_phrases: ("mined", "generator", "text_embedder", "output"),
    classify_images: ("model", "images", "output"),
}
CORES = os.cpu_count() or 1
PROCESSES = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
DATAFLOW = [
    "--runner=DataflowRunner",
    "--project=project",
    "--region=r",
    "--temp_location=gs://bucket/t",
    "--setup_file=./setup.py",
]


def fitted(module, *flags):
    """The config and the options of a job's command line."""
    argv = [f"--{name}=gs://b/{name}" for name in INPUTS[module]]
    config, options = parsing.parse("job", module.Config, "", [*argv, *flags])
    return worker_options.fit(config, options), options.view_as(DebugOptions)


def test_views_of_options_share_their_values_and_a_copy_has_its_own():
    argv = [f"--{name}=gs://b/{name}" for name in INPUTS[classify_images]]
    _, options = parsing.parse("job", classify_images.Config, "", argv)
    threads = "number_of_worker_harness_threads"
    setattr(options.view_as(DebugOptions), threads, 3)
    copied = copy.deepcopy(options)
    setattr(copied.view_as(DebugOptions), threads, 4)
    values = [getattr(o.view_as(DebugOptions), threads) for o in (options, copied)]
    assert values == [3, 4]
    assert [o.get_all_options()[threads] for o in (options, copied)] == [3, 4]


@pytest.mark.parametrize("module", INPUTS)
def test_threads_of_beam_are_few_unless_they_are_given(module):
    assert fitted(module)[1].number_of_worker_harness_threads == worker_options.HARNESS_THREADS
    _, debug = fitted(module, "--number_of_worker_harness_threads=5")
    assert debug.number_of_worker_harness_threads == 5


@pytest.mark.parametrize(
    ("flags", "threads"),
    [
        ([], 0),
        (PROCESSES, max(1, CORES // 2)),
        ([*PROCESSES, "--tf_threads=7"], 7),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=0"], 1),
        (DATAFLOW, 0),
        ([*DATAFLOW, "--experiments=use_multiple_sdk_containers"], 1),
        (["--runner=PortableRunner", "--sdk_worker_parallelism=2"], max(1, CORES // 2)),
        (["--runner=PortableRunner"], 0),
    ],
)
def test_processes_of_a_machine_share_its_cores(flags, threads):
    assert fitted(embed_images, *flags)[0].tf_threads == threads


def test_a_worker_of_dataflow_is_one_process_that_loads_the_networks_once():
    assert worker_options.ONE_PROCESS in fitted(embed_images, *DATAFLOW)[1].experiments
    _, debug = fitted(embed_images, *DATAFLOW, "--experiments=use_multiple_sdk_containers")
    assert worker_options.ONE_PROCESS not in debug.experiments


def test_dataflow_gets_the_cap_on_threads():
    from apache_beam.runners.dataflow.internal import apiclient

    argv = [f"--{name}=gs://b/{name}" for name in INPUTS[embed_images]]
    config, options = parsing.parse("job", embed_images.Config, "", [*argv, *DATAFLOW])
    worker_options.fit(config, options)
    environment = apiclient.Environment([], options, "2.0.0", "gs://b/pipeline.pb")
    (pool,) = environment.proto.worker_pools
    assert pool.num_threads_per_worker == worker_options.HARNESS_THREADS
    assert worker_options.ONE_PROCESS in environment.proto.experiments


def test_a_job_without_networks_stays_as_it_is():
    @dataclasses.dataclass(frozen=True)
    class Config:
        output: str = "out"

    config, options = Config(), PipelineOptions([])
    assert worker_options.fit(config, options) is config
    assert options.view_as(DebugOptions).number_of_worker_harness_threads is None
    assert not issubclass(MiningConfig, worker_options.InferenceSettings)


def test_a_worker_decodes_few_images_at_once():
    """Each thread has a process for that; 100 megapixels take 2 GB."""
    argv = ["--log=gs://b/log", "--images=gs://b/images", "--output=gs://b/mined", *DATAFLOW]
    config, options = parsing.parse("mine_pairs", MiningConfig, "", argv)
    assert worker_options.fit(config, options) == config
    debug = options.view_as(DebugOptions)
    assert debug.number_of_worker_harness_threads == worker_options.HARNESS_THREADS
    assert worker_options.ONE_PROCESS not in (debug.experiments or [])


def test_names_of_runners_may_be_of_small_letters():
    small = [*DATAFLOW[1:], "--runner=dataflowrunner"]
    config, debug = fitted(embed_images, *small)
    assert config.tf_threads == 0
    assert worker_options.ONE_PROCESS in debug.experiments
    assert fitted(embed_images, "--runner=flinkrunner", "--sdk_worker_parallelism=2")[
        0
    ].tf_threads == max(1, CORES // 2)
