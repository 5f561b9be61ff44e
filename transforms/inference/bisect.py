"""What fails in a batch of inference: only the items that fail by themselves die."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa

from schemas.runs.run import Run
from schemas.tables.dead_letters import dead_letters

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_or_bisect(
    run: Callable[[Sequence[Item]], Result], items: Sequence[Item]
) -> tuple[list[tuple[int, Result]], list[tuple[int, Exception]]]:
    """Runs a batch; where it fails, halves it until the bad item is alone.

    Args:
      run: does a batch, or raises.
      items: the batch.

    Returns:
      (first item's place, result) of each batch that went well, and (place, error) of
      each item that failed by itself.
    """
    if not items:
        return [], []
    try:
        return [(0, run(items))], []
    except Exception as error:
        if len(items) == 1:
            return [], [(0, error)]
    half = len(items) // 2
    good, bad = run_or_bisect(run, items[:half])
    more_good, more_bad = run_or_bisect(run, items[half:])
    good += [(half + start, result) for start, result in more_good]
    return good, bad + [(half + place, error) for place, error in more_bad]


def inference_failed(
    run: Run, bad: list[tuple[int, Exception]], keys: list[str], images: list[bytes]
) -> pa.Table:
    """Dead letters of the items on which a model failed by themselves."""
    return dead_letters(
        run.name,
        run.run_id,
        "inference_failed",
        [keys[place] for place, _ in bad],
        [f"{type(error).__name__}: {error}" for _, error in bad],
        payloads=[images[place] for place, _ in bad],
    )
