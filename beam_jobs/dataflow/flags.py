"""Dataflow's own flags, and whether a job goes there."""

import dataclasses
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from schemas.console.flags import flag
from schemas.console.parser import add_flags

# One process a worker: several would each take the whole GPU for themselves.
ONE_PROCESS = "no_use_multiple_sdk_containers"
# These are copied for the workers that read them: the graph must not hold what is in them.
READ_BY_WORKERS = ("forget", "list", "person_key")
# These are read where the job is drawn, so they may lie there.
READ_BY_LAUNCHER = (*READ_BY_WORKERS, "blocklist")


@dataclasses.dataclass(frozen=True)
class Flags:
    """What every Beam job understands when it goes to Dataflow."""

    image: str = flag(
        "Dataflow: image of the workers, made by deploy/Dockerfile, with its tag.",
        default="",
        role="runtime",
    )
    gpu: str = flag(
        "Dataflow: GPU of the steps that run networks, such as nvidia-l4.",
        default="",
        role="runtime",
    )
    gpu_count: int = flag("Dataflow: GPUs of such a worker.", default=1, role="runtime", minimum=1)
    inference_ram: str = flag(
        "Dataflow: least memory of such a worker, as 32GB; without it, by the models' size.",
        default="",
        role="runtime",
    )


FLAG_NAMES = tuple(field.name for field in dataclasses.fields(Flags))


class DataflowOptions(PipelineOptions):
    """`Flags` as pipeline options, so that a graph sees them where it is drawn."""

    @classmethod
    def _add_argparse_args(cls, parser: Any) -> None:
        add_flags(parser, Flags)


def runner_of(options: PipelineOptions) -> str:
    """The runner's name, in small letters; Beam's default where none is named."""
    return (options.view_as(StandardOptions).runner or "DirectRunner").rpartition(".")[2].lower()


def is_dataflow(options: PipelineOptions) -> bool:
    return runner_of(options) in ("dataflowrunner", "testdataflowrunner")
