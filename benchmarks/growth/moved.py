"""What the graph of a job moves between its workers, counted in Beam's runner of one machine.

A group is all elements of one key of one GroupByKey: what one worker must take, whatever else is
spread; what waits for it in files counts as if it came along. A side input goes to every worker
whole.
"""

import collections
import contextlib
import dataclasses
import tracemalloc
from collections.abc import Callable, Iterator
from unittest import mock

import apache_beam as beam
from apache_beam.coders.coder_impl import create_InputStream
from apache_beam.runners.portability.fn_api_runner import execution

from transforms.shards.blocks import Spilled


@dataclasses.dataclass
class Moved:
    """Counts of one job.

    Attributes:
      graph_bytes: of the pipeline, as a runner is sent it.
      launcher_bytes: most memory that Python's objects took before it was sent.
      shuffled_bytes: of all elements that went through a GroupByKey.
      largest_element: bytes of the largest of them.
      group_bytes, group_rows: of the largest group.
      side_bytes: of all side inputs.
    """

    graph_bytes: int = 0
    launcher_bytes: int = 0
    shuffled_bytes: int = 0
    largest_element: int = 0
    group_bytes: int = 0
    group_rows: int = 0
    side_bytes: int = 0


class _Group:
    """Bytes and elements of the keys of one GroupByKey."""

    def __init__(self) -> None:
        self.bytes: collections.Counter[bytes] = collections.Counter()
        self.rows: collections.Counter[bytes] = collections.Counter()


def _spilled(value: object) -> int:
    """Bytes that an element stands for, which lie in files."""
    if isinstance(value, Spilled):
        return value.size
    return sum(map(_spilled, value)) if isinstance(value, tuple) else 0


def _appending(moved: Moved):
    """What GroupingBuffer.append does, with counts."""

    def append(buffer, elements_data: bytes) -> None:
        groups = buffer.__dict__.setdefault("_counted", _Group())
        stream = create_InputStream(elements_data)
        coder, key_coder = buffer._pre_grouped_coder.get_impl(), buffer._key_coder.get_impl()
        is_trivial = buffer._windowing.is_default()
        while (left := stream.size()) > 0:
            element = coder.decode_from_stream(stream, True)
            key, value = element.value
            encoded, size = key_coder.encode(key), left - stream.size() + _spilled(value)
            buffer._table[encoded].append(value if is_trivial else element.with_value(value))
            groups.bytes[encoded] += size
            moved.shuffled_bytes += size
            groups.rows[encoded] += 1
            moved.largest_element = max(moved.largest_element, size)
            moved.group_bytes = max(moved.group_bytes, groups.bytes[encoded])
            moved.group_rows = max(moved.group_rows, groups.rows[encoded])

    return append


def _committing(moved: Moved, commit: Callable):
    def counted(context, data_side_input) -> None:
        for buffer_id, _ in data_side_input.values():
            elements = context.pcoll_buffers.get(buffer_id, [])
            moved.side_bytes += sum(len(element) for element in elements)
        commit(context, data_side_input)

    return counted


@contextlib.contextmanager
def counted(sent: Callable[[], None]) -> Iterator[Moved]:
    """Counts what jobs of this process move while it is open.

    Args:
      sent: called when a graph is drawn and no worker has begun.
    """
    moved, run = Moved(), beam.Pipeline.run

    def send(pipeline: beam.Pipeline, *args, **kwargs):
        if tracemalloc.is_tracing():  # Pipeline.run calls itself
            moved.launcher_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            moved.graph_bytes = len(pipeline.to_runner_api().SerializeToString())
            sent()
        return run(pipeline, *args, **kwargs)

    context = execution.FnApiRunnerExecutionContext
    committing = _committing(moved, context.commit_side_inputs_to_state)
    with (
        mock.patch.object(execution.GroupingBuffer, "append", _appending(moved)),
        mock.patch.object(context, "commit_side_inputs_to_state", committing),
        mock.patch.object(beam.Pipeline, "run", send),
    ):
        tracemalloc.start()
        try:
            yield moved
        finally:
            tracemalloc.stop()
