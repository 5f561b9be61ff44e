"""Which steps of a graph get a GPU or more memory on Dataflow.

Right-fitting: only the steps that run networks ask for a GPU, in an environment of their own, so
that Dataflow pays for GPUs while those steps run and for no other.
"""

import math

import apache_beam as beam

from beam_jobs.dataflow.flags import DataflowOptions, is_dataflow

GIB = 1 << 30
# Beam, TensorFlow and a batch of images; 1.3 GiB were measured with a ResNet-50 and 32 images.
WORKER_BYTES = 2 * GIB
SMALLEST_WORKER = 3 * GIB  # what Dataflow's default machine leaves to its worker


def inference_hints(pipeline: beam.Pipeline, model_bytes: int) -> dict[str, str]:
    """Resource hints of a step that runs networks; {} where it asks for nothing.

    Args:
      pipeline: whose options say where it runs.
      model_bytes: size of the models that the step loads.
    """
    flags = pipeline.options.view_as(DataflowOptions)
    if not is_dataflow(pipeline.options):
        return {}
    hints = memory_hint(pipeline, model_bytes)
    if flags.inference_ram:
        hints = {"min_ram": flags.inference_ram}
    if flags.gpu:
        device = f"type:{flags.gpu};count:{flags.gpu_count};install-nvidia-driver"
        hints["accelerator"] = device
    return hints


def memory_hint(pipeline: beam.Pipeline, data_bytes: int) -> dict[str, str]:
    """The hint of a step that holds so much data twice, or {} where any worker has room for it."""
    needed = WORKER_BYTES + 2 * data_bytes
    if not is_dataflow(pipeline.options) or needed <= SMALLEST_WORKER:
        return {}
    return {"min_ram": f"{math.ceil(needed / GIB)}GiB"}
