"""Beam's runner of one machine, which can be asked how far it is.

Beam fuses the steps of a graph into stages and runs one after the other; within a stage its
workers tell on demand how many elements they have read, and where their time goes.
"""

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator
from typing import Any

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner

from schemas.console.heartbeat import how_far

_READ = "beam:metric:data_channel:read_index:v1"
_TIME = "beam:metric:pardo_execution_time:process_bundle_msecs:v1"
_PATIENCE = 5.0  # seconds for a worker to answer


@dataclasses.dataclass
class _Stage:
    """The stage that runs now.

    Attributes:
      number, of: its place among the stages.
      manager: Beam's, of its bundle.
      elements: how many it reads, or None.
      start: when it began, by the clock of `time.monotonic`.
      spent: step → milliseconds, as last told.
    """

    number: int
    of: int
    manager: Any
    elements: int | None
    start: float
    spent: dict[str, int] = dataclasses.field(default_factory=dict)


class LocalRunner(fn_runner.FnApiRunner):
    """FnApiRunner with `position`."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: set[str] = set()
        self._now: _Stage | None = None

    def _execute_bundle(self, runner_execution_context, bundle_context_manager, bundle_input):
        self._begun.add(bundle_context_manager.stage.name)
        self._now = _Stage(
            len(self._begun),
            len(runner_execution_context.stages),
            bundle_context_manager,
            _elements(bundle_input),
            time.monotonic(),
        )
        return super()._execute_bundle(
            runner_execution_context, bundle_context_manager, bundle_input
        )

    def position(self) -> str | None:
        """The stage, the step where its time goes, its elements, and how long they will take."""
        run = self._now
        if run is None:
            return None
        text = f"step {run.number} of {run.of}"
        # What Beam tells is no contract: a job goes on without it.
        with contextlib.suppress(Exception):
            read, spent = _told(run.manager)
            more = {step: ms - run.spent.get(step, 0) for step, ms in spent.items()}
            run.spent = spent
            names = run.manager.process_bundle_descriptor.transforms
            busiest = max(more, key=lambda step: more[step], default=next(iter(names)))
            text += f", {_short(names[busiest].unique_name)}"
            if read:
                seconds = time.monotonic() - run.start
                text += f": {how_far(read, run.elements, 'blocks', seconds)}"
        return text


def _short(name: str) -> str:
    """A step's label without the parts that Beam made up for want of a label."""
    return "/".join(part for part in name.split("/") if not re.search(r"[(<]", part)) or name


def _elements(data: Any) -> int | None:
    """How many elements a bundle reads; None where only reading them could tell."""
    tables: list[Any] = [getattr(buffer, "_table", None) for buffer in data.data.values()]
    return None if None in tables else sum(map(len, tables))


def _told(manager: Any) -> tuple[int, dict[str, int]]:
    """What the workers say of the bundle that they run: elements read, and ms of each step."""
    read = 0
    spent: dict[str, int] = {}
    for info in _infos(manager):
        value = info.payload and _varint(info.payload)
        if info.urn == _READ:
            read += max(value, 0)
        elif info.urn == _TIME:
            step = info.labels["PTRANSFORM"]
            spent[step] = spent.get(step, 0) + value
    return read, spent


def _infos(manager: Any) -> Iterator[Any]:
    # Beam numbers the bundles, and deals them out to the workers in turn.
    last, workers = fn_runner.BundleManager._uid_counter, manager.worker_handlers
    for number in range(last, max(last - len(workers), 0), -1):
        request = beam_fn_api_pb2.InstructionRequest(
            process_bundle_progress=beam_fn_api_pb2.ProcessBundleProgressRequest(
                instruction_id=f"bundle_{number}"
            )
        )
        response = workers[number % len(workers)].control_conn.push(request).get(_PATIENCE)
        yield from response.process_bundle_progress.monitoring_infos


def _varint(data: bytes) -> int:
    value = 0
    for place, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * place)
    return value
