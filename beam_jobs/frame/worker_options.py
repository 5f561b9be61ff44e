"""How worker processes share a machine: processes, threads of Beam and threads of TensorFlow.

TensorFlow's threads belong to a process: they serve every thread of Beam in it, and networks are
loaded once for all of these. So a few threads of Beam keep a process busy, and where a machine
has several processes each may use its share of the cores only. Dataflow's defaults, a process a
core with 12 threads each, would load the networks once a core and start cores × cores threads.
"""

import dataclasses
import os
from typing import Any

from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    PipelineOptions,
    PortableOptions,
)

from beam_jobs.dataflow.flags import ONE_PROCESS, is_dataflow, runner_of
from beam_jobs.frame.image_flags import ImageConfig
from model_code.runtime.settings import InferenceSettings

# One reads and writes shards while the networks work for another.
HARNESS_THREADS = 2
MANY_PROCESSES = "use_multiple_sdk_containers"


def fit(config: Any, options: PipelineOptions) -> Any:
    """Sets what a job of images was not told: `options` in place, and the config's copy.

    Args:
      config: of any job; one that runs no networks comes back as it is. Where it decodes images,
        each thread has a process for that, whose memory a machine has to hold.
      options: what the command line says stays.
    """
    if not isinstance(config, InferenceSettings | ImageConfig):
        return config
    debug = options.view_as(DebugOptions)
    if not debug.number_of_worker_harness_threads:
        debug.number_of_worker_harness_threads = HARNESS_THREADS
    if not isinstance(config, InferenceSettings):
        return config
    if is_dataflow(options) and not _experiment(options, MANY_PROCESSES):
        debug.add_experiment(ONE_PROCESS)
    if config.tf_threads:
        return config
    return dataclasses.replace(config, tf_threads=tf_threads(options))


def tf_threads(options: PipelineOptions) -> int:
    """TensorFlow's threads of a worker process; 0 where it may use all cores of its machine."""
    if is_dataflow(options):
        # A process a core, unless they were told to be one.
        return 0 if _experiment(options, ONE_PROCESS) else 1
    if runner_of(options) in ("portablerunner", "flinkrunner", "sparkrunner"):
        return _share(int(options.view_as(PortableOptions).sdk_worker_parallelism))
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return 0
    return _share(direct.direct_num_workers)


def in_this_process(options: PipelineOptions) -> bool:
    """Whether the process that submits a job also does its work."""
    direct = options.view_as(DirectOptions)
    return runner_of(options) == "fnapirunner" and direct.direct_running_mode == "in_memory"


def _share(processes: int) -> int:
    """Of this machine's cores for each of some processes, 0 processes being one a core."""
    cores = os.cpu_count() or 1
    return 0 if processes == 1 else max(1, cores // (processes or cores))


def _experiment(options: PipelineOptions, name: str) -> bool:
    return name in (options.view_as(DebugOptions).experiments or [])
